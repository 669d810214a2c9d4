"""JSON scalars: one parser for each scalar field type, for parsed JSON values.

All parsers raise InvalidValue, or another ValueError, with a message that may be shown to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from reelhaul_transcoding.codec import field_types, well_known

#: Converts a parsed JSON value to the value of a field. Raises ValueError.
JsonParser = Callable[[Any], Any]


class InvalidValue(ValueError):
    """A field does not accept a value; *path* leads from the message to the value inside it."""

    def __init__(self, description: str, path: str = "") -> None:
        super().__init__(description)
        self.path = path


_INT = re.compile(r"-?(?:0|[1-9]\d{0,30})", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,30})(?:\.\d{1,30})?(?:[eE][+-]?\d{1,5})?", re.ASCII)
_MAX_LISTED_NAMES = 20
# What orjson makes of every integer somewhat below the minimum of an int64.
_INEXACT_MINIMUM = -(2.0**63)


def scalar_parser(field: FieldDescriptor, *, case_insensitive_enums: bool = False) -> JsonParser:
    """Return the parser for values of *field*, or for its elements; see EnumNumbers for enums."""
    if field.type in field_types.INT_BOUNDS:
        return _int_parser(*field_types.INT_BOUNDS[field.type])
    if field.enum_type is not None:
        return _enum_parser(field.enum_type, case_insensitive=case_insensitive_enums)
    return _PARSERS[field.type]


def map_key_parser(field: FieldDescriptor) -> JsonParser:
    """Return the parser for names of a JSON object that are keys of a map with the key *field*."""
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _parse_bool_key
    return scalar_parser(field)


def parse_string(value: Any) -> str:
    """Return *value* if it is a string. Raises ValueError."""
    if type(value) is str:
        return value
    raise InvalidValue("must be a string")


def join_names(names: list[str]) -> str:
    """Return *names* for an error message, at most 20 of them."""
    return ", ".join(names[:_MAX_LISTED_NAMES]) + (", …" if len(names) > _MAX_LISTED_NAMES else "")


def _int_parser(minimum: int, maximum: int) -> JsonParser:
    def parse(value: Any) -> int:
        if type(value) is not int:
            is_int = type(value) is str and _INT.fullmatch(value) is not None
            value = int(value) if is_int else _parse_integer(value)
        if minimum <= value <= maximum:
            return int(value)
        raise InvalidValue(f"must be between {minimum} and {maximum}")

    return parse


def _parse_integer(value: Any) -> int:
    """Return the integer of a number with a fraction of zero or an exponent, also in a string."""
    if type(value) is str and _NUMBER.fullmatch(value) is not None:
        value = float(value)
    if type(value) is not float or not value.is_integer():
        raise InvalidValue("must be an integer")
    if value == _INEXACT_MINIMUM:
        raise InvalidValue(
            f"must be between {int(value)} and {-int(value) - 1}, without fraction or exponent"
        )
    return int(value)


def _enum_parser(enum: EnumDescriptor, *, case_insensitive: bool) -> JsonParser:
    numbers = field_types.EnumNumbers(enum, case_insensitive=case_insensitive)
    nullable = enum.full_name == field_types.NULL_VALUE

    def parse(value: Any) -> int:
        if type(value) is str and (number := numbers.find(value)) is not None:
            return number
        # Enums are open: the upstream may know a number that has no name here.
        if type(value) is int and -(2**31) <= value < 2**31:
            return int(value)
        if value is None and nullable:
            return 0
        raise InvalidValue(f"must be one of {join_names(list(numbers.names))}")

    return parse


def _parse_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidValue("must be true or false")


def _parse_bool_key(value: Any) -> bool:
    if value not in ("true", "false"):
        raise InvalidValue("must have the keys true and false only")
    return bool(value == "true")


def _parse_bytes(value: Any) -> bytes:
    return well_known.parse_base64(parse_string(value))


def _parse_double(value: Any) -> float:
    if isinstance(value, str):
        return well_known.parse_double(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidValue("must be a number")
    try:
        return well_known.check_finite(float(value))
    except OverflowError as error:
        raise InvalidValue("is out of range") from error


def _parse_float32(value: Any) -> float:
    return well_known.check_float32(_parse_double(value))


_PARSERS: dict[int, JsonParser] = {
    FieldDescriptor.TYPE_STRING: parse_string,
    FieldDescriptor.TYPE_BYTES: _parse_bytes,
    FieldDescriptor.TYPE_BOOL: _parse_bool,
    FieldDescriptor.TYPE_DOUBLE: _parse_double,
    FieldDescriptor.TYPE_FLOAT: _parse_float32,
}
