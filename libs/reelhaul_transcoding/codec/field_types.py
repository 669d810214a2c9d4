"""Field types that proto3 JSON treats specially."""

from __future__ import annotations

import re

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

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


# Longer than the names of enums are: longer text of a caller is not compared.
_MAX_ENUM_WORD_LENGTH = 100


class EnumNumbers:
    """The numbers of *enum* by name.

    With *case_insensitive* also by words as people write them: in any case, with ``-`` for ``_``, and
    without the prefix that repeats the enum's name, e.g. ``admin`` for ``PERMISSION_LEVEL_ADMIN``.
    """

    def __init__(self, enum: EnumDescriptor, *, case_insensitive: bool = False) -> None:
        self.names = {value.name: value.number for value in enum.values}
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
        self._words: dict[str, int] = {}
        if case_insensitive:
            short = {name.upper().removeprefix(prefix): number for name, number in self.names.items()}
            self._words = short | {name.upper(): number for name, number in self.names.items()}

    def find(self, text: str) -> int | None:
        """Return the number of the value that *text* names; None if it names none."""
        number = self.names.get(text)
        if number is None and self._words and len(text) <= _MAX_ENUM_WORD_LENGTH:
            number = self._words.get(text.upper().replace("-", "_"))
        return number


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
