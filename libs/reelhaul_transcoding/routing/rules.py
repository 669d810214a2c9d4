"""HTTP rules: the google.api.http annotations of methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from reelhaul_transcoding.routing.templates import Template, TemplateError, parse_template


class RouteError(ValueError):
    """An annotation is invalid, or two methods match the same paths: fatal at start."""


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One HTTP binding of a method."""

    method: MethodDescriptor
    #: ``*`` for any method.
    http_method: str
    template: str
    body: str
    response_body: str

    @property
    def name(self) -> str:
        """The gRPC method as ``package.Service.Method``."""
        return str(self.method.full_name)

    def parse_template(self) -> Template:
        """Return the parsed template. Raises RouteError."""
        try:
            return parse_template(self.template)
        except TemplateError as error:
            raise RouteError(f"{self.name}: {error}") from error


def http_rules(services: Iterable[ServiceDescriptor]) -> list[HttpRule]:
    """Return every HTTP binding of *services*, in the order of the descriptors. Raises RouteError."""
    return [rule for service in services for method in service.methods for rule in _rules_of(method)]


def _rules_of(method: MethodDescriptor) -> Iterator[HttpRule]:
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    annotation: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    yield _rule(method, annotation)
    for additional in annotation.additional_bindings:
        if additional.additional_bindings:
            raise RouteError(f"{method.full_name}: additional_bindings must not be nested")
        yield _rule(method, additional)


def _rule(method: MethodDescriptor, annotation: http_pb2.HttpRule) -> HttpRule:
    pattern = annotation.WhichOneof("pattern")
    if pattern is None:
        raise RouteError(f"{method.full_name}: the HttpRule has no path")
    if pattern == "custom":
        http_method, template = annotation.custom.kind, annotation.custom.path
    else:
        http_method, template = pattern.upper(), getattr(annotation, pattern)
    return HttpRule(method, http_method, template, annotation.body, annotation.response_body)
