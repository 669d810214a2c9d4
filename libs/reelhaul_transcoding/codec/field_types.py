"""Kinds of fields that the codec treats apart."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

#: Bounds of the integer types by their number in FieldDescriptorProto.Type.
INT_BOUNDS: dict[int, tuple[int, int]] = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SFIXED32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_FIXED32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SFIXED64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**64 - 1),
}

#: Integers that JSON writes as strings.
WIDE = frozenset(kind for kind, (_, most) in INT_BOUNDS.items() if most > 2**32)

#: Messages that stand for a scalar with presence.
WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)

NULL_VALUE = "google.protobuf.NullValue"

#: Messages with a JSON form of their own: inside an Any it stands under "value".
WELL_KNOWN = WRAPPERS | {
    f"google.protobuf.{name}"
    for name in ("Any", "Duration", "FieldMask", "ListValue", "Struct", "Timestamp", "Value")
}


def is_map(field: FieldDescriptor) -> bool:
    """Whether *field* is a map."""
    return field.message_type is not None and is_map_entry(field.message_type)


def is_map_entry(kind: Descriptor) -> bool:
    """Whether *kind* is what a map is made of on the wire."""
    return bool(kind.GetOptions().map_entry)


def entry_of(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """Key and value of the map *field*."""
    assert field.message_type is not None
    names = field.message_type.fields_by_name
    return names["key"], names["value"]


def is_value(field: FieldDescriptor) -> bool:
    """Whether *field*, or each of its elements, is a google.protobuf.Value: null is one of them."""
    return field.message_type is not None and bool(field.message_type.full_name == "google.protobuf.Value")
