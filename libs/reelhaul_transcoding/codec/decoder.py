"""Decoder: JSON to messages, by closures that are compiled once for each message type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.codec import field_types, structs, well_known
from reelhaul_transcoding.codec.json_scalars import (
    InvalidValue,
    JsonParser,
    map_key_parser,
    parse_string,
    scalar_parser,
)
from reelhaul_transcoding.errors import FieldError

#: Sets a message, or one field of it, from a parsed value; the path names what is set. Raises FieldError.
Setter = Callable[[Any, Any, str], None]
# As Setter, but raises ValueError: the path is put together where it leaves the message.
_Setter = Callable[[Any, Any], None]

# Longest name in the path of an error. Callers choose the names of map entries and unknown fields.
_MAX_NAME_LENGTH = 200


class _Field(NamedTuple):
    name: str
    set: _Setter
    oneof: str
    accepts_null: bool


class Decoder:
    """Reads proto3 JSON into messages, by ``json_name`` or proto name.

    Unknown names are ignored with *ignore_unknown_fields*, otherwise rejected. See EnumNumbers for
    *case_insensitive_enums*.
    """

    def __init__(self, *, ignore_unknown_fields: bool = False, case_insensitive_enums: bool = False) -> None:
        self._ignore_unknown_fields = ignore_unknown_fields
        self._scalar_parser = partial(scalar_parser, case_insensitive_enums=case_insensitive_enums)
        # By descriptor: pools may have different versions of a message of one name.
        self._setters: dict[Descriptor, _Setter] = {}
        self._lock = Lock()
        self._well_known: dict[str, _Setter] = {
            "google.protobuf.Any": self._set_any,
            "google.protobuf.Duration": _set_duration,
            "google.protobuf.FieldMask": _set_field_mask,
            "google.protobuf.Timestamp": _set_timestamp,
            **structs.SETTERS,
        }

    def compile(self, message_type: Descriptor) -> Setter:
        """Return the setter for messages of *message_type*."""
        return _raise_field_errors(self._compile(message_type))

    def compile_field(self, field: FieldDescriptor) -> Setter:
        """Return the setter for *field* of a message, for ``body``; null leaves the field unset."""
        set_field, accepts_null = self._field_setter(field), _accepts_null(field)

        def set_unless_null(message: Any, value: Any) -> None:
            if value is not None or accepts_null:
                set_field(message, value)

        return _raise_field_errors(set_unless_null)

    def _compile(self, message_type: Descriptor) -> _Setter:
        name = message_type.full_name
        if message_type in self._setters:
            return self._setters[message_type]
        if name in field_types.WRAPPERS:
            self._setters[message_type] = _scalar_setter(
                "value", scalar_parser(message_type.fields_by_name["value"])
            )
        elif name in self._well_known:
            self._setters[message_type] = self._well_known[name]
        else:
            fields: dict[str, _Field] = {}
            json_names = {field.name: field.json_name for field in message_type.fields}
            # Registered before its fields are compiled, since messages may contain themselves.
            self._setters[message_type] = self._object_setter(fields, json_names)
            for field in message_type.fields:
                set_field, accepts_null = self._field_setter(field), _accepts_null(field)
                oneof = field.containing_oneof.name if field.containing_oneof is not None else ""
                entry = _Field(field.name, set_field, oneof, accepts_null)
                fields[field.json_name] = fields[field.name] = entry
        return self._setters[message_type]

    def _object_setter(self, fields: dict[str, _Field], json_names: dict[str, str]) -> _Setter:
        ignore_unknown = self._ignore_unknown_fields
        find_field = fields.get
        twins = {name: json_name for name, json_name in json_names.items() if name != json_name}
        has_no_twins = frozenset(twins).isdisjoint

        def set_object(message: Any, value: Any) -> None:
            if type(value) is not dict:
                raise InvalidValue("must be an object")
            oneofs: set[str] | None = None
            name = ""
            try:
                if not has_no_twins(value):
                    for name in value:
                        if twins.get(name) in value:
                            raise InvalidValue(f"is set twice, as {name} and {twins[name]}")
                for name, item in value.items():
                    field = find_field(name)
                    if field is None:
                        if ignore_unknown:
                            continue
                        raise InvalidValue("unknown field")
                    _, set_field, oneof, accepts_null = field
                    if item is None and not accepts_null:
                        continue
                    if oneof:
                        oneofs = oneofs or set()
                        if oneof in oneofs:
                            raise InvalidValue(f"is set together with another field of the oneof {oneof}")
                        oneofs.add(oneof)
                    set_field(message, item)
            except ValueError as error:
                known = find_field(name)
                raise _at(known.name if known is not None else name, error) from error

        return set_object

    def _field_setter(self, field: FieldDescriptor) -> _Setter:
        if field_types.is_map(field):
            key, value = field_types.map_entry_fields(field)
            if value.message_type is not None:
                set_value = self._compile(value.message_type)
                return _message_map_setter(field.name, map_key_parser(key), set_value, value)
            return _map_setter(field.name, map_key_parser(key), self._scalar_parser(value))
        if field.message_type is not None:
            set_message = self._compile(field.message_type)
            if field.is_repeated:
                return _repeated_message_setter(field, set_message)
            return _message_setter(field, set_message)
        parse = self._scalar_parser(field)
        return _repeated_setter(field.name, parse) if field.is_repeated else _scalar_setter(field.name, parse)

    def _set_any(self, message: Any, value: Any) -> None:
        if not isinstance(value, dict):
            raise InvalidValue("must be an object")
        if not value:
            return
        url = value.get("@type")
        if not isinstance(url, str):
            raise InvalidValue("must have its type in @type")
        try:
            message_type = message.DESCRIPTOR.file.pool.FindMessageTypeByName(url.rpartition("/")[2])
        except KeyError as error:
            raise InvalidValue("has an unknown type in @type") from error
        inner = GetMessageClass(message_type)()
        content: Any = {name: item for name, item in value.items() if name != "@type"}
        if message_type.full_name in field_types.WELL_KNOWN:
            if content.keys() != {"value"}:
                raise InvalidValue("must have its content in value")
            content = content["value"]
        # Large bodies are decoded in a thread, and a setter is registered before it is complete.
        with self._lock:
            set_inner = self._compile(message_type)
        set_inner(inner, content)
        message.type_url = url
        message.value = inner.SerializeToString()


def _at(name: str, error: ValueError) -> InvalidValue:
    """Return *error* of the field or entry *name*, as an error of the message around it."""
    path = error.path if isinstance(error, InvalidValue) else ""
    separator = "." if path and not path.startswith("[") else ""
    return InvalidValue(str(error), name[:_MAX_NAME_LENGTH] + separator + path)


def _raise_field_errors(set_value: _Setter) -> Setter:
    def set_at_path(message: Any, value: Any, path: str) -> None:
        try:
            set_value(message, value)
        except ValueError as error:
            invalid = _at(path, error)
            raise FieldError(invalid.path.removeprefix("."), str(error)) from error

    return set_at_path


def _accepts_null(field: FieldDescriptor) -> bool:
    if field.is_repeated:
        return False
    if field.message_type is not None:
        return field_types.is_json_value(field)
    return field.enum_type is not None and field.enum_type.full_name == field_types.NULL_VALUE


def _scalar_setter(name: str, parse: JsonParser) -> _Setter:
    if parse is parse_string:
        return _string_setter(name)

    def set_scalar(message: Any, value: Any) -> None:
        setattr(message, name, parse(value))

    return set_scalar


def _string_setter(name: str) -> _Setter:
    def set_string(message: Any, value: Any) -> None:
        if type(value) is not str:
            raise InvalidValue("must be a string")
        setattr(message, name, value)

    return set_string


def _repeated_setter(name: str, parse: JsonParser) -> _Setter:
    def set_repeated(message: Any, value: Any) -> None:
        items: list[Any] = []
        try:
            for item in _check_array(value):
                items.append(parse(item))
        except ValueError as error:
            raise (_at(f"[{len(items)}]", error) if isinstance(value, list) else error) from error
        getattr(message, name).extend(items)

    return set_repeated


def _message_setter(field: FieldDescriptor, set_message: _Setter) -> _Setter:
    assert field.message_type is not None
    name = field.name
    if set_message in (_set_timestamp, _set_duration):
        # They set two fields in any case, and so the message too.
        return lambda message, value: set_message(getattr(message, name), value)
    # Unbound: a message looks for a field of that name first.
    set_in_parent: Callable[[Any], None] = GetMessageClass(field.message_type).SetInParent

    def set_field(message: Any, value: Any) -> None:
        inner = getattr(message, name)
        set_in_parent(inner)
        set_message(inner, value)

    return set_field


def _repeated_message_setter(field: FieldDescriptor, set_message: _Setter) -> _Setter:
    name = field.name
    accepts_null = field_types.is_json_value(field)

    def set_repeated(message: Any, value: Any) -> None:
        add = getattr(message, name).add
        for index, item in enumerate(_check_array(value)):
            try:
                set_message(add(), _check_not_null(item, accepts_null))
            except ValueError as error:
                raise _at(f"[{index}]", error) from error

    return set_repeated


def _map_setter(name: str, parse_key: JsonParser, parse: JsonParser) -> _Setter:
    def set_map(message: Any, value: Any) -> None:
        target = getattr(message, name)
        for key, item in _check_object(value).items():
            parsed_key = parse_key(key)
            try:
                target[parsed_key] = parse(item)
            except ValueError as error:
                raise _at(_entry(key), error) from error

    return set_map


def _message_map_setter(
    name: str, parse_key: JsonParser, set_message: _Setter, value_field: FieldDescriptor
) -> _Setter:
    accepts_null = field_types.is_json_value(value_field)

    def set_map(message: Any, value: Any) -> None:
        target = getattr(message, name)
        for key, item in _check_object(value).items():
            parsed_key = parse_key(key)
            try:
                # Indexing creates the entry.
                set_message(target[parsed_key], _check_not_null(item, accepts_null))
            except ValueError as error:
                raise _at(_entry(key), error) from error

    return set_map


def _entry(key: str) -> str:
    return f"[{key[: _MAX_NAME_LENGTH - 2]}]"


def _check_not_null(value: Any, accepts_null: bool) -> Any:
    if value is None and not accepts_null:
        raise InvalidValue("must not be null")
    return value


def _check_array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidValue("must be an array")
    return value


def _check_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue("must be an object")
    return value


def _set_timestamp(message: Any, value: Any) -> None:
    message.seconds, message.nanos = well_known.parse_timestamp(parse_string(value))


def _set_duration(message: Any, value: Any) -> None:
    message.seconds, message.nanos = well_known.parse_duration(parse_string(value))


def _set_field_mask(message: Any, value: Any) -> None:
    message.paths.extend(well_known.parse_field_mask(parse_string(value), allow_snake_case=False))
