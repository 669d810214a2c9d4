"""Field paths: dotted paths of a request message, and setting those fields from text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.codec.text_scalars import TextParser, text_parser
from reelhaul_transcoding.errors import FieldError

# Messages that contain themselves have paths of any length.
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A field of a message, or of a message inside it."""

    #: Proto names joined by dots, even if the path was resolved from JSON names.
    name: str
    parents: tuple[FieldDescriptor, ...]
    field: FieldDescriptor
    #: None if the field cannot be set from text.
    parse: TextParser | None
    case_insensitive_enums: bool = False

    def set(self, message: Any, texts: list[str]) -> None:
        """Set the field of *message* from *texts*. Raises FieldError."""
        if self.parse is None:
            raise FieldError(self.name, "cannot be set by a parameter; send it in a body")
        if not self.field.is_repeated and len(texts) > 1:
            raise FieldError(self.name, "is given more than once")
        try:
            values = [self.parse(text) for text in texts]
        except FieldError as error:
            raise FieldError(self.name, error.message) from error
        except ValueError as error:
            raise FieldError(self.name, str(error)) from error
        target = self._target(message)
        if self.field.is_repeated:
            getattr(target, self.field.name).extend(values)
        elif self.field.message_type is not None:
            getattr(target, self.field.name).CopyFrom(values[0])
            getattr(target, self.field.name).SetInParent()
        else:
            setattr(target, self.field.name, values[0])

    def set_map_entry(self, message: Any, key: str, texts: list[str]) -> None:
        """Set one entry of a map, for ``labels[key]=value``. Raises FieldError."""
        if len(texts) > 1:
            raise FieldError(f"{self.name}[{key}]", "is given more than once")
        key_field, value_field = field_types.map_entry_fields(self.field)
        parse_key = text_parser(key_field)
        parse_value = text_parser(value_field, case_insensitive_enums=self.case_insensitive_enums)
        if parse_key is None or parse_value is None:
            raise FieldError(self.name, "cannot be set by a parameter; send it in a body")
        try:
            map_key, value = parse_key(key), parse_value(texts[0])
        except ValueError as error:
            raise FieldError(f"{self.name}[{key}]", str(error)) from error
        target = getattr(self._target(message), self.field.name)
        if value_field.message_type is not None:
            target[map_key].CopyFrom(value)
        else:
            target[map_key] = value

    def get(self, message: Any) -> Any:
        """Return the value of the field in *message*, its default if it is not set."""
        for parent in self.parents:
            message = getattr(message, parent.name)
        return getattr(message, self.field.name)

    def _target(self, message: Any) -> Any:
        """Return the message that holds the field. Raises FieldError if another field of a oneof is set."""
        for step in (*self.parents, self.field):
            oneof = step.containing_oneof
            if oneof is not None and message.WhichOneof(oneof.name) not in (None, step.name):
                raise FieldError(self.name, f"is set together with another field of the oneof {oneof.name}")
            if step is not self.field:
                message = getattr(message, step.name)
        return message


def resolve_field_path(
    message_type: Descriptor, path: str, *, case_insensitive_enums: bool = False
) -> FieldPath | None:
    """Return the field of *message_type* at *path* (proto or JSON names); None if there is none."""
    parents: list[FieldDescriptor] = []
    names = path.split(".")
    if len(names) > _MAX_DEPTH:
        return None
    for index, name in enumerate(names):
        field = _find_field(message_type, name)
        if field is None:
            return None
        if index == len(names) - 1:
            proto_path = ".".join(step.name for step in (*parents, field))
            parse = None
            if not field_types.is_map(field):
                parse = text_parser(field, case_insensitive_enums=case_insensitive_enums)
            return FieldPath(proto_path, tuple(parents), field, parse, case_insensitive_enums)
        if field.is_repeated or field.message_type is None or not _has_subfields(field.message_type):
            return None
        parents.append(field)
        message_type = field.message_type
    return None


def contains_path(path: str, other: str) -> bool:
    """Return whether the field at *other* is the field at *path* or inside it."""
    return other == path or other.startswith(path + ".")


def _has_subfields(message_type: Descriptor) -> bool:
    """Return whether paths may go into *message_type*: an object in JSON, or a wrapper."""
    return (
        message_type.full_name not in field_types.WELL_KNOWN or message_type.full_name in field_types.WRAPPERS
    )


def _find_field(message_type: Descriptor, name: str) -> FieldDescriptor | None:
    field: FieldDescriptor | None = message_type.fields_by_name.get(name)
    if field is None:
        field = next((field for field in message_type.fields if field.json_name == name), None)
    return field
