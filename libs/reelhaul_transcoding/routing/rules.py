"""HTTP rules: the google.api.http annotations of methods, and the rules of a service config."""

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


def http_rules(
    services: Iterable[ServiceDescriptor],
    config: http_pb2.Http | None = None,
    *,
    auto_mapping: bool = False,
) -> list[HttpRule]:
    """Return every HTTP binding of *services*, in the order of the descriptors.

    A rule of *config* replaces the annotation of the method that it selects; of several, the last one
    wins. With *auto_mapping*, a method with neither is ``POST /package.Service/Method`` with its whole
    request as body, as in Envoy. Raises RouteError, also for a selector that is no method.
    """
    services = list(services)
    configured = {rule.selector: rule for rule in config.rules} if config is not None else {}
    methods = [method for service in services for method in service.methods]
    if unknown := configured.keys() - {method.full_name for method in methods}:
        raise RouteError(f"the service config has a rule for {min(unknown)}, which is no served method")
    rules: list[HttpRule] = []
    for method in methods:
        annotation = configured.get(method.full_name) or _annotation(method)
        if annotation is not None:
            rules.extend(_rules(method, annotation))
        elif auto_mapping:
            template = f"/{method.containing_service.full_name}/{method.name}"
            rules.append(HttpRule(method, "POST", template, "*", ""))
    return rules


def _annotation(method: MethodDescriptor) -> http_pb2.HttpRule | None:
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return None
    annotation: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    return annotation


def _rules(method: MethodDescriptor, annotation: http_pb2.HttpRule) -> Iterator[HttpRule]:
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
