"""JSON scalars: one parser for each scalar field type, for parsed JSON values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from reelhaul_transcoding.codec import field_types, well_known
from reelhaul_transcoding.errors import FieldError

#: Converts a parsed JSON value to the value of a field; the path names the field. Raises FieldError.
JsonParser = Callable[[Any, str], Any]

_INT = re.compile(r"-?(?:0|[1-9]\d{0,30})", re.ASCII)
_MAX_LISTED_NAMES = 20


def scalar_parser(field: FieldDescriptor) -> JsonParser:
    """Return the parser for values of *field*, or for its elements."""
    if field.type in field_types.INT_BOUNDS:
        return _int_parser(*field_types.INT_BOUNDS[field.type])
    if field.enum_type is not None:
        return _enum_parser(field.enum_type)
    return _PARSERS[field.type]


def map_key_parser(field: FieldDescriptor) -> JsonParser:
    """Return the parser for names of a JSON object that are keys of a map with the key *field*."""
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _parse_bool_key
    return scalar_parser(field)


def parse_string(value: Any, path: str) -> str:
    """Return *value* if it is a string. Raises FieldError."""
    if not isinstance(value, str):
        raise FieldError(path, "must be a string")
    return value


def join_names(names: list[str]) -> str:
    """Return *names* for an error message, at most 20 of them."""
    return ", ".join(names[:_MAX_LISTED_NAMES]) + (", …" if len(names) > _MAX_LISTED_NAMES else "")


def _int_parser(minimum: int, maximum: int) -> JsonParser:
    def parse(value: Any, path: str) -> int:
        is_int_string = isinstance(value, str) and _INT.fullmatch(value) is not None
        if is_int_string or (isinstance(value, float) and value.is_integer()):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise FieldError(path, "must be an integer")
        if not minimum <= value <= maximum:
            raise FieldError(path, f"must be between {minimum} and {maximum}")
        return value

    return parse


def _enum_parser(enum: EnumDescriptor) -> JsonParser:
    numbers = {value.name: value.number for value in enum.values}
    nullable = enum.full_name == field_types.NULL_VALUE

    def parse(value: Any, path: str) -> int:
        if value is None and nullable:
            return 0
        if isinstance(value, str) and value in numbers:
            return numbers[value]
        # Enums are open: the upstream may know a number that has no name here.
        if isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31:
            return value
        raise FieldError(path, f"must be one of {join_names(list(numbers))}")

    return parse


def _parse_bool(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise FieldError(path, "must be true or false")
    return value


def _parse_bool_key(value: Any, path: str) -> bool:
    if value not in ("true", "false"):
        raise FieldError(path, "must have the keys true and false only")
    return bool(value == "true")


def _parse_bytes(value: Any, path: str) -> bytes:
    try:
        return well_known.parse_base64(parse_string(value, path))
    except ValueError as error:
        raise FieldError(path, str(error)) from error


def _parse_double(value: Any, path: str) -> float:
    try:
        if isinstance(value, str):
            return well_known.parse_double(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return well_known.check_finite(float(value))
    except OverflowError as error:
        raise FieldError(path, "is out of range") from error
    except ValueError as error:
        raise FieldError(path, str(error)) from error
    raise FieldError(path, "must be a number")


def _parse_float32(value: Any, path: str) -> float:
    try:
        return well_known.check_float32(_parse_double(value, path))
    except ValueError as error:
        raise FieldError(path, str(error)) from error


_PARSERS: dict[int, JsonParser] = {
    FieldDescriptor.TYPE_STRING: parse_string,
    FieldDescriptor.TYPE_BYTES: _parse_bytes,
    FieldDescriptor.TYPE_BOOL: _parse_bool,
    FieldDescriptor.TYPE_DOUBLE: _parse_double,
    FieldDescriptor.TYPE_FLOAT: _parse_float32,
}
