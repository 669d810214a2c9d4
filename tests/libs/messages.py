"""Hypothesis strategies for random messages of any type."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from reelhaul_transcoding.codec.field_types import INT_BOUNDS, is_map

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# json_format accepts a narrower range than the type.
_SECONDS = st.integers(-62_135_596_800, 253_402_300_799)
_NANOS = st.integers(0, 999_999_999)
_MAX_DURATION_SECONDS = 315_576_000_000


def messages(message_type: Descriptor, depth: int = 3) -> st.SearchStrategy[Any]:
    """Return a strategy for messages of *message_type*, at most *depth* deep."""
    message_class = GetMessageClass(message_type)
    name = message_type.full_name
    if name == "google.protobuf.Timestamp":
        return st.builds(message_class, seconds=_SECONDS, nanos=_NANOS)
    if name == "google.protobuf.Duration":
        seconds = st.integers(-_MAX_DURATION_SECONDS, _MAX_DURATION_SECONDS)
        return st.builds(_duration, st.just(message_class), seconds, _NANOS)
    if name == "google.protobuf.FieldMask":
        path = st.from_regex(r"[a-z]{1,4}(_[a-z]{1,4})?(\.[a-z]{1,3})?", fullmatch=True)
        return st.builds(message_class, paths=st.lists(path, max_size=3))
    if name in _JSON:
        return _JSON[name].map(lambda value: json_format.ParseDict(value, message_class()))
    if name == "google.protobuf.Any" or not message_type.fields:
        return st.just(message_class())
    return st.lists(st.sampled_from(list(message_type.fields)), max_size=6, unique_by=_oneof_or_name).flatmap(
        lambda fields: st.tuples(*(_values(field, depth) for field in fields)).map(
            lambda values: message_class(
                **{f.name: v for f, v in zip(fields, values, strict=True) if v is not None}
            )
        )
    )


def _oneof_or_name(field: FieldDescriptor) -> str:
    """Return a key that is equal for the fields of one oneof, since they exclude each other."""
    return field.containing_oneof.name if field.containing_oneof else field.name


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if is_map(field):
        assert field.message_type is not None
        key, value = (field.message_type.fields_by_name[part] for part in ("key", "value"))
        if value.message_type is not None:
            return st.none()
        return st.dictionaries(_scalars(key), _scalars(value), max_size=3)
    if field.message_type is not None and depth == 0:
        return st.none()
    items = messages(field.message_type, depth - 1) if field.message_type is not None else _scalars(field)
    return st.lists(items, max_size=3) if field.is_repeated else items


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type in INT_BOUNDS:
        return st.integers(*INT_BOUNDS[field.type])
    if field.enum_type is not None:
        return st.sampled_from([*field.enum_type.values_by_number, 99])
    return _SCALARS[field.type]


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats() | st.integers(-(2**60), 2**60).map(float),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
}
_LEAF = st.none() | st.booleans() | _TEXT | st.floats(allow_nan=False, allow_infinity=False)
_ANY_JSON = st.recursive(
    _LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3), max_leaves=6
)
_JSON: dict[str, st.SearchStrategy[Any]] = {
    "google.protobuf.Value": _ANY_JSON,
    "google.protobuf.Struct": st.dictionaries(_TEXT, _ANY_JSON, max_size=3),
    "google.protobuf.ListValue": st.lists(_ANY_JSON, max_size=3),
}


def _duration(message_class: Any, seconds: int, nanos: int) -> Any:
    if abs(seconds) == _MAX_DURATION_SECONDS:
        nanos = 0
    return message_class(seconds=seconds, nanos=-nanos if seconds < 0 else nanos)
