"""Hypothesis strategies for random messages of any type."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf import any_pb2, duration_pb2, field_mask_pb2, json_format, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from reelhaul_transcoding.codec.field_types import INT_BOUNDS, NULL_VALUE, is_map, map_entry_fields

Draw = Callable[[st.SearchStrategy[Any]], Any]

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# json_format accepts a narrower range than the type.
_SECONDS = st.integers(-62_135_596_800, 253_402_300_799)
_NANOS = st.integers(0, 999_999_999)
_MAX_DURATION_SECONDS = 315_576_000_000
_MAX_FLOAT32 = 3.4028234663852886e38


@cache
def messages(message_type: Descriptor, depth: int = 3, *, packs: bool = False) -> st.SearchStrategy[Any]:
    """Return a strategy for messages of *message_type*, at most *depth* deep.

    An Any is empty, unless it *packs* a message.
    """
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
    if name == "google.protobuf.Any":
        if not packs or not depth:
            return st.just(message_class())
        return st.one_of([messages(packed, depth - 1, packs=True) for packed in _PACKED]).map(_pack)
    return _composed(message_type, depth, packs) if message_type.fields else st.just(message_class())


@st.composite
def _composed(draw: Draw, message_type: Descriptor, depth: int, packs: bool) -> Any:
    fields = draw(st.lists(st.sampled_from(list(message_type.fields)), max_size=6, unique_by=_oneof_or_name))
    values = {field.name: draw(_values(field, depth, packs)) for field in fields}
    message = GetMessageClass(message_type)(**{name: v for name, v in values.items() if v is not None})
    for field in fields:
        # A map of messages takes no values in its constructor.
        if is_map(field) and map_entry_fields(field)[1].message_type is not None and depth:
            key, value = map_entry_fields(field)
            for item_key in draw(st.lists(_scalars(key), max_size=2, unique=True)):
                item = draw(messages(value.message_type, depth - 1, packs=packs))
                getattr(message, field.name)[item_key].CopyFrom(item)
    return message


def _oneof_or_name(field: FieldDescriptor) -> str:
    """Return a key that is equal for the fields of one oneof, since they exclude each other."""
    return field.containing_oneof.name if field.containing_oneof else field.name


@cache
def _values(field: FieldDescriptor, depth: int, packs: bool) -> st.SearchStrategy[Any]:
    if is_map(field):
        key, value = map_entry_fields(field)
        if value.message_type is not None:
            return st.none()
        return st.dictionaries(_scalars(key), _scalars(value), max_size=3)
    if field.message_type is not None and depth == 0:
        return st.none()
    if field.message_type is not None:
        items = messages(field.message_type, depth - 1, packs=packs)
    else:
        items = _scalars(field)
    return st.lists(items, max_size=3) if field.is_repeated else items


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type in INT_BOUNDS:
        return st.integers(*INT_BOUNDS[field.type])
    if field.enum_type is not None:
        numbers = list(field.enum_type.values_by_number)
        return st.sampled_from(numbers if field.enum_type.full_name == NULL_VALUE else [*numbers, 99, -1])
    return _SCALARS[field.type]


def _one_nan(value: float) -> float:
    """Return *value*; NaN has many forms in binary, and one in JSON."""
    return math.nan if math.isnan(value) else value


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: (st.floats() | st.integers(-(2**60), 2**60).map(float)).map(_one_nan),
    # json_format does not read the largest float, 3.4028235e+38.
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32).filter(lambda x: abs(x) != _MAX_FLOAT32).map(_one_nan),
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
# With maps, the bytes in an Any would not be the same each time.
_PACKED = [
    any_pb2.Any.DESCRIPTOR,
    duration_pb2.Duration.DESCRIPTOR,
    field_mask_pb2.FieldMask.DESCRIPTOR,
    timestamp_pb2.Timestamp.DESCRIPTOR,
    wrappers_pb2.FloatValue.DESCRIPTOR,
    wrappers_pb2.StringValue.DESCRIPTOR,
]


def _pack(message: Any) -> Any:
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def _duration(message_class: Any, seconds: int, nanos: int) -> Any:
    if abs(seconds) == _MAX_DURATION_SECONDS:
        nanos = 0
    return message_class(seconds=seconds, nanos=-nanos if seconds < 0 else nanos)
