"""Paths: templates of google.api.http as paths of OpenAPI, whose parameters are single segments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor

from reelhaul_transcoding.routing.rules import HttpRule
from reelhaul_transcoding.routing.templates import MANY, ONE, Template, Variable

_PARAMETER = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class PathParameter:
    """A parameter of a path: one segment, or with *multiple* any number of them."""

    name: str
    #: The field that the parameter is the value of, or a part of.
    field: str
    #: The value of that field, e.g. ``jobs/{job}``; ``{job}`` if the parameter is all of it.
    format: str
    multiple: bool


@dataclass(frozen=True, slots=True)
class ExpandedPath:
    """A path such as ``/v1/jobs/{job}:cancel``, and its parameters."""

    path: str
    parameters: tuple[PathParameter, ...]

    @property
    def shape(self) -> str:
        """The path without the names of its parameters: OpenAPI allows it once in a document."""
        return _PARAMETER.sub("{}", self.path)

    def renamed_as(self, path: str) -> ExpandedPath:
        """Return this path with the names of the parameters in *path*, which has the same shape."""
        names = [name.strip("{}") for name in _PARAMETER.findall(path)]
        own = [name.strip("{}") for name in _PARAMETER.findall(self.path)]
        new_names = dict(zip(own, names, strict=True))
        parameters = (
            replace(
                parameter,
                name=new_names[parameter.name],
                format=_PARAMETER.sub(lambda name: f"{{{new_names[name[0][1:-1]]}}}", parameter.format),
            )
            for parameter in self.parameters
        )
        return ExpandedPath(path, tuple(parameters))


class PathExpander:
    """Expands templates; parameters are named as in the patterns of resources, else by their collections."""

    def __init__(self, rules: Iterable[HttpRule]) -> None:
        #: Names by the segments before them, e.g. ("jobs",) -> "job".
        self._names = dict(_pattern_names(rules))

    def expand(self, template: Template) -> ExpandedPath:
        """Return the path of *template*."""
        segments, parameters = list(template.segments), []
        for variable in template.variables:
            for index in range(variable.start, variable.stop):
                if segments[index] in (ONE, MANY):
                    name = self._name(template, variable, index)
                    parameters.append((name, variable, segments[index] == MANY))
                    segments[index] = f"{{{name}}}"
        for index, segment in enumerate(segments):
            # A wildcard outside of a variable.
            if segment in (ONE, MANY):
                segments[index] = f"{{segment{index}}}"
        path = "/" + "/".join(segments) + (f":{template.verb}" if template.verb else "")
        return ExpandedPath(
            path,
            tuple(
                PathParameter(name, v.field, "/".join(segments[v.start : v.stop]), multiple)
                for name, v, multiple in parameters
            ),
        )

    def _name(self, template: Template, variable: Variable, index: int) -> str:
        if not variable.multiple:
            # Not all generators accept dots in the names of parameters.
            return variable.field.rpartition(".")[2]
        collections = tuple(
            segment for segment in template.segments[variable.start : index] if segment not in (ONE, MANY)
        )
        if not collections:
            return f"{variable.field.rpartition('.')[2]}{index - variable.start or ''}"
        return self._names.get(collections) or _singular(collections[-1])


def _pattern_names(rules: Iterable[HttpRule]) -> Iterator[tuple[tuple[str, ...], str]]:
    for pattern in _resource_patterns(rules):
        collections: list[str] = []
        for segment in pattern.split("/"):
            if segment.startswith("{"):
                yield tuple(collections), segment.strip("{}")
            else:
                collections.append(segment)


def _resource_patterns(rules: Iterable[HttpRule]) -> set[str]:
    files = {message.file for rule in rules for message in (rule.method.input_type, rule.method.output_type)}
    messages: list[Descriptor] = [
        message for file in files for message in file.message_types_by_name.values()
    ]
    messages += [rule.method.output_type for rule in rules]
    return {
        pattern
        for message in messages
        for pattern in message.GetOptions().Extensions[resource_pb2.resource].pattern
    }


def _singular(collection: str) -> str:
    return f"{collection[:-3]}y" if collection.endswith("ies") else collection.removesuffix("s")
