"""Field types that proto3 JSON treats specially."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor

#: Bounds of the integer types by FieldDescriptorProto.Type.
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

#: 64-bit integer types: JSON strings.
INT64_TYPES = frozenset(type_ for type_, (_, maximum) in INT_BOUNDS.items() if maximum > 2**32)

#: Wrapper messages: scalars with presence.
WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)

NULL_VALUE = "google.protobuf.NullValue"

#: Messages with a special JSON form; inside an Any it is under "value".
WELL_KNOWN = WRAPPERS | {
    f"google.protobuf.{name}"
    for name in ("Any", "Duration", "FieldMask", "ListValue", "Struct", "Timestamp", "Value")
}


def is_map(field: FieldDescriptor) -> bool:
    """Return whether *field* is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def map_entry_fields(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """Return the key field and the value field of the map *field*."""
    assert field.message_type is not None
    fields = field.message_type.fields_by_name
    return fields["key"], fields["value"]


def is_json_value(field: FieldDescriptor) -> bool:
    """Return whether *field* or its elements are google.protobuf.Value, for which null is a value."""
    return field.message_type is not None and bool(field.message_type.full_name == "google.protobuf.Value")
