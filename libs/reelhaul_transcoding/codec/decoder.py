"""Decoder: JSON to messages, by closures that are compiled once for each message type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.codec import field_types, structs, well_known
from reelhaul_transcoding.codec.json_scalars import JsonParser, map_key_parser, parse_string, scalar_parser
from reelhaul_transcoding.errors import FieldError

#: Sets a message, or one field of it, from a parsed value; the path names what is set. Raises FieldError.
Setter = Callable[[Any, Any, str], None]


# Longest name of a map entry in the path of an error, and longest path before it. Callers choose the
# names: without a limit, a long name would be copied for each value inside its entry.
_MAX_PATH_LENGTH = 200


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    set: Setter
    oneof: str
    accepts_null: bool


class Decoder:
    """Reads proto3 JSON into messages, by ``json_name`` or proto name.

    Unknown names are ignored with *ignore_unknown_fields*, otherwise rejected.
    """

    def __init__(self, *, ignore_unknown_fields: bool = False) -> None:
        self._ignore_unknown_fields = ignore_unknown_fields
        self._setters: dict[str, Setter] = {}
        self._well_known: dict[str, Setter] = {
            "google.protobuf.Any": self._set_any,
            "google.protobuf.Duration": _set_duration,
            "google.protobuf.FieldMask": _set_field_mask,
            "google.protobuf.Timestamp": _set_timestamp,
            **structs.SETTERS,
        }

    def compile(self, message_type: Descriptor) -> Setter:
        """Return the setter for messages of *message_type*."""
        name = message_type.full_name
        if name in self._setters:
            return self._setters[name]
        if name in field_types.WRAPPERS:
            self._setters[name] = _scalar_setter("value", scalar_parser(message_type.fields_by_name["value"]))
        elif name in self._well_known:
            self._setters[name] = self._well_known[name]
        else:
            fields: dict[str, _Field] = {}
            # Registered before its fields are compiled, since messages may contain themselves.
            self._setters[name] = self._object_setter(fields)
            for field in message_type.fields:
                oneof = field.containing_oneof.name if field.containing_oneof is not None else ""
                entry = _Field(field.name, self._field_setter(field), oneof, _accepts_null(field))
                fields[field.json_name] = fields[field.name] = entry
        return self._setters[name]

    def compile_field(self, field: FieldDescriptor) -> Setter:
        """Return the setter for *field* of a message, for ``body``; null leaves the field unset."""
        set_field, accepts_null = self._field_setter(field), _accepts_null(field)

        def set_unless_null(message: Any, value: Any, path: str) -> None:
            if value is not None or accepts_null:
                set_field(message, value, path)

        return set_unless_null

    def _object_setter(self, fields: dict[str, _Field]) -> Setter:
        ignore_unknown = self._ignore_unknown_fields

        def set_object(message: Any, value: Any, path: str) -> None:
            if not isinstance(value, dict):
                raise FieldError(path, "must be an object")
            already_set: set[str] = set()
            for name, item in value.items():
                field = fields.get(name)
                item_name = field.name if field is not None else name[:_MAX_PATH_LENGTH]
                item_path = f"{path}.{item_name}" if path else item_name
                if field is None:
                    if not ignore_unknown:
                        raise FieldError(item_path, "unknown field")
                    continue
                _add_once(already_set, field.name, item_path)
                if item is None and not field.accepts_null:
                    continue
                if field.oneof:
                    _add_once(already_set, "oneof " + field.oneof, item_path)
                field.set(message, item, item_path)

        return set_object

    def _field_setter(self, field: FieldDescriptor) -> Setter:
        if field_types.is_map(field):
            key, value = field_types.map_entry_fields(field)
            if value.message_type is not None:
                return _message_map_setter(
                    field.name, map_key_parser(key), self.compile(value.message_type), value
                )
            return _map_setter(field.name, map_key_parser(key), scalar_parser(value))
        if field.message_type is not None:
            set_message = self.compile(field.message_type)
            if field.is_repeated:
                return _repeated_message_setter(field, set_message)
            return _message_setter(field.name, set_message)
        parse = scalar_parser(field)
        return _repeated_setter(field.name, parse) if field.is_repeated else _scalar_setter(field.name, parse)

    def _set_any(self, message: Any, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise FieldError(path, "must be an object")
        if not value:
            return
        url = value.get("@type")
        if not isinstance(url, str):
            raise FieldError(path, "must have its type in @type")
        try:
            message_type = descriptor_pool.Default().FindMessageTypeByName(url.rpartition("/")[2])
        except KeyError as error:
            raise FieldError(path, "has an unknown type in @type") from error
        inner = GetMessageClass(message_type)()
        content: Any = {name: item for name, item in value.items() if name != "@type"}
        if message_type.full_name in field_types.WELL_KNOWN:
            if content.keys() != {"value"}:
                raise FieldError(path, "must have its content in value")
            content = content["value"]
        self.compile(message_type)(inner, content, path)
        message.type_url = url
        message.value = inner.SerializeToString()


def _add_once(already_set: set[str], name: str, path: str) -> None:
    if name in already_set:
        raise FieldError(path, "is set twice, or together with another field of its oneof")
    already_set.add(name)


def _accepts_null(field: FieldDescriptor) -> bool:
    if field.is_repeated:
        return False
    if field.message_type is not None:
        return field_types.is_json_value(field)
    return field.enum_type is not None and field.enum_type.full_name == field_types.NULL_VALUE


def _scalar_setter(name: str, parse: JsonParser) -> Setter:
    def set_scalar(message: Any, value: Any, path: str) -> None:
        setattr(message, name, parse(value, path))

    return set_scalar


def _repeated_setter(name: str, parse: JsonParser) -> Setter:
    def set_repeated(message: Any, value: Any, path: str) -> None:
        items = _check_array(value, path)
        getattr(message, name).extend([parse(item, f"{path}[{index}]") for index, item in enumerate(items)])

    return set_repeated


def _message_setter(name: str, set_message: Setter) -> Setter:
    def set_field(message: Any, value: Any, path: str) -> None:
        inner = getattr(message, name)
        inner.SetInParent()
        set_message(inner, value, path)

    return set_field


def _repeated_message_setter(field: FieldDescriptor, set_message: Setter) -> Setter:
    name = field.name
    accepts_null = field_types.is_json_value(field)

    def set_repeated(message: Any, value: Any, path: str) -> None:
        target = getattr(message, name)
        for index, item in enumerate(_check_array(value, path)):
            if item is None and not accepts_null:
                raise FieldError(f"{path}[{index}]", "must not be null")
            set_message(target.add(), item, f"{path}[{index}]")

    return set_repeated


def _map_setter(name: str, parse_key: JsonParser, parse: JsonParser) -> Setter:
    def set_map(message: Any, value: Any, path: str) -> None:
        target = getattr(message, name)
        for key, item in _check_object(value, path).items():
            target[parse_key(key, path)] = parse(item, _entry_path(path, key))

    return set_map


def _message_map_setter(
    name: str, parse_key: JsonParser, set_message: Setter, value_field: FieldDescriptor
) -> Setter:
    accepts_null = field_types.is_json_value(value_field)

    def set_map(message: Any, value: Any, path: str) -> None:
        target = getattr(message, name)
        for key, item in _check_object(value, path).items():
            if item is None and not accepts_null:
                raise FieldError(_entry_path(path, key), "must not be null")
            # Indexing creates the entry.
            set_message(target[parse_key(key, path)], item, _entry_path(path, key))

    return set_map


def _entry_path(path: str, key: str) -> str:
    return f"{path[:_MAX_PATH_LENGTH]}[{key[:_MAX_PATH_LENGTH]}]"


def _check_array(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise FieldError(path, "must be an array")
    return value


def _check_object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldError(path, "must be an object")
    return value


def _set_timestamp(message: Any, value: Any, path: str) -> None:
    try:
        message.seconds, message.nanos = well_known.parse_timestamp(parse_string(value, path))
    except ValueError as error:
        raise FieldError(path, str(error)) from error


def _set_duration(message: Any, value: Any, path: str) -> None:
    try:
        message.seconds, message.nanos = well_known.parse_duration(parse_string(value, path))
    except ValueError as error:
        raise FieldError(path, str(error)) from error


def _set_field_mask(message: Any, value: Any, path: str) -> None:
    try:
        paths = well_known.parse_field_mask(parse_string(value, path), allow_snake_case=False)
    except ValueError as error:
        raise FieldError(path, str(error)) from error
    message.paths.extend(paths)
