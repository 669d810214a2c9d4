"""docs/grpc.md: the public services, messages and enums, from the comments and options of protos/."""

from __future__ import annotations

from collections.abc import Iterator

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from tests.docs.reference.markdown import anchor, heading, table
from tests.docs.reference.protos import Enum, Message, Protos

from reelhaul.type.v1 import method_policy_pb2

_INTRODUCTION = """
The public services, by package. Every service supports reflection and `grpc.health.v1.Health`. Methods are
called with a key as the metadata `authorization: Bearer <key>`; *level* is the lowest that a key needs,
*units* what a call takes of its requests per minute, *deadline* the longest that the server grants. The
route is the same method in JSON ([rest.md](rest.md)). `reelhaul.work`, by which the services speak among
themselves, is not part of the API. The reasons of errors have a [page of their own](errors.md).
"""
#: Packages of the API, with the service of the suite that serves them, in the order of the page.
_PACKAGES = {
    "reelhaul.downloads.v1": "jobs",
    "reelhaul.jobs.v1": "jobs",
    "reelhaul.storage.v1": "storage",
    "reelhaul.fetcher.v1": "fetcher",
    "reelhaul.admin.v1": "jobs",
    "reelhaul.system.v1": "every service; over HTTP the gateway, for all of them",
    "reelhaul.type.v1": "",
}
#: Described elsewhere, or no part of any message.
_LEFT_OUT = ("reelhaul.type.v1.ErrorReason", "reelhaul.type.v1.ErrorSpec", "reelhaul.type.v1.MethodPolicy")


def page() -> str:
    """Return docs/grpc.md."""
    protos = Protos.load()
    parts = [heading("gRPC reference", "protos/", _INTRODUCTION)]
    for package, server in _PACKAGES.items():
        parts.append(f"## {package}\n")
        if server:
            parts.append(f"Served by {server}.\n")
        for file in protos.files_of(package):
            for service in file.service:
                parts += _describe_service(protos, f"{package}.{service.name}", service)
        parts += [
            _describe_message(protos, message)
            for message in protos.messages.values()
            if protos.package_of(message.name) == package and message.name not in _LEFT_OUT
        ]
        parts += [
            _describe_enum(protos, enum)
            for enum in protos.enums.values()
            if protos.package_of(enum.name) == package and enum.name not in _LEFT_OUT
        ]
    return "\n".join(parts)


def _describe_service(
    protos: Protos, name: str, service: descriptor_pb2.ServiceDescriptorProto
) -> Iterator[str]:
    methods = [(method, _policy(method)) for method in service.method]
    public = [(method, policy) for method, policy in methods if not policy.internal_only]
    if not public:
        return
    yield f"### {name}\n\n{protos.comment(name)}\n"
    for method, policy in public:
        yield f"#### {service.name}.{method.name}\n\n{protos.comment(f'{name}.{method.name}')}\n"
        request = _link(protos, method.input_type[1:])
        response = ("stream of " if method.server_streaming else "") + _link(protos, method.output_type[1:])
        request = ("stream of " if method.client_streaming else "") + request
        level = method_policy_pb2.PermissionLevel.Name(policy.permission).removeprefix("PERMISSION_LEVEL_")
        seconds = policy.max_deadline.seconds or 30
        routes = ", ".join(f"`{route}`" for route in _routes(method))
        yield table(
            ("request", "response", "level", "units", "deadline", "route"),
            [(request, response, level, str(policy.quota_cost or 1), f"{seconds} s", routes)],
        )


def _policy(method: descriptor_pb2.MethodDescriptorProto) -> method_policy_pb2.MethodPolicy:
    policy: method_policy_pb2.MethodPolicy = method.options.Extensions[method_policy_pb2.policy]
    return policy


def _routes(method: descriptor_pb2.MethodDescriptorProto) -> Iterator[str]:
    rule = method.options.Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        if verb := each.WhichOneof("pattern"):
            yield f"{verb.upper()} {getattr(each, verb)}"


def _describe_message(protos: Protos, message: Message) -> str:
    parts = [f"### {_short(protos, message.name)}\n", f"`{message.name}`\n"]
    if comment := protos.comment(message.name):
        parts.append(f"{comment}\n")
    if message.descriptor.field:
        rows = [
            (
                f"`{field.name}`",
                str(field.number),
                _link_type(protos, protos.describe_type(message, field)),
                _one_of(message, field) + protos.comment(f"{message.name}.{field.name}"),
            )
            for field in message.descriptor.field
        ]
        parts.append(table(("field", "number", "type", "meaning"), rows))
    return "\n".join(parts)


def _describe_enum(protos: Protos, enum: Enum) -> str:
    parts = [f"### {_short(protos, enum.name)}\n", f"`{enum.name}`\n"]
    if comment := protos.comment(enum.name):
        parts.append(f"{comment}\n")
    rows = [
        (f"`{value.name}`", str(value.number), protos.comment(f"{enum.name}.{value.name}"))
        for value in enum.descriptor.value
    ]
    parts.append(table(("value", "number", "meaning"), rows))
    return "\n".join(parts)


def _one_of(message: Message, field: descriptor_pb2.FieldDescriptorProto) -> str:
    """Return which of several fields may be set, if *field* is one of them."""
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    return f"One of `{message.descriptor.oneof_decl[field.oneof_index].name}`. "


def _short(protos: Protos, name: str) -> str:
    """Return *name* without its package."""
    return name.removeprefix(f"{protos.package_of(name)}.")


def _link_type(protos: Protos, kind: str) -> str:
    words = kind.replace("map<", "map< ").replace(">", " >").split(" ")
    return " ".join(_link(protos, word) if "." in word else word for word in words).replace("<", "\\<")


def _link(protos: Protos, name: str) -> str:
    """Return a link to the message or enum *name* on the page; its name alone if it is not there."""
    if name.endswith(".ErrorReason"):
        return "[ErrorReason](errors.md)"
    if protos.package_of(name) not in _PACKAGES or name in _LEFT_OUT:
        return f"`{name}`"
    short = _short(protos, name)
    return f"[{short}](#{anchor(short)})"
