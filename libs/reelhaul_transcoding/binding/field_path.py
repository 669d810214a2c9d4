"""Fields: dotted paths of a request message, and setting what they name from texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.codec.text_scalars import Reader, reader_of
from reelhaul_transcoding.errors import FieldFault

# Messages that hold themselves allow paths of any length.
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A field of a message, or of a message inside it."""

    #: Proto names with dots between, whatever names were asked for.
    name: str
    parents: tuple[FieldDescriptor, ...]
    field: FieldDescriptor
    #: None where no text can be a value of the field.
    read: Reader | None

    def put(self, message: Any, values: list[str]) -> None:
        """Set the field of *message* from *values*. Raises FieldFault."""
        if self.read is None:
            raise FieldFault(self.name, "cannot be set by a parameter; send it in a body")
        if not self.field.is_repeated and len(values) > 1:
            raise FieldFault(self.name, "is given more than once")
        try:
            read = [self.read(value) for value in values]
        except FieldFault as fault:
            raise FieldFault(self.name, fault.text) from fault
        except ValueError as error:
            raise FieldFault(self.name, str(error)) from error
        target = self._target(message)
        if self.field.is_repeated:
            getattr(target, self.field.name).extend(read)
        elif self.field.message_type is not None:
            getattr(target, self.field.name).CopyFrom(read[0])
            getattr(target, self.field.name).SetInParent()
        else:
            setattr(target, self.field.name, read[0])

    def put_entry(self, message: Any, key: str, values: list[str]) -> None:
        """Set one entry of a map, as ``labels[key]=value`` asks. Raises FieldFault."""
        if len(values) > 1:
            raise FieldFault(f"{self.name}[{key}]", "is given more than once")
        key_field, value_field = field_types.entry_of(self.field)
        read_key, read = reader_of(key_field), reader_of(value_field)
        if read_key is None or read is None:
            raise FieldFault(self.name, "cannot be set by a parameter; send it in a body")
        try:
            name, value = read_key(key), read(values[0])
        except ValueError as error:
            raise FieldFault(f"{self.name}[{key}]", str(error)) from error
        target = getattr(self._target(message), self.field.name)
        if value_field.message_type is not None:
            target[name].CopyFrom(value)
        else:
            target[name] = value

    def value_in(self, message: Any) -> Any:
        """The field's value in *message*, its default where it is not set."""
        for parent in self.parents:
            message = getattr(message, parent.name)
        return getattr(message, self.field.name)

    def _target(self, message: Any) -> Any:
        """The message that holds the field, made where it was absent; oneofs are kept to."""
        for step in (*self.parents, self.field):
            oneof = step.containing_oneof
            if oneof is not None and message.WhichOneof(oneof.name) not in (None, step.name):
                raise FieldFault(self.name, f"is set beside another field of {oneof.name}")
            if step is not self.field:
                message = getattr(message, step.name)
        return message


def resolved(kind: Descriptor, path: str) -> FieldPath | None:
    """The field of *kind* that *path* names, by proto or JSON names; None where there is none."""
    parents: list[FieldDescriptor] = []
    names = path.split(".")
    if len(names) > _MAX_DEPTH:
        return None
    for place, name in enumerate(names):
        field = _field(kind, name)
        if field is None:
            return None
        if place == len(names) - 1:
            proto_name = ".".join(step.name for step in (*parents, field))
            read = None if field_types.is_map(field) else reader_of(field)
            return FieldPath(proto_name, tuple(parents), field, read)
        if field.is_repeated or field.message_type is None or not _open(field.message_type):
            return None
        parents.append(field)
        kind = field.message_type
    return None


def covers(path: str, other: str) -> bool:
    """Whether the field *path* is the field *other* or holds it."""
    return other == path or other.startswith(path + ".")


def _open(kind: Descriptor) -> bool:
    """Whether a path may lead into *kind*: its JSON form is an object, or it is a wrapper."""
    return kind.full_name not in field_types.WELL_KNOWN or kind.full_name in field_types.WRAPPERS


def _field(kind: Descriptor, name: str) -> FieldDescriptor | None:
    found: FieldDescriptor | None = kind.fields_by_name.get(name)
    if found is None:
        found = next((field for field in kind.fields if field.json_name == name), None)
    return found
