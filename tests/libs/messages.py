"""Random messages of any type, for hypothesis."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from reelhaul_transcoding.codec.field_types import INT_BOUNDS, is_map

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# The range that json_format takes is narrower than the type's.
_SECONDS = st.integers(-62_135_596_800, 253_402_300_799)


def messages(kind: Descriptor, depth: int = 3) -> st.SearchStrategy[Any]:
    """Messages of *kind*, at most *depth* deep."""
    make = GetMessageClass(kind)
    name = kind.full_name
    if name == "google.protobuf.Timestamp":
        return st.builds(make, seconds=_SECONDS, nanos=st.integers(0, 999_999_999))
    if name == "google.protobuf.Duration":
        return st.builds(_duration, st.just(make), st.integers(-315_576_000_000, 315_576_000_000), _NANOS)
    if name == "google.protobuf.FieldMask":
        paths = st.lists(
            st.from_regex(r"[a-z]{1,4}(_[a-z]{1,4})?(\.[a-z]{1,3})?", fullmatch=True), max_size=3
        )
        return st.builds(make, paths=paths)
    if name in ("google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"):
        return _JSON[name].map(lambda value: _filled(make, value))
    if name == "google.protobuf.Any":
        return st.just(make())
    return st.lists(st.sampled_from(list(kind.fields)), max_size=6, unique_by=_slot).flatmap(
        lambda fields: st.tuples(*(_value(field, depth) for field in fields)).map(
            lambda values: make(**{f.name: v for f, v in zip(fields, values, strict=True) if v is not None})
        )
    )


def _slot(field: FieldDescriptor) -> str:
    """Fields of one oneof exclude each other."""
    return field.containing_oneof.name if field.containing_oneof else field.name


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if is_map(field):
        assert field.message_type is not None
        key, value = (field.message_type.fields_by_name[part] for part in ("key", "value"))
        if value.message_type is not None:
            return st.none()
        return st.dictionaries(_scalar(key), _scalar(value), max_size=3)
    if field.message_type is not None and depth == 0:
        return st.none()
    one = messages(field.message_type, depth - 1) if field.message_type is not None else _scalar(field)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type in INT_BOUNDS:
        return st.integers(*INT_BOUNDS[field.type])
    if field.enum_type is not None:
        return st.sampled_from([*field.enum_type.values_by_number, 99])
    return _SCALARS[field.type]


_NANOS = st.integers(0, 999_999_999)
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


def _duration(make: Any, seconds: int, nanos: int) -> Any:
    within = 0 if abs(seconds) == 315_576_000_000 else nanos
    return make(seconds=seconds, nanos=-within if seconds < 0 else within)


def _filled(make: Any, value: Any) -> Any:
    from google.protobuf import json_format

    return json_format.ParseDict(value, make())
