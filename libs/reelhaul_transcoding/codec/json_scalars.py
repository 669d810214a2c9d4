"""Read: JSON values of scalar fields, one reader for each kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from reelhaul_transcoding.codec import field_types, well_known
from reelhaul_transcoding.errors import FieldFault

#: Reads a parsed JSON value; the path is that of the field. Raises FieldFault.
Reader = Callable[[Any, str], Any]

_INT = re.compile(r"-?(?:0|[1-9]\d{0,30})", re.ASCII)


def scalar_reader(field: FieldDescriptor) -> Reader:
    """How a value of *field*, or one of its elements, is read."""
    if field.type in field_types.INT_BOUNDS:
        return _int_reader(*field_types.INT_BOUNDS[field.type])
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    return _READERS[field.type]


def key_reader(field: FieldDescriptor) -> Reader:
    """How the name in an object is read as the key of a map."""
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _bool_key
    return scalar_reader(field)


def _int_reader(least: int, most: int) -> Reader:
    def read(value: Any, path: str) -> int:
        written = isinstance(value, str) and _INT.fullmatch(value) is not None
        if written or (isinstance(value, float) and value.is_integer()):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise FieldFault(path, "must be a whole number")
        if not least <= value <= most:
            raise FieldFault(path, f"must be {least} to {most}")
        return value

    return read


def _enum_reader(enum: EnumDescriptor) -> Reader:
    names = {value.name: value.number for value in enum.values}
    nullable = enum.full_name == field_types.NULL_VALUE

    def read(value: Any, path: str) -> int:
        if value is None and nullable:
            return 0
        if isinstance(value, str) and value in names:
            return names[value]
        # Enums are open: a number that has no name here may have one at the upstream.
        if isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31:
            return value
        listed = ", ".join(list(names)[:20]) + (", …" if len(names) > 20 else "")
        raise FieldFault(path, f"must be one of {listed}")

    return read


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise FieldFault(path, "must be a string")
    return value


def _bool(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise FieldFault(path, "must be true or false")
    return value


def _bool_key(value: Any, path: str) -> bool:
    if value not in ("true", "false"):
        raise FieldFault(path, "must have true and false for names")
    return bool(value == "true")


def _bytes(value: Any, path: str) -> bytes:
    try:
        return well_known.bytes_of(_string(value, path))
    except ValueError as error:
        raise FieldFault(path, str(error)) from error


def _double(value: Any, path: str) -> float:
    try:
        if isinstance(value, str):
            return well_known.double_of(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return well_known.finite(float(value))
    except (ValueError, OverflowError) as error:
        raise FieldFault(path, str(error) if isinstance(error, ValueError) else "is out of range") from error
    raise FieldFault(path, "must be a number")


def _single(value: Any, path: str) -> float:
    try:
        return well_known.single(_double(value, path))
    except ValueError as error:
        raise FieldFault(path, str(error)) from error


_READERS: dict[int, Reader] = {
    FieldDescriptor.TYPE_STRING: _string,
    FieldDescriptor.TYPE_BYTES: _bytes,
    FieldDescriptor.TYPE_BOOL: _bool,
    FieldDescriptor.TYPE_DOUBLE: _double,
    FieldDescriptor.TYPE_FLOAT: _single,
}
