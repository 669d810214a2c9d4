"""Text scalars: one parser for each field type that a path variable or query parameter can set.

Integers are in base 10 only, but ``+5`` and ``05`` are accepted, unlike in JSON; booleans are
accepted in the spellings of Go's strconv.ParseBool.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.codec import structs, well_known
from reelhaul_transcoding.codec.field_types import INT_BOUNDS, WRAPPERS, EnumNumbers
from reelhaul_transcoding.codec.json_scalars import join_names
from reelhaul_transcoding.codec.strict_json import parse_json

#: Converts text to the value of a field. Raises ValueError or FieldError.
TextParser = Callable[[str], Any]

_INT = re.compile(r"[+-]?\d+", re.ASCII)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
# No 64-bit number needs more digits.
_MAX_DIGITS = 40


def text_parser(field: FieldDescriptor, *, case_insensitive_enums: bool = False) -> TextParser | None:
    """Return the parser for values of *field*; None if text cannot express one.

    The value of a message field is a message; only scalar-like well-known types have parsers. See
    EnumNumbers for enums.
    """
    if field.message_type is not None:
        return _message_parser(field.message_type)
    if field.type in INT_BOUNDS:
        return _int_parser(*INT_BOUNDS[field.type])
    if field.enum_type is not None:
        return _enum_parser(field.enum_type, case_insensitive=case_insensitive_enums)
    return _PARSERS[field.type]


def _parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("must be true or false")


def _parse_float32(text: str) -> float:
    return well_known.check_float32(well_known.parse_double(text))


_PARSERS: dict[int, TextParser] = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BYTES: well_known.parse_base64,
    FieldDescriptor.TYPE_BOOL: _parse_bool,
    FieldDescriptor.TYPE_DOUBLE: well_known.parse_double,
    FieldDescriptor.TYPE_FLOAT: _parse_float32,
}


def _int_parser(minimum: int, maximum: int) -> TextParser:
    def parse(text: str) -> int:
        if _INT.fullmatch(text) is None or len(text) > _MAX_DIGITS:
            raise ValueError("must be an integer in base 10")
        value = int(text)
        if not minimum <= value <= maximum:
            raise ValueError(f"must be between {minimum} and {maximum}")
        return value

    return parse


def _enum_parser(enum: EnumDescriptor, *, case_insensitive: bool) -> TextParser:
    numbers = EnumNumbers(enum, case_insensitive=case_insensitive)
    valid_numbers = frozenset(numbers.names.values())

    def parse(text: str) -> int:
        if (number := numbers.find(text)) is not None:
            return number
        if _INT.fullmatch(text) and len(text) <= _MAX_DIGITS and int(text) in valid_numbers:
            return int(text)
        raise ValueError(f"must be one of {join_names(list(numbers.names))}")

    return parse


def _message_parser(message_type: Descriptor) -> TextParser | None:
    message_class = GetMessageClass(message_type)
    name = message_type.full_name
    if name in WRAPPERS:
        parse_value = text_parser(message_type.fields_by_name["value"])
        return None if parse_value is None else lambda text: message_class(value=parse_value(text))
    if name in _SETTERS:
        set_message = _SETTERS[name]

        def parse(text: str) -> Message:
            message = message_class()
            set_message(message, text)
            return message

        return parse
    return None


def _set_timestamp(target: Any, text: str) -> None:
    target.seconds, target.nanos = well_known.parse_timestamp(text)


def _set_duration(target: Any, text: str) -> None:
    target.seconds, target.nanos = well_known.parse_duration(text)


def _set_field_mask(target: Any, text: str) -> None:
    target.paths.extend(well_known.parse_field_mask(text, allow_snake_case=True))


def _set_struct(target: Any, text: str) -> None:
    structs.SETTERS[target.DESCRIPTOR.full_name](target, parse_json(text.encode()))


_SETTERS: dict[str, Callable[[Any, str], None]] = {
    "google.protobuf.Timestamp": _set_timestamp,
    "google.protobuf.Duration": _set_duration,
    "google.protobuf.FieldMask": _set_field_mask,
    "google.protobuf.Struct": _set_struct,
    "google.protobuf.Value": _set_struct,
}
