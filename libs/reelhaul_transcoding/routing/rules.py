"""Rules: the google.api.http annotations of methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from reelhaul_transcoding.routing import templates
from reelhaul_transcoding.routing.router import RouteError
from reelhaul_transcoding.routing.templates import Template


@dataclass(frozen=True, slots=True)
class Rule:
    """One HTTP binding of a method."""

    method: MethodDescriptor
    verb: str
    template: str
    body: str
    response_body: str

    @property
    def name(self) -> str:
        """The method as ``package.Service.Method``."""
        return str(self.method.full_name)


def rules(services: Iterable[ServiceDescriptor]) -> list[Rule]:
    """Every HTTP binding of *services*, in the order of the descriptors. Raises RouteError."""
    return [rule for service in services for method in service.methods for rule in rules_of(method)]


def rules_of(method: MethodDescriptor) -> Iterator[Rule]:
    """The HTTP bindings of *method*; none where it has no annotation. Raises RouteError."""
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    yield _rule(method, rule)
    for additional in rule.additional_bindings:
        if additional.additional_bindings:
            raise RouteError(f"{method.full_name}: additional_bindings inside additional_bindings")
        yield _rule(method, additional)


def parsed(rule: Rule) -> Template:
    """The template of *rule*. Raises RouteError."""
    try:
        return templates.parsed(rule.template)
    except templates.TemplateError as error:
        raise RouteError(f"{rule.name}: {error}") from error


def _rule(method: MethodDescriptor, rule: http_pb2.HttpRule) -> Rule:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise RouteError(f"{method.full_name}: the HttpRule names no path")
    verb, template = (
        (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind.upper(), getattr(rule, kind))
    )
    return Rule(method, verb, template, rule.body, rule.response_body)
