"""Decode: JSON to messages, by closures that are compiled once for each message type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.codec import field_types, setters, structs, well_known
from reelhaul_transcoding.codec.json_scalars import Reader, key_reader, scalar_reader
from reelhaul_transcoding.codec.setters import Fill
from reelhaul_transcoding.errors import FieldFault


@dataclass(frozen=True, slots=True)
class _Entry:
    field: str
    put: Fill
    oneof: str
    takes_null: bool


class Decoder:
    """Reads proto3 JSON into messages; names are taken as ``json_name`` and as in the proto.

    With *unknown_fields* a name that the message does not have is passed over, else it is
    refused.
    """

    def __init__(
        self, *, unknown_fields: bool = False, pool: descriptor_pool.DescriptorPool | None = None
    ) -> None:
        self._unknown_fields = unknown_fields
        self._pool = pool or descriptor_pool.Default()
        self._compiled: dict[str, Fill] = {}
        self._well_known: dict[str, Fill] = {
            "google.protobuf.Any": self._any,
            "google.protobuf.Duration": _duration,
            "google.protobuf.FieldMask": _mask,
            "google.protobuf.Timestamp": _timestamp,
            **structs.FILL,
        }

    def of(self, kind: Descriptor) -> Fill:
        """How a message of *kind* is filled."""
        if kind.full_name not in self._compiled:
            self._compile(kind)
        return self._compiled[kind.full_name]

    def field(self, field: FieldDescriptor) -> Fill:
        """How one *field* of a message is set, null meaning not at all: for a ``body`` that is a field."""
        put, takes_null = self._put(field), _takes_null(field)

        def fill(message: Any, value: Any, path: str) -> None:
            if value is not None or takes_null:
                put(message, value, path)

        return fill

    def _compile(self, kind: Descriptor) -> None:
        if kind.full_name in field_types.WRAPPERS:
            self._compiled[kind.full_name] = _wrapper(scalar_reader(kind.fields_by_name["value"]))
        elif kind.full_name in self._well_known:
            self._compiled[kind.full_name] = self._well_known[kind.full_name]
        else:
            entries: dict[str, _Entry] = {}
            # Known before its fields are: messages may hold themselves.
            self._compiled[kind.full_name] = self._object(entries)
            for field in kind.fields:
                oneof = field.containing_oneof.name if field.containing_oneof is not None else ""
                entry = _Entry(field.name, self._put(field), oneof, _takes_null(field))
                entries[field.json_name] = entries[field.name] = entry

    def _object(self, entries: dict[str, _Entry]) -> Fill:
        refuses = not self._unknown_fields

        def fill(message: Any, value: Any, path: str) -> None:
            if not isinstance(value, dict):
                raise FieldFault(path, "must be an object")
            seen: set[str] = set()
            for name, item in value.items():
                entry = entries.get(name)
                place = entry.field if entry is not None else name[:200]
                place = f"{path}.{place}" if path else place
                if entry is None:
                    if refuses:
                        raise FieldFault(place, "there is no such field")
                    continue
                _note(seen, entry.field, place)
                if item is None and not entry.takes_null:
                    continue
                if entry.oneof:
                    _note(seen, "oneof " + entry.oneof, place)
                entry.put(message, item, place)

        return fill

    def _put(self, field: FieldDescriptor) -> Fill:
        if field_types.is_map(field):
            key, value = field_types.entry_of(field)
            if value.message_type is not None:
                return setters.put_message_map(
                    field.name, key_reader(key), self.of(value.message_type), value
                )
            return setters.put_map(field.name, key_reader(key), scalar_reader(value))
        if field.message_type is not None:
            fill = self.of(field.message_type)
            return (
                setters.put_messages(field, fill)
                if field.is_repeated
                else setters.put_message(field.name, fill)
            )
        read = scalar_reader(field)
        return (
            setters.put_scalars(field.name, read)
            if field.is_repeated
            else setters.put_scalar(field.name, read)
        )

    def _any(self, message: Any, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise FieldFault(path, "must be an object")
        if not value:
            return
        url = value.get("@type")
        if not isinstance(url, str):
            raise FieldFault(path, "must name its type in @type")
        try:
            kind = self._pool.FindMessageTypeByName(url.rpartition("/")[2])
        except KeyError as error:
            raise FieldFault(path, "names a type in @type that is not known here") from error
        inner = GetMessageClass(kind)()
        rest = {name: item for name, item in value.items() if name != "@type"}
        if kind.full_name in field_types.WELL_KNOWN:
            if rest.keys() != {"value"}:
                raise FieldFault(path, "must hold its content in value")
            rest = rest["value"]
        self.of(kind)(inner, rest, path)
        message.type_url = url
        message.value = inner.SerializeToString()


def _note(seen: set[str], what: str, path: str) -> None:
    if what in seen:
        raise FieldFault(path, "is set twice, or beside another of its oneof")
    seen.add(what)


def _takes_null(field: FieldDescriptor) -> bool:
    if field.is_repeated:
        return False
    if field.message_type is not None:
        return field_types.is_value(field)
    return field.enum_type is not None and field.enum_type.full_name == field_types.NULL_VALUE


def _wrapper(read: Reader) -> Fill:
    def fill(message: Any, value: Any, path: str) -> None:
        message.value = read(value, path)

    return fill


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise FieldFault(path, "must be a string")
    return value


def _timestamp(message: Any, value: Any, path: str) -> None:
    try:
        message.seconds, message.nanos = well_known.timestamp_of(_text(value, path))
    except ValueError as error:
        raise FieldFault(path, str(error)) from error


def _duration(message: Any, value: Any, path: str) -> None:
    try:
        message.seconds, message.nanos = well_known.duration_of(_text(value, path))
    except ValueError as error:
        raise FieldFault(path, str(error)) from error


def _mask(message: Any, value: Any, path: str) -> None:
    try:
        message.paths.extend(well_known.mask_of(_text(value, path), snake=False))
    except ValueError as error:
        raise FieldFault(path, str(error)) from error
