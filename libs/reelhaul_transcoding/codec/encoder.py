"""Encoder: messages to JSON, by one generated function for each message type."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable
from math import copysign
from operator import attrgetter
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.codec import field_types, structs, well_known
from reelhaul_transcoding.codec.fragments import FragmentCache, FragmentTable, element_splitter

#: Converts a message or field value to an object that orjson serializes.
Converter = Callable[[Any], Any]

_FLOAT_TYPES = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)


class Encoder:
    """Writes messages as proto3 JSON, with their ``json_name``s.

    Fields without presence are omitted at their default, unless *emit_defaults* is set; enums
    at zero are always omitted. An Any of a type that is not in the default pool keeps its
    bytes: ``{"@type": …, "value": base64}``. JSON of serialized messages is kept in *fragments*.
    """

    def __init__(self, *, emit_defaults: bool = False, fragments: FragmentCache | None = None) -> None:
        self._emit_defaults = emit_defaults
        self._fragments = fragments
        # By descriptor: pools may have different versions of a message of one name.
        self._tables: dict[Descriptor, FragmentTable] = {}
        self._converters: dict[Descriptor, Converter] = {}
        self._well_known: dict[str, Converter] = {
            "google.protobuf.Any": self._convert_any,
            "google.protobuf.FieldMask": lambda m: well_known.format_field_mask(m.paths),
            "google.protobuf.ListValue": structs.list_to_json,
            "google.protobuf.Struct": structs.struct_to_json,
            "google.protobuf.Value": structs.value_to_json,
        }

    def encode(self, message: Any) -> bytes:
        """Return *message* as JSON text."""
        return orjson.dumps(self.compile(type(message).DESCRIPTOR)(message))

    def compile(self, message_type: Descriptor) -> Converter:
        """Return the converter for messages of *message_type*."""
        name = message_type.full_name
        if message_type not in self._converters:
            if name in self._well_known:
                self._converters[message_type] = self._well_known[name]
            elif name in _SECONDS_AND_NANOS:
                format_ = _SECONDS_AND_NANOS[name]
                self._converters[message_type] = lambda message: format_(message.seconds, message.nanos)
            elif name in field_types.WRAPPERS:
                source = _Source()
                value = self._value(source, message_type.fields_by_name["value"], "message.value")
                self._converters[message_type] = source.compile([f"return {value}"])
            else:
                self._compile_message(message_type)
        return self._converters[message_type]

    def compile_field(self, field: FieldDescriptor) -> Converter:
        """Return the converter from a message to the JSON of its *field*, for ``response_body``."""
        source = _Source()
        line = self._field_line(source, field, always=True)
        value = f"value_{field.number} = {_attribute(field)}"
        return source.compile(["out = {}", value, line, f"return out.get({field.json_name!r})"])

    def compile_serialized(self, message_type: Descriptor) -> Callable[[bytes], bytes]:
        """Return the function from the bytes of a message to its JSON text. It raises DecodeError.

        The elements of a list are kept one by one: of a list that is polled, only what changed is
        encoded again.
        """
        encode = _serialized_encoder(message_type, self.compile(message_type))
        if self._fragments is None:
            return encode
        elements = _only_list(message_type)
        if elements is None or elements.message_type is None:
            return self._cached(message_type)
        convert_rest = self._compile_fields(f for f in message_type.fields if f.number != elements.number)
        return _list_encoder(
            elements,
            encode,
            self._cached(elements.message_type),
            _serialized_encoder(message_type, convert_rest),
        )

    def _cached(self, message_type: Descriptor) -> Callable[[bytes], bytes]:
        assert self._fragments is not None
        if message_type not in self._tables:
            self._tables[message_type] = self._fragments.add_table()
        table = self._tables[message_type]
        encode = _serialized_encoder(message_type, self.compile(message_type))

        def encode_cached(message: bytes) -> bytes:
            fragment = table.get(message)
            if fragment is None:
                fragment = encode(message)
                table.add(message, fragment)
            return fragment

        return encode_cached

    def _compile_message(self, message_type: Descriptor) -> None:
        # Registered before its fields are compiled, since messages may contain themselves.
        self._converters[message_type] = lambda message: convert(message)
        convert = self._compile_fields(message_type.fields)
        self._converters[message_type] = convert

    def _compile_fields(self, fields: Iterable[FieldDescriptor]) -> Converter:
        fields = list(fields)
        source = _Source()
        # Fields with presence are rarely set; of the others, one call reads all.
        names = {f"value_{field.number}": field.name for field in fields if not field.has_presence}
        lines = []
        if len(names) > 1:
            lines = [f"{', '.join(names)} = {source.add(attrgetter(*names.values()))}(message)"]
        else:
            lines = [f"{variable} = getattr(message, {name!r})" for variable, name in names.items()]
        lines.append("out = {}")
        lines += [self._field_line(source, field, always=self._writes_default(field)) for field in fields]
        return source.compile([*lines, "return out"])

    def _writes_default(self, field: FieldDescriptor) -> bool:
        return self._emit_defaults and (field.enum_type is None or field.is_repeated)

    def _field_line(self, source: _Source, field: FieldDescriptor, *, always: bool) -> str:
        """Return the statement that writes *field* of ``message`` to ``out``.

        Unless the field has presence, its value is a variable with its number.
        """
        target = f"out[{field.json_name!r}]"
        if field.has_presence:
            assert field.containing_type is not None
            has_field = source.add(GetMessageClass(field.containing_type).HasField)
            value = self._value(source, field, _attribute(field))
            return f"if {has_field}(message, {field.name!r}): {target} = {value}"
        condition = variable = f"value_{field.number}"
        if field_types.is_map(field):
            key_field, value_field = field_types.map_entry_fields(field)
            item = self._value(source, value_field, f"{variable}[key]")
            value = f"{{{_key(key_field)}: {item} for key in {variable}}}"
        elif field.is_repeated:
            # A slice is a list; to iterate over the field itself ends in an exception.
            item = self._value(source, field, "item")
            value = f"{variable}[:]" if item == "item" else f"[{item} for item in {variable}[:]]"
        else:
            value = self._value(source, field, variable)
            if field.type in _FLOAT_TYPES:
                # Minus zero is not the default.
                condition = f"{variable} or {source.add(copysign)}(1, {variable}) < 0"
        return f"{target} = {value}" if always else f"if {condition}: {target} = {value}"

    def _value(self, source: _Source, field: FieldDescriptor, value: str) -> str:
        """Return the expression for the JSON of one *value* of *field*, itself an expression."""
        if field.message_type is not None:
            if field.message_type.full_name in _SECONDS_AND_NANOS:
                format_ = source.add(_SECONDS_AND_NANOS[field.message_type.full_name])
                return f"{format_}((time := {value}).seconds, time.nanos)"
            return f"{source.add(self.compile(field.message_type))}({value})"
        if field.type in field_types.INT64_TYPES:
            return f"str({value})"
        if field.enum_type is not None:
            return f"{source.add(_enum_names(field.enum_type))}[{value}]"
        if field.type in _SCALAR_CONVERTERS:
            return f"{source.add(_SCALAR_CONVERTERS[field.type])}({value})"
        return value

    def _convert_any(self, message: Any) -> dict[str, Any]:
        url = message.type_url
        if not url:
            return {}
        try:
            message_type = message.DESCRIPTOR.file.pool.FindMessageTypeByName(url.rpartition("/")[2])
            inner = GetMessageClass(message_type).FromString(message.value)
        except (KeyError, DecodeError):
            return {"@type": url, "value": well_known.format_base64(message.value)}
        value = self.compile(message_type)(inner)
        if message_type.full_name in field_types.WELL_KNOWN:
            return {"@type": url, "value": value}
        return {"@type": url, **value}


class _Source:
    """The source of one function and the objects that it uses.

    It is written from descriptors only. Names stand in it as literals (``repr``), or as attributes
    if they are identifiers; everything else is a global of the function.
    """

    def __init__(self) -> None:
        self._globals: dict[str, Any] = {}

    def add(self, value: object) -> str:
        """Return the name of a global that is *value*."""
        name = f"global_{len(self._globals)}"
        self._globals[name] = value
        return name

    def compile(self, lines: list[str]) -> Converter:
        """Return the function of ``message`` whose body is *lines*."""
        text = "def convert(message):\n" + "".join(f"    {line}\n" for line in lines)
        exec(compile(text, "<encoder>", "exec"), self._globals)  # noqa: S102 - see the class
        convert: Converter = self._globals["convert"]
        return convert


_SECONDS_AND_NANOS: dict[str, Callable[[int, int], str]] = {
    "google.protobuf.Duration": well_known.format_duration,
    "google.protobuf.Timestamp": well_known.format_timestamp,
}
_SCALAR_CONVERTERS: dict[int, Converter] = {
    FieldDescriptor.TYPE_BYTES: well_known.format_base64,
    FieldDescriptor.TYPE_DOUBLE: well_known.double_to_json,
    FieldDescriptor.TYPE_FLOAT: well_known.float32_to_json,
}


def _serialized_encoder(message_type: Descriptor, convert: Converter) -> Callable[[bytes], bytes]:
    parse = GetMessageClass(message_type).FromString
    dumps = orjson.dumps
    return lambda message: dumps(convert(parse(message)))


def _only_list(message_type: Descriptor) -> FieldDescriptor | None:
    """Return the field of a list response that holds its elements: its only repeated message field."""
    if message_type.full_name in field_types.WELL_KNOWN:
        return None
    lists = [
        field
        for field in message_type.fields
        if field.is_repeated and field.message_type is not None and not field_types.is_map(field)
    ]
    return lists[0] if len(lists) == 1 else None


def _list_encoder(
    elements: FieldDescriptor,
    encode: Callable[[bytes], bytes],
    encode_element: Callable[[bytes], bytes],
    encode_rest: Callable[[bytes], bytes],
) -> Callable[[bytes], bytes]:
    split = element_splitter(elements.number)
    start = b"{" + orjson.dumps(elements.json_name) + b":["

    def encode_list(message: bytes) -> bytes:
        parts, rest = split(message)
        if not parts:
            return encode(message)
        end = encode_rest(rest)
        end = b"]}" if end == b"{}" else b"]," + end[1:]
        return start + b",".join([encode_element(part) for part in parts]) + end

    return encode_list


def _attribute(field: FieldDescriptor) -> str:
    name = field.name
    if name.isidentifier() and name.isascii() and not keyword.iskeyword(name) and not hasattr(Message, name):
        return f"message.{name}"
    return f"getattr(message, {name!r})"


def _key(field: FieldDescriptor) -> str:
    """Return the expression for the name of a map entry in JSON."""
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "'true' if key else 'false'"
    return "key" if field.type == FieldDescriptor.TYPE_STRING else "str(key)"


class _EnumNames(dict[int, Any]):
    """The names of an enum by number; a number without a name stands for itself."""

    def __missing__(self, number: int) -> int:
        return number


class _Nulls(dict[int, Any]):
    """The JSON of google.protobuf.NullValue: null for any number."""

    def __missing__(self, number: int) -> None:
        return None


def _enum_names(enum: EnumDescriptor) -> dict[int, Any]:
    if enum.full_name == field_types.NULL_VALUE:
        return _Nulls()
    return _EnumNames({number: value.name for number, value in enum.values_by_number.items()})
