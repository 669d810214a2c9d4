"""Update masks: the fields that a PATCH body sets, for requests without an update_mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.errors import FieldError

_FIELD_MASK = "google.protobuf.FieldMask"
# Types whose JSON may be an object of the caller's own names.
_JSON_OBJECTS = frozenset({"google.protobuf.Struct", "google.protobuf.Value"})
# Names in a Struct are the caller's. Each path repeats the names above it, so that long names and many
# paths would make the mask larger than the body by any factor.
_MAX_PATHS, _MAX_PATH_LENGTH = 1000, 1000


def find_mask_field(message_type: Descriptor) -> FieldDescriptor | None:
    """Return the only FieldMask field of *message_type*; None if it has none or several."""
    fields = [
        field
        for field in message_type.fields
        if field.message_type is not None and field.message_type.full_name == _FIELD_MASK
    ]
    return fields[0] if len(fields) == 1 and not fields[0].is_repeated else None


def paths_in_json(message_type: Descriptor, value: Any) -> list[str]:
    """Return the leaf paths of *value*, the parsed JSON of a *message_type*: proto names, sorted.

    Lists, maps and well-known types are leaves; a Struct and a Value are descended into. Unknown names are
    ignored. Raises FieldError above 1000 paths, or for a path of more than 1000 characters.
    """
    paths: set[str] = set()
    for path in _paths(message_type, value, "") if isinstance(value, dict) else ():
        paths.add(path)
        if len(paths) > _MAX_PATHS:
            raise FieldError("", f"sets more than {_MAX_PATHS} fields; send an update_mask")
    return sorted(paths)


def _paths(message_type: Descriptor, value: dict[str, Any], prefix: str) -> Iterator[str]:
    by_json_name = {field.json_name: field for field in message_type.fields}
    for name, item in value.items():
        field = by_json_name.get(name) or message_type.fields_by_name.get(name)
        if field is None:
            continue
        path = prefix + field.name
        inner = None if field.is_repeated else field.message_type
        if not isinstance(item, dict) or not item or inner is None:
            yield path
        elif inner.full_name in _JSON_OBJECTS:
            yield from _struct_paths(item, path + ".")
        elif inner.full_name in field_types.WELL_KNOWN:
            yield path
        else:
            yield from _paths(inner, item, path + ".")


def _struct_paths(value: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, item in value.items():
        if len(prefix) + len(name) > _MAX_PATH_LENGTH:
            raise FieldError(prefix + name, f"has a path of more than {_MAX_PATH_LENGTH} characters")
        if isinstance(item, dict) and item:
            yield from _struct_paths(item, f"{prefix}{name}.")
        else:
            yield prefix + name
