"""HTTP requests of RPCs, by the ``google.api.http`` option of each method, which the gateway serves them by.

https://github.com/googleapis/googleapis/blob/master/google/api/http.proto
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message

from reelhaul._core.errors import RequestInvalid

_VARIABLE = re.compile(r"\{([a-z_.]+)(?:=([^}]+))?\}")
# A segment that would leave its place in the path.
_DOTS = frozenset({".", ".."})


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request without its server."""

    verb: str
    path: str
    query: httpx.QueryParams
    #: In JSON; None if the method takes no body.
    body: Any
    headers: dict[str, str]


def to_http(method: MethodDescriptor, message: Message) -> HttpRequest:
    """Return the HTTP request of *method* with *message*. Raises RequestInvalid if a name does not fit."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    if verb is None:
        raise NotImplementedError(f"{method.full_name} has no HTTP path")
    fields: dict[str, Any] = json_format.MessageToDict(message)
    # A header, so that the server takes it for every method alike.
    request_id = fields.pop("request_id", "") or fields.pop("requestId", "")
    descriptor = method.input_type

    def replace(variable: re.Match[str]) -> str:
        value = _pop(fields, descriptor, variable[1].split("."))
        return _fill(variable[1], variable[2] or "*", value)

    path = _VARIABLE.sub(replace, getattr(rule, verb))
    body: Any = None
    if rule.body == "*":
        body, fields = fields, {}
    elif rule.body:
        body = fields.pop(_json_name(descriptor, rule.body), {})
    headers = {"Idempotency-Key": request_id} if request_id else {}
    return HttpRequest(verb.upper(), path, httpx.QueryParams(list(_query(fields))), body, headers)


def _pop(fields: dict[str, Any], descriptor: Descriptor, path: list[str]) -> str:
    """Remove the field at *path*, proto names, from *fields*; return its text."""
    first, *rest = path
    name = _json_name(descriptor, first)
    if not rest:
        return str(fields.pop(name, ""))
    message = descriptor.fields_by_name[first].message_type
    assert message is not None
    return _pop(fields.get(name, {}), message, rest)


def _json_name(descriptor: Descriptor, field: str) -> str:
    return str(descriptor.fields_by_name[field].json_name)


def _fill(field: str, template: str, value: str) -> str:
    """Return *value* for a variable of a path. Raises RequestInvalid if it is not of the form *template*."""
    pattern = re.escape(template).replace(r"\*", "[^/]+")
    if not re.fullmatch(pattern, value) or _DOTS.intersection(value.split("/")):
        problem = f"must be of the form {template.replace('*', '{id}')}"
        raise RequestInvalid(
            "INVALID_ARGUMENT", f"{field}: {problem}", reason="FIELD_INVALID", fields={field: problem}
        )
    return quote(value, safe="/")


def _query(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _query(value, f"{prefix}{name}.")
        else:
            for item in value if isinstance(value, list) else [value]:
                yield f"{prefix}{name}", str(item).lower() if isinstance(item, bool) else str(item)
