"""Puts: parsed JSON into one field of a message, by the field's cardinality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.codec.json_scalars import Reader
from reelhaul_transcoding.errors import FieldFault

#: Fills a message from a parsed value; the path is that of the message. Raises FieldFault.
Fill = Callable[[Any, Any, str], None]


def put_scalar(name: str, read: Reader) -> Fill:
    """Sets one scalar."""

    def put(message: Any, value: Any, path: str) -> None:
        setattr(message, name, read(value, path))

    return put


def put_scalars(name: str, read: Reader) -> Fill:
    """Adds the scalars of an array."""

    def put(message: Any, value: Any, path: str) -> None:
        items = _array(value, path)
        getattr(message, name).extend([read(item, f"{path}[{at}]") for at, item in enumerate(items)])

    return put


def put_message(name: str, fill: Fill) -> Fill:
    """Fills one message."""

    def put(message: Any, value: Any, path: str) -> None:
        inner = getattr(message, name)
        inner.SetInParent()
        fill(inner, value, path)

    return put


def put_messages(field: FieldDescriptor, fill: Fill) -> Fill:
    """Adds the messages of an array."""
    name = field.name
    null = field_types.is_value(field)

    def put(message: Any, value: Any, path: str) -> None:
        target = getattr(message, name)
        for at, item in enumerate(_array(value, path)):
            if item is None and not null:
                raise FieldFault(f"{path}[{at}]", "must not be null")
            fill(target.add(), item, f"{path}[{at}]")

    return put


def put_map(name: str, key_of: Reader, read: Reader) -> Fill:
    """Adds the scalars of an object."""

    def put(message: Any, value: Any, path: str) -> None:
        target = getattr(message, name)
        for key, item in _pairs(value, path):
            target[key_of(key, path)] = read(item, f"{path}[{key}]")

    return put


def put_message_map(name: str, key_of: Reader, fill: Fill, field: FieldDescriptor) -> Fill:
    """Adds the messages of an object."""
    null = field_types.is_value(field)

    def put(message: Any, value: Any, path: str) -> None:
        target = getattr(message, name)
        for key, item in _pairs(value, path):
            if item is None and not null:
                raise FieldFault(f"{path}[{key}]", "must not be null")
            # Reading makes the entry.
            fill(target[key_of(key, path)], item, f"{path}[{key}]")

    return put


def _array(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise FieldFault(path, "must be an array")
    return value


def _pairs(value: Any, path: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise FieldFault(path, "must be an object")
    return [(key, item) for key, item in value.items()]
