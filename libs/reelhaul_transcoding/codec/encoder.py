"""Encode: messages to JSON, by closures that are compiled once for each message type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.codec import field_types, structs, well_known

#: A field's or message's value to what orjson takes.
Converter = Callable[[Any], Any]
_Put = Callable[[Any, dict[str, Any]], None]


class Encoder:
    """Writes messages as proto3 JSON, with their ``json_name``s.

    Fields without presence are left out at their default, unless *emit_defaults*; enums at
    zero are left out also then: unspecified is nothing to print. An Any
    of a type that *pool* does not know keeps its bytes: ``{"@type": …, "value": base64}``.
    """

    def __init__(
        self,
        *,
        emit_defaults: bool = False,
        proto_names: bool = False,
        enum_numbers: bool = False,
        pool: descriptor_pool.DescriptorPool | None = None,
    ) -> None:
        self._emit_defaults = emit_defaults
        self._proto_names = proto_names
        self._enum_numbers = enum_numbers
        self._pool = pool or descriptor_pool.Default()
        self._compiled: dict[str, Converter] = {}
        self._well_known: dict[str, Converter] = {
            "google.protobuf.Any": self._any,
            "google.protobuf.Duration": lambda m: well_known.duration_text(m.seconds, m.nanos),
            "google.protobuf.FieldMask": lambda m: well_known.mask_text(m.paths),
            "google.protobuf.ListValue": structs.list_json,
            "google.protobuf.Struct": structs.struct_json,
            "google.protobuf.Timestamp": lambda m: well_known.timestamp_text(m.seconds, m.nanos),
            "google.protobuf.Value": structs.json_of,
        }

    def json(self, message: Any) -> bytes:
        """*message* as JSON text."""
        return orjson.dumps(self.of(message.DESCRIPTOR)(message))

    def of(self, kind: Descriptor) -> Converter:
        """How messages of *kind* become what orjson takes."""
        if kind.full_name not in self._compiled:
            self._compile(kind)
        return self._compiled[kind.full_name]

    def field(self, field: FieldDescriptor) -> Callable[[Any], Any]:
        """How the value of one *field* of a message is written: for ``response_body``."""
        put = self._put(field, always=True)
        name = self._name(field)

        def write(message: Any) -> Any:
            out: dict[str, Any] = {}
            put(message, out)
            return out.get(name)

        return write

    def _compile(self, kind: Descriptor) -> None:
        if kind.full_name in field_types.WRAPPERS:
            convert = self._scalar(kind.fields_by_name["value"]) or _same
            self._compiled[kind.full_name] = lambda message: convert(message.value)
        elif kind.full_name in self._well_known:
            self._compiled[kind.full_name] = self._well_known[kind.full_name]
        else:
            puts: list[_Put] = []
            # Known before its fields are: messages may hold themselves.
            self._compiled[kind.full_name] = _object(puts)
            puts.extend(self._put(field, always=self._always(field)) for field in kind.fields)

    def _always(self, field: FieldDescriptor) -> bool:
        return self._emit_defaults and (field.enum_type is None or field.is_repeated)

    def _put(self, field: FieldDescriptor, *, always: bool) -> _Put:
        name, attribute = self._name(field), field.name
        if field_types.is_map(field):
            key, value = field_types.entry_of(field)
            convert = self._converter(value) or _same
            return _put_map(name, attribute, _key_of(key), convert, always)
        if field.is_repeated:
            return _put_repeated(name, attribute, self._converter(field), always)
        if field.has_presence:
            return _put_present(name, attribute, self._converter(field) or _same)
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            return _put_float(name, attribute, self._scalar(field) or _same, always)
        return _put_scalar(name, attribute, self._scalar(field), always)

    def _name(self, field: FieldDescriptor) -> str:
        name: str = field.name if self._proto_names else field.json_name
        return name

    def _converter(self, field: FieldDescriptor) -> Converter | None:
        return self.of(field.message_type) if field.message_type is not None else self._scalar(field)

    def _scalar(self, field: FieldDescriptor) -> Converter | None:
        """How a scalar is written; None where it is written as it is."""
        if field.type in field_types.WIDE:
            return str
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return _CONVERTERS.get(field.type)

    def _enum(self, enum: EnumDescriptor) -> Converter | None:
        if enum.full_name == field_types.NULL_VALUE:
            return lambda _: None
        if self._enum_numbers:
            return None
        names = {number: value.name for number, value in enum.values_by_number.items()}
        return lambda number: names.get(number, number)

    def _any(self, message: Any) -> dict[str, Any]:
        url = message.type_url
        if not url:
            return {}
        try:
            kind = self._pool.FindMessageTypeByName(url.rpartition("/")[2])
            inner = GetMessageClass(kind).FromString(message.value)
        except (KeyError, DecodeError):
            return {"@type": url, "value": well_known.bytes_text(message.value)}
        told = self.of(kind)(inner)
        return (
            {"@type": url, "value": told}
            if kind.full_name in field_types.WELL_KNOWN
            else {"@type": url, **told}
        )


_CONVERTERS: dict[int, Converter] = {
    FieldDescriptor.TYPE_BYTES: well_known.bytes_text,
    FieldDescriptor.TYPE_DOUBLE: well_known.double_value,
    FieldDescriptor.TYPE_FLOAT: well_known.single_value,
}


def _same(value: Any) -> Any:
    return value


def _key_of(key: FieldDescriptor) -> Converter:
    if key.type == FieldDescriptor.TYPE_BOOL:
        return lambda value: "true" if value else "false"
    return _same if key.type == FieldDescriptor.TYPE_STRING else str


def _object(puts: list[_Put]) -> Converter:
    def write(message: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for put in puts:
            put(message, out)
        return out

    return write


def _put_scalar(name: str, attribute: str, convert: Converter | None, always: bool) -> _Put:
    def plain(message: Any, out: dict[str, Any]) -> None:
        value = getattr(message, attribute)
        if value or always:
            out[name] = value

    def converted(message: Any, out: dict[str, Any]) -> None:
        value = getattr(message, attribute)
        if value or always:
            out[name] = convert(value) if convert else value

    return converted if convert else plain


def _put_float(name: str, attribute: str, convert: Converter, always: bool) -> _Put:
    def put(message: Any, out: dict[str, Any]) -> None:
        value = getattr(message, attribute)
        # Minus zero is no default.
        if value or always or str(value) == "-0.0":
            out[name] = convert(value)

    return put


def _put_present(name: str, attribute: str, convert: Converter) -> _Put:
    def put(message: Any, out: dict[str, Any]) -> None:
        if message.HasField(attribute):
            out[name] = convert(getattr(message, attribute))

    return put


def _put_repeated(name: str, attribute: str, convert: Converter | None, always: bool) -> _Put:
    def put(message: Any, out: dict[str, Any]) -> None:
        values = getattr(message, attribute)
        if values or always:
            out[name] = [convert(value) for value in values] if convert else list(values)

    return put


def _put_map(name: str, attribute: str, key_of: Converter, convert: Converter, always: bool) -> _Put:
    def put(message: Any, out: dict[str, Any]) -> None:
        entries = getattr(message, attribute)
        if entries or always:
            out[name] = {key_of(key): convert(value) for key, value in entries.items()}

    return put
