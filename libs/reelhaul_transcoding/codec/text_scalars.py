"""Scalars: what one text of a path or a query says for a field.

Stricter and wider than JSON: base 10 only, yet ``+5`` and ``05``; booleans as in Go.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf import message
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.codec import structs, well_known
from reelhaul_transcoding.codec.field_types import INT_BOUNDS, WRAPPERS
from reelhaul_transcoding.codec.strict_json import value_of

#: Reads a text as a field's value. Raises ValueError.
Reader = Callable[[str], Any]

_INT = re.compile(r"[+-]?\d+", re.ASCII)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
# The longest that any number of 64 bits may reasonably be written with.
_MAX_DIGITS = 40


def reader_of(field: FieldDescriptor) -> Reader | None:
    """How one text becomes a value of *field*; None where no text can.

    A message's value is a message: of the scalar-like well-known types only.
    """
    if field.message_type is not None:
        return _message_reader(field.message_type)
    if field.type in INT_BOUNDS:
        return _int_reader(*INT_BOUNDS[field.type])
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    return _PLAIN[field.type]


def _bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("must be true or false")


def _single(text: str) -> float:
    return well_known.single(well_known.double_of(text))


_PLAIN: dict[int, Reader] = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BYTES: well_known.bytes_of,
    FieldDescriptor.TYPE_BOOL: _bool,
    FieldDescriptor.TYPE_DOUBLE: well_known.double_of,
    FieldDescriptor.TYPE_FLOAT: _single,
}


def _int_reader(least: int, most: int) -> Reader:
    def read(text: str) -> int:
        if _INT.fullmatch(text) is None or len(text) > _MAX_DIGITS:
            raise ValueError("must be a whole number in base 10")
        value = int(text)
        if not least <= value <= most:
            raise ValueError(f"must be {least} to {most}")
        return value

    return read


def _enum_reader(enum: EnumDescriptor) -> Reader:
    names = {value.name: value.number for value in enum.values}
    numbers = frozenset(names.values())

    def read(text: str) -> int:
        if (number := names.get(text)) is not None:
            return number
        if _INT.fullmatch(text) and len(text) <= _MAX_DIGITS and int(text) in numbers:
            return int(text)
        raise ValueError(f"must be one of {_listed(list(names))}")

    return read


def _listed(words: list[str]) -> str:
    return ", ".join(words[:20]) + (", …" if len(words) > 20 else "")


def _message_reader(kind: Descriptor) -> Reader | None:
    make = GetMessageClass(kind)
    name = kind.full_name
    if name in WRAPPERS:
        inner = reader_of(kind.fields_by_name["value"])
        return None if inner is None else lambda text: make(value=inner(text))
    if name in _MESSAGES:
        fill = _MESSAGES[name]

        def read(text: str) -> message.Message:
            made = make()
            fill(made, text)
            return made

        return read
    return None


def _fill_timestamp(target: Any, text: str) -> None:
    target.seconds, target.nanos = well_known.timestamp_of(text)


def _fill_duration(target: Any, text: str) -> None:
    target.seconds, target.nanos = well_known.duration_of(text)


def _fill_mask(target: Any, text: str) -> None:
    target.paths.extend(well_known.mask_of(text, snake=True))


def _fill_json(target: Any, text: str) -> None:
    structs.FILL[target.DESCRIPTOR.full_name](target, value_of(text.encode()), "")


_MESSAGES: dict[str, Callable[[Any, str], None]] = {
    "google.protobuf.Timestamp": _fill_timestamp,
    "google.protobuf.Duration": _fill_duration,
    "google.protobuf.FieldMask": _fill_mask,
    "google.protobuf.Struct": _fill_json,
    "google.protobuf.Value": _fill_json,
}
