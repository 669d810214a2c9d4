"""The descriptors and comments of the protos, as the generated references read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from google.protobuf import descriptor_pb2
from tests.docs.reference.markdown import plain

from reelhaul_transcoding.openapi.comments import read_comments, to_markdown

DESCRIPTORS = Path(__file__).parents[3] / "libs" / "reelhaul" / "protos.binpb"
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in _Field.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}


@dataclass(frozen=True)
class Message:
    """A message with its full name."""

    name: str
    descriptor: descriptor_pb2.DescriptorProto


@dataclass(frozen=True)
class Enum:
    """An enum with its full name."""

    name: str
    descriptor: descriptor_pb2.EnumDescriptorProto


class Protos:
    """The files of ``libs/reelhaul/protos.binpb``."""

    def __init__(self, descriptor_set: bytes) -> None:
        self._comments = read_comments(descriptor_set)
        self.files = list(descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file)

    @classmethod
    def load(cls) -> Protos:
        """Return those of this checkout."""
        return cls(DESCRIPTORS.read_bytes())

    def comment(self, name: str) -> str:
        """Return the comment of *name* as Markdown; empty if there is none."""
        return plain(to_markdown(self._comments.get(name, ""), {}))

    def files_of(self, package: str) -> list[descriptor_pb2.FileDescriptorProto]:
        """Return the files of *package*."""
        return [file for file in self.files if file.package == package]

    @cached_property
    def messages(self) -> dict[str, Message]:
        """All messages but those of maps, by full name, in the order of the files."""
        found = (each for file in self.files for each in _messages(file.package, file.message_type))
        return {message.name: message for message in found}

    @cached_property
    def enums(self) -> dict[str, Enum]:
        """All enums by full name."""
        top = [Enum(f"{file.package}.{enum.name}", enum) for file in self.files for enum in file.enum_type]
        nested = [
            Enum(f"{message.name}.{enum.name}", enum)
            for message in self.messages.values()
            for enum in message.descriptor.enum_type
        ]
        return {enum.name: enum for enum in [*top, *nested]}

    def describe_type(self, message: Message, field: descriptor_pb2.FieldDescriptorProto) -> str:
        """Return the type of *field* as in a proto file, with full names of messages and enums."""
        if (entry := _map_entry(message, field)) is not None:
            key, value = entry.field
            return f"map<{_name(key)}, {_name(value)}>"
        prefix = "repeated " if field.label == _Field.LABEL_REPEATED else ""
        return prefix + ("optional " if field.proto3_optional else "") + _name(field)

    def package_of(self, name: str) -> str:
        """Return the package of the message or enum *name*; empty if it is not ours."""
        packages = sorted({file.package for file in self.files}, key=len, reverse=True)
        return next((package for package in packages if name.startswith(f"{package}.")), "")


def _messages(prefix: str, messages: object) -> Iterator[Message]:
    for each in messages:  # type: ignore[attr-defined]
        if not each.options.map_entry:
            name = f"{prefix}.{each.name}"
            yield Message(name, each)
            yield from _messages(name, each.nested_type)


def _map_entry(
    message: Message, field: descriptor_pb2.FieldDescriptorProto
) -> descriptor_pb2.DescriptorProto | None:
    for nested in message.descriptor.nested_type:
        if nested.options.map_entry and field.type_name == f".{message.name}.{nested.name}":
            return nested
    return None


def _name(field: descriptor_pb2.FieldDescriptorProto) -> str:
    return field.type_name.removeprefix(".") if field.type_name else _SCALARS[field.type]
