"""Structs: google.protobuf.Struct, Value and ListValue, which hold any JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reelhaul_transcoding.codec import well_known
from reelhaul_transcoding.errors import FieldFault


def json_of(value: Any) -> Any:
    """The JSON value that a google.protobuf.Value holds."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return struct_json(value.struct_value)
    if kind == "list_value":
        return list_json(value.list_value)
    if kind == "number_value":
        return well_known.double_value(value.number_value)
    return getattr(value, kind) if kind in ("string_value", "bool_value") else None


def struct_json(struct: Any) -> dict[str, Any]:
    """The object that a Struct holds."""
    return {name: json_of(value) for name, value in struct.fields.items()}


def list_json(values: Any) -> list[Any]:
    """The array that a ListValue holds."""
    return [json_of(value) for value in values.values]


def _fill_value(target: Any, value: Any, path: str) -> None:
    if value is None:
        target.null_value = 0
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = _number(value, path)
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, list):
        target.list_value.SetInParent()
        _fill_list(target.list_value, value, path)
    else:
        target.struct_value.SetInParent()
        _fill_struct(target.struct_value, value, path)


def _fill_struct(target: Any, value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise FieldFault(path, "must be an object")
    for name, item in value.items():
        _fill_value(target.fields[name], item, path)


def _fill_list(target: Any, value: Any, path: str) -> None:
    if not isinstance(value, list):
        raise FieldFault(path, "must be an array")
    for item in value:
        _fill_value(target.values.add(), item, path)


def _number(value: float, path: str) -> float:
    try:
        return well_known.finite(float(value))
    except (OverflowError, ValueError) as error:
        raise FieldFault(path, "a number is out of range") from error


#: By full name: fills a message of that type from parsed JSON. Raises FieldFault.
FILL: dict[str, Callable[[Any, Any, str], None]] = {
    "google.protobuf.Struct": _fill_struct,
    "google.protobuf.Value": _fill_value,
    "google.protobuf.ListValue": _fill_list,
}
