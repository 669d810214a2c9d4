"""Encoder: messages to JSON, by closures that are compiled once for each message type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.codec import field_types, structs, well_known

#: Converts a message or field value to an object that orjson serializes.
Converter = Callable[[Any], Any]
#: Writes one field of a message to a dict.
FieldWriter = Callable[[Any, dict[str, Any]], None]


class Encoder:
    """Writes messages as proto3 JSON, with their ``json_name``s.

    Fields without presence are omitted at their default, unless *emit_defaults* is set; enums
    at zero are always omitted. An Any of a type that is not in the default pool keeps its
    bytes: ``{"@type": …, "value": base64}``.
    """

    def __init__(self, *, emit_defaults: bool = False) -> None:
        self._emit_defaults = emit_defaults
        self._converters: dict[str, Converter] = {}
        self._well_known: dict[str, Converter] = {
            "google.protobuf.Any": self._convert_any,
            "google.protobuf.Duration": lambda m: well_known.format_duration(m.seconds, m.nanos),
            "google.protobuf.FieldMask": lambda m: well_known.format_field_mask(m.paths),
            "google.protobuf.ListValue": structs.list_to_json,
            "google.protobuf.Struct": structs.struct_to_json,
            "google.protobuf.Timestamp": lambda m: well_known.format_timestamp(m.seconds, m.nanos),
            "google.protobuf.Value": structs.value_to_json,
        }

    def encode(self, message: Any) -> bytes:
        """Return *message* as JSON text."""
        return orjson.dumps(self.compile(message.DESCRIPTOR)(message))

    def compile(self, message_type: Descriptor) -> Converter:
        """Return the converter for messages of *message_type*."""
        name = message_type.full_name
        if name in self._converters:
            return self._converters[name]
        if name in field_types.WRAPPERS:
            convert = self._scalar_converter(message_type.fields_by_name["value"]) or _identity
            self._converters[name] = lambda message: convert(message.value)
        elif name in self._well_known:
            self._converters[name] = self._well_known[name]
        else:
            writers: list[FieldWriter] = []
            # Registered before its fields are compiled, since messages may contain themselves.
            self._converters[name] = _message_converter(writers)
            writers.extend(
                self._field_writer(field, always=self._writes_default(field)) for field in message_type.fields
            )
        return self._converters[name]

    def compile_field(self, field: FieldDescriptor) -> Converter:
        """Return the converter from a message to the JSON of its *field*, for ``response_body``."""
        write_field = self._field_writer(field, always=True)
        name = field.json_name

        def convert(message: Any) -> Any:
            out: dict[str, Any] = {}
            write_field(message, out)
            return out.get(name)

        return convert

    def _writes_default(self, field: FieldDescriptor) -> bool:
        return self._emit_defaults and (field.enum_type is None or field.is_repeated)

    def _field_writer(self, field: FieldDescriptor, *, always: bool) -> FieldWriter:
        name, attribute = field.json_name, field.name
        if field_types.is_map(field):
            key, value = field_types.map_entry_fields(field)
            convert = self._converter(value) or _identity
            return _map_writer(name, attribute, _key_converter(key), convert, always)
        if field.is_repeated:
            return _repeated_writer(name, attribute, self._converter(field), always)
        if field.has_presence:
            return _presence_writer(name, attribute, self._converter(field) or _identity)
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            return _float_writer(name, attribute, self._scalar_converter(field) or _identity, always)
        return _scalar_writer(name, attribute, self._scalar_converter(field), always)

    def _converter(self, field: FieldDescriptor) -> Converter | None:
        if field.message_type is not None:
            return self.compile(field.message_type)
        return self._scalar_converter(field)

    def _scalar_converter(self, field: FieldDescriptor) -> Converter | None:
        """Return the converter of a scalar field; None if the value is written unchanged."""
        if field.type in field_types.INT64_TYPES:
            return str
        if field.enum_type is not None:
            return _enum_converter(field.enum_type)
        return _SCALAR_CONVERTERS.get(field.type)

    def _convert_any(self, message: Any) -> dict[str, Any]:
        url = message.type_url
        if not url:
            return {}
        try:
            message_type = descriptor_pool.Default().FindMessageTypeByName(url.rpartition("/")[2])
            inner = GetMessageClass(message_type).FromString(message.value)
        except (KeyError, DecodeError):
            return {"@type": url, "value": well_known.format_base64(message.value)}
        value = self.compile(message_type)(inner)
        if message_type.full_name in field_types.WELL_KNOWN:
            return {"@type": url, "value": value}
        return {"@type": url, **value}


_SCALAR_CONVERTERS: dict[int, Converter] = {
    FieldDescriptor.TYPE_BYTES: well_known.format_base64,
    FieldDescriptor.TYPE_DOUBLE: well_known.double_to_json,
    FieldDescriptor.TYPE_FLOAT: well_known.float32_to_json,
}


def _enum_converter(enum: EnumDescriptor) -> Converter:
    if enum.full_name == field_types.NULL_VALUE:
        return lambda _: None
    names = {number: value.name for number, value in enum.values_by_number.items()}
    return lambda number: names.get(number, number)


def _identity(value: Any) -> Any:
    return value


def _key_converter(key: FieldDescriptor) -> Converter:
    if key.type == FieldDescriptor.TYPE_BOOL:
        return lambda value: "true" if value else "false"
    return _identity if key.type == FieldDescriptor.TYPE_STRING else str


def _message_converter(writers: list[FieldWriter]) -> Converter:
    def convert(message: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for write_field in writers:
            write_field(message, out)
        return out

    return convert


def _scalar_writer(name: str, attribute: str, convert: Converter | None, always: bool) -> FieldWriter:
    def write(message: Any, out: dict[str, Any]) -> None:
        value = getattr(message, attribute)
        if value or always:
            out[name] = value

    def write_converted(message: Any, out: dict[str, Any]) -> None:
        value = getattr(message, attribute)
        if value or always:
            out[name] = convert(value) if convert else value

    return write_converted if convert else write


def _float_writer(name: str, attribute: str, convert: Converter, always: bool) -> FieldWriter:
    def write(message: Any, out: dict[str, Any]) -> None:
        value = getattr(message, attribute)
        # Minus zero is not the default.
        if value or always or str(value) == "-0.0":
            out[name] = convert(value)

    return write


def _presence_writer(name: str, attribute: str, convert: Converter) -> FieldWriter:
    def write(message: Any, out: dict[str, Any]) -> None:
        if message.HasField(attribute):
            out[name] = convert(getattr(message, attribute))

    return write


def _repeated_writer(name: str, attribute: str, convert: Converter | None, always: bool) -> FieldWriter:
    def write(message: Any, out: dict[str, Any]) -> None:
        values = getattr(message, attribute)
        if values or always:
            out[name] = [convert(value) for value in values] if convert else list(values)

    return write


def _map_writer(
    name: str, attribute: str, convert_key: Converter, convert: Converter, always: bool
) -> FieldWriter:
    def write(message: Any, out: dict[str, Any]) -> None:
        entries = getattr(message, attribute)
        if entries or always:
            out[name] = {convert_key(key): convert(value) for key, value in entries.items()}

    return write
