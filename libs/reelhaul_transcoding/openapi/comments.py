"""Comments of protos: read from descriptor sets, and written as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from google.protobuf import descriptor_pb2

_Path = tuple[int, ...]

# Field numbers in descriptor.proto, of which the paths of source locations consist.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM, _MESSAGE_ONEOF = 2, 3, 4, 8
_ENUM_VALUE = _SERVICE_METHOD = 2

_LIST_ITEM = re.compile(r"\s*(?:[-*]|\d+\.)\s")
_CODE_SPAN = re.compile(r"(`[^`]*`)")
# Not inside paths, quotes, queries and templates.
_SNAKE_CASE = re.compile(r"(?<![\w.{/\"'?&=-])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w}\"'=/])")
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)([.:;])\s")


def read_comments(descriptor_set: bytes) -> dict[str, str]:
    """Return the comments in a serialized FileDescriptorSet, by the full names of what they describe.

    It must hold source information, as ``protoc --include_source_info --descriptor_set_out`` and
    ``buf build`` write it. The value V of an enum E is ``E.V``.
    """
    comments: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file:
        names = dict(_names_in_file(file))
        for location in file.source_code_info.location:
            text = location.leading_comments or location.trailing_comments
            if text.strip() and (name := names.get(tuple(location.path))):
                comments[name] = text
    return comments


def to_markdown(comment: str, names: Mapping[str, str]) -> str:
    """Return *comment* as Markdown: paragraphs in one line each, lists kept.

    *names* are the JSON names of fields by their proto names: fields that it mentions get the names that
    callers of the JSON API see.
    """
    return "\n\n".join(
        "\n".join(_markdown_line(line, names) for line in _join_lines(paragraph))
        for paragraph in re.split(r"\n\s*\n", comment.strip("\n"))
        if paragraph.strip()
    )


def split_summary(markdown: str) -> tuple[str, str]:
    """Return the summary of a description as plain text, and the rest of it.

    The summary is the first sentence, or only its first clause; the rest then repeats it.
    """
    first, blank, rest = markdown.partition("\n\n")
    end = _SENTENCE_END.search(first)
    if end is None:
        return _to_plain_text(first.rstrip(".")), rest
    summary = _to_plain_text(first[: end.start()])
    if end[1] == ".":
        return summary, first[end.end() :] + blank + rest
    return summary, markdown


def _to_plain_text(markdown: str) -> str:
    return markdown.replace("`", "").replace("\\", "")


def _join_lines(paragraph: str) -> list[str]:
    lines: list[str] = []
    for line in paragraph.split("\n"):
        if lines and not _LIST_ITEM.match(line):
            lines[-1] = f"{lines[-1]} {line.strip()}"
        else:
            lines.append(line.strip())
    return lines


def _markdown_line(line: str, names: Mapping[str, str]) -> str:
    parts = _CODE_SPAN.split(line)
    for index in range(0, len(parts), 2):
        escaped = re.sub(r"(?<!^)\*|[<]", r"\\\g<0>", parts[index])
        parts[index] = _SNAKE_CASE.sub(lambda word: f"`{names.get(word[0], word[0])}`", escaped)
    return "".join(parts)


def _names_in_file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[_Path, str]]:
    prefix = f"{file.package}." if file.package else ""
    for index, message in enumerate(file.message_type):
        yield from _names_in_message((_FILE_MESSAGE, index), prefix + message.name, message)
    for index, enum in enumerate(file.enum_type):
        yield from _names_in_enum((_FILE_ENUM, index), prefix + enum.name, enum)
    for index, service in enumerate(file.service):
        yield (_FILE_SERVICE, index), prefix + service.name
        for number, method in enumerate(service.method):
            path = (_FILE_SERVICE, index, _SERVICE_METHOD, number)
            yield path, f"{prefix}{service.name}.{method.name}"


def _names_in_message(
    path: _Path, name: str, message: descriptor_pb2.DescriptorProto
) -> Iterator[tuple[_Path, str]]:
    yield path, name
    for number, field in enumerate(message.field):
        yield (*path, _MESSAGE_FIELD, number), f"{name}.{field.name}"
    for number, oneof in enumerate(message.oneof_decl):
        yield (*path, _MESSAGE_ONEOF, number), f"{name}.{oneof.name}"
    for number, nested in enumerate(message.nested_type):
        yield from _names_in_message((*path, _MESSAGE_NESTED, number), f"{name}.{nested.name}", nested)
    for number, enum in enumerate(message.enum_type):
        yield from _names_in_enum((*path, _MESSAGE_ENUM, number), f"{name}.{enum.name}", enum)


def _names_in_enum(
    path: _Path, name: str, enum: descriptor_pb2.EnumDescriptorProto
) -> Iterator[tuple[_Path, str]]:
    yield path, name
    for number, value in enumerate(enum.value):
        yield (*path, _ENUM_VALUE, number), f"{name}.{value.name}"
