"""Masks: what a PATCH body changes, where its caller did not say it in an update_mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from reelhaul_transcoding.codec import field_types

_MASK = "google.protobuf.FieldMask"


def mask_field(kind: Descriptor) -> FieldDescriptor | None:
    """The one FieldMask of a request of *kind*; None where there are none or several."""
    found = [f for f in kind.fields if f.message_type is not None and f.message_type.full_name == _MASK]
    return found[0] if len(found) == 1 and not found[0].is_repeated else None


def paths_of(kind: Descriptor, value: Any) -> list[str]:
    """The leaf paths of *value*, parsed JSON of a *kind*, in proto names and sorted.

    Lists, maps and well-known types end the descent; a Struct is followed. Names that the
    message does not have are left out.
    """
    return sorted(set(_paths(kind, value, ""))) if isinstance(value, dict) else []


def _paths(kind: Descriptor, value: dict[str, Any], prefix: str) -> Iterator[str]:
    by_json_name = {field.json_name: field for field in kind.fields}
    for name, item in value.items():
        field = by_json_name.get(name) or kind.fields_by_name.get(name)
        if field is None:
            continue
        path = prefix + field.name
        inner = None if field.is_repeated else field.message_type
        if not isinstance(item, dict) or not item or inner is None:
            yield path
        elif inner.full_name == "google.protobuf.Struct":
            yield from _struct_paths(item, path + ".")
        elif inner.full_name in field_types.WELL_KNOWN:
            yield path
        else:
            yield from _paths(inner, item, path + ".")


def _struct_paths(value: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, item in value.items():
        if isinstance(item, dict) and item:
            yield from _struct_paths(item, f"{prefix}{name}.")
        else:
            yield prefix + name
