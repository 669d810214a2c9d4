"""Structs: google.protobuf.Struct, Value and ListValue to and from any JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reelhaul_transcoding.codec import well_known
from reelhaul_transcoding.codec.json_scalars import InvalidValue


def value_to_json(value: Any) -> Any:
    """Return the JSON value of a google.protobuf.Value."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return struct_to_json(value.struct_value)
    if kind == "list_value":
        return list_to_json(value.list_value)
    if kind == "number_value":
        return well_known.double_to_json(value.number_value)
    return getattr(value, kind) if kind in ("string_value", "bool_value") else None


def struct_to_json(struct: Any) -> dict[str, Any]:
    """Return the JSON object of a Struct."""
    return {name: value_to_json(value) for name, value in struct.fields.items()}


def list_to_json(values: Any) -> list[Any]:
    """Return the JSON array of a ListValue."""
    return [value_to_json(value) for value in values.values]


def _set_value(target: Any, value: Any) -> None:
    if value is None:
        target.null_value = 0
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = _check_number(value)
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, list):
        target.list_value.SetInParent()
        _set_list(target.list_value, value)
    else:
        target.struct_value.SetInParent()
        _set_struct(target.struct_value, value)


def _set_struct(target: Any, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidValue("must be an object")
    for name, item in value.items():
        _set_value(target.fields[name], item)


def _set_list(target: Any, value: Any) -> None:
    if not isinstance(value, list):
        raise InvalidValue("must be an array")
    for item in value:
        _set_value(target.values.add(), item)


def _check_number(value: float) -> float:
    try:
        return well_known.check_finite(float(value))
    except (OverflowError, ValueError) as error:
        raise InvalidValue("has a number that is out of range") from error


#: By full name: sets a message of that type from parsed JSON. Raises ValueError.
SETTERS: dict[str, Callable[[Any, Any], None]] = {
    "google.protobuf.Struct": _set_struct,
    "google.protobuf.Value": _set_value,
    "google.protobuf.ListValue": _set_list,
}
