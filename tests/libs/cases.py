"""Checks of the transcoding vectors: one function for each section of transcoding.json.

Each takes a vector and raises AssertionError if the transcoder behaves otherwise.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from google.rpc import code_pb2, status_pb2
from tests.libs import asgi, lab

from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.binding.query import QueryBinder
from reelhaul_transcoding.binding.update_mask import paths_in_json
from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.codec.strict_json import parse_json
from reelhaul_transcoding.errors import TranscodingError
from reelhaul_transcoding.http.headers import HeaderPolicy, parse_grpc_timeout
from reelhaul_transcoding.http.status import StatusWriter, http_status_of, http_status_of_health
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.percent import Unescape
from reelhaul_transcoding.routing.router import Router
from reelhaul_transcoding.routing.rules import RouteError
from reelhaul_transcoding.routing.templates import TemplateError, parse_template
from reelhaul_transcoding.upstream import Upstream

STRICT = Options(ignore_unknown_fields=False)
LENIENT = Options(
    ignore_unknown_parameters=lambda _: True,
    reject_conflicts=False,
    ignore_unbound_body=True,
    infer_update_mask=True,
)
_SERVING_STATUSES = {"UNKNOWN": 0, "SERVING": 1, "NOT_SERVING": 2, "SERVICE_UNKNOWN": 3}


class Skipped(Exception):
    """The vector expects nothing that can be checked."""


@contextmanager
def rejected() -> Iterator[None]:
    """Raise AssertionError unless the block raises an error of the transcoder."""
    try:
        yield
    except (TranscodingError, TemplateError):
        return
    raise AssertionError("was accepted")


def check_path(vector: dict[str, Any]) -> None:
    """A request path and its match; the vectors' default mode is Envoy's."""
    mode = vector.get("unescape_mode", "ALL_CHARACTERS_EXCEPT_RESERVED")
    router: Router[str] = Router(Unescape[mode])
    for route in vector.get("registered") or [f"{vector['method']} {vector['template']}"]:
        method, _, template = route.partition(" ")
        router.add(method, parse_template(template), template, template)
    expected = vector["expect"]
    try:
        match = router.match(vector["method"], vector["path"].encode())
    except TranscodingError:
        assert not expected["matched"], "no match"
        return
    assert expected["matched"], f"matched {match.target}"
    variables = {name: value for name, value in match.variables if value}
    expected_variables = {name: value for name, value in expected["vars"].items() if value}
    assert variables == expected_variables, variables
    if "template" in expected:
        assert match.target == expected["template"], match.target


def check_invalid_template(vector: dict[str, Any]) -> None:
    """A template that must be rejected at start."""
    with rejected():
        parse_template(vector["template"])


def check_template_decision(vector: dict[str, Any]) -> None:
    """A template on which gateways differ."""
    if vector["expect"].startswith("accept"):
        parse_template(vector["template"])
    else:
        check_invalid_template(vector)


def check_query(vector: dict[str, Any]) -> None:
    """A query string and the message that it sets."""
    expected = vector["expect"]
    if expected.get("unknown_parameter"):
        with rejected():
            _bind_query(vector)
        assert _bind_query(vector, ignore_unknown=True) == expected["lenient"]
    elif "error" in expected:
        with rejected():
            _bind_query(vector)
    elif "json" in expected:
        assert (message := _bind_query(vector)) == expected["json"], message
    else:
        raise Skipped


def check_query_filter(vector: dict[str, Any]) -> None:
    """Parameters for fields that the path or the body sets."""
    assert (message := _bind_query(vector)) == vector["expect"], message
    with rejected():
        _bind_query(vector, reject_conflicts=True)


def _bind_query(vector: dict[str, Any], **options: bool) -> Any:
    message_class = lab.message_class(vector["message"])
    message = message_class()
    binder = QueryBinder(message_class.DESCRIPTOR, vector.get("bound", ()), **options)
    binder.bind(message, vector["query"].encode())
    return json.loads(Encoder().encode(message))


def check_status(vector: dict[str, Any]) -> None:
    """A code, its HTTP status and its body."""
    assert http_status_of(vector["code"]) == vector["http_status"]
    if vector.get("body"):
        status = status_pb2.Status(code=vector["code"], message=vector["body"]["message"])
        assert json.loads(StatusWriter(Encoder()).to_json(status)) == vector["body"]


def check_body(vector: dict[str, Any]) -> None:
    """A request body, echoed by the upstream."""
    expected = vector["expect"]
    if expected.get("policy"):
        assert _send_body(vector, STRICT).status == 400
        assert (response := _send_body(vector, LENIENT)).json == expected["lenient"], response
    elif "error" in expected:
        name, _, status = expected["error"].partition(" / ")
        assert (response := _send_body(vector, STRICT)).status == int(status or 400), response
        assert name not in code_pb2.Code.keys() or response.json["code"] == code_pb2.Code.Value(name)
    elif "json" in expected:
        response = _send_body(vector, LENIENT)
        assert response.status == 200, response
        assert response.json == expected["json"], response
    else:
        raise Skipped


def _send_body(vector: dict[str, Any], options: Options) -> asgi.Response:
    # Inferred masks have their own vectors.
    infer_update_mask = "updateMask" in vector["expect"].get("json", {})
    app = _transcoder(lab.EchoUpstream(), replace(options, infer_update_mask=infer_update_mask))
    text = vector.get("body")
    headers = {"content-type": vector.get("content_type", "application/json")} if text else {}
    body = (text or "").encode()
    return asyncio.run(asgi.request(app, vector["method"], vector["path"], body=body, headers=headers))


def check_update_mask(vector: dict[str, Any]) -> None:
    """A PATCH body and the paths that it sets."""
    message_class = lab.message_class(vector["message"])
    value = parse_json(vector["body"].encode())
    if "error" in vector["expect"]:
        with rejected():
            Decoder().compile(message_class.DESCRIPTOR)(message_class(), value, "")
        return
    if "paths" not in vector["expect"]:
        raise Skipped
    paths = paths_in_json(message_class.DESCRIPTOR, value)
    assert paths == vector["expect"]["paths"], paths


def check_grpc_timeout(vector: dict[str, Any]) -> None:
    """A Grpc-Timeout header; values that gRPC's rules do not allow are rejected."""
    if "seconds" in vector:
        assert math.isclose(parse_grpc_timeout(vector["header"]), vector["seconds"])
        return
    with rejected():
        parse_grpc_timeout(vector["header"])


def check_header(vector: dict[str, Any]) -> None:
    """Request headers and their metadata, or with ``out`` the response headers of metadata."""
    policy = HeaderPolicy(permanent_prefix="grpcgateway-")
    if "out" in vector:
        _check_response_headers(policy, vector)
        return
    if "error" not in vector and "metadata" not in vector:
        raise Skipped
    for padded in (True, False):
        encoded = base64.b64encode(b"\x00\xffhaul!").decode()
        headers = [
            (name.encode(), _fill_base64(value, encoded if padded else encoded.rstrip("=")).encode())
            for name, values in vector["in"].items()
            for value in values
        ]
        if "error" in vector:
            with rejected():
                policy.to_metadata(headers)
            continue
        metadata: dict[str, list[str | bytes]] = {}
        for key, value in policy.to_metadata(headers):
            metadata.setdefault(key, []).append(value)
        expected = {
            key: [b"\x00\xffhaul!" if value == "<raw bytes>" else value for value in values]
            for key, values in vector["metadata"].items()
        }
        assert metadata == expected, metadata


def _check_response_headers(policy: HeaderPolicy, vector: dict[str, Any]) -> None:
    metadata = [(key, value) for key, values in vector["metadata"].items() for value in values]
    raw = [(k, b"\x00\xffhaul!" if value == "<raw bytes>" else value) for k, value in metadata]
    headers: dict[str, list[str]] = {}
    for name, value in policy.to_headers(raw):
        headers.setdefault(name.decode(), []).append(value.decode())
    encoded = base64.b64encode(b"\x00\xffhaul!").decode()
    expected = {
        name.lower(): [_fill_base64(value, encoded) for value in values]
        for name, values in vector["out"].items()
    }
    assert headers == expected, headers


def _fill_base64(value: str, encoded: str) -> str:
    return encoded if value.startswith("<base64") else value


def check_health(vector: dict[str, Any]) -> None:
    """The health that an upstream reports, and its HTTP status."""
    if vector["grpc_code"]:
        assert http_status_of(vector["grpc_code"]) == vector["http_status"]
    else:
        serving_status = _SERVING_STATUSES[vector["serving_status"]]
        assert http_status_of_health(serving_status) == vector["http_status"]


def check_stream(vector: dict[str, Any]) -> None:
    """A server stream as lines and as events; a failure is visible in both."""
    if "messages" not in vector:
        raise Skipped
    chunk_class = lab.message_class("lab.v1.Chunk")
    error = status_pb2.Status(**vector["error"]) if "error" in vector else None
    chunks = [chunk_class(i=message["i"]).SerializeToString() for message in vector["messages"]]
    app = _transcoder(lab.CannedUpstream(chunks, error), STRICT)
    lines = asyncio.run(asgi.request(app, "GET", "/v1/watch/1"))
    events = asyncio.run(asgi.request(app, "GET", "/v1/watch/1", headers={"accept": "text/event-stream"}))
    failure = {**vector["error"], "details": []} if error else None
    if error and not vector["messages"]:
        for response in (lines, events):
            assert response.status == http_status_of(error.code)
            assert response.json == failure
        return
    values = [{key: value for key, value in message.items() if value} for message in vector["messages"]]
    expected = [{"result": value} for value in values] + ([{"error": failure}] if failure else [])
    assert [json.loads(line) for line in lines.body.splitlines()] == expected
    expected_events = [(b"", value) for value in values] + (
        [(b"event: stream_error\n", failure)] if failure else []
    )
    blocks = events.body.split(b"\n\n")[:-1]
    parts = [block.partition(b"data: ") for block in blocks]
    assert [(name, json.loads(data)) for name, _, data in parts] == expected_events
    assert lines.complete
    assert events.complete


def check_routing(vector: dict[str, Any]) -> None:
    """A request described in words; unknown descriptions are skipped."""
    if vector["request"] not in _ROUTING:
        raise Skipped
    method, url, headers, expected_status = _ROUTING[vector["request"]]
    app = _transcoder(lab.EchoUpstream(), STRICT)
    body = b"x=1" if headers else b""
    response = asyncio.run(asgi.request(app, method, url, body=body, headers=headers))
    assert response.status == expected_status, response
    if expected_status == 405:
        assert response.headers["allow"]
    if method != "HEAD":
        assert response.json["code"], response


_FORM = {"content-type": "application/x-www-form-urlencoded"}
_ROUTING: dict[str, tuple[str, str, dict[str, str], int]] = {
    "DELETE /foo, only GET /foo bound": ("DELETE", "/foo", {}, 405),
    "GET /bar, nothing bound": ("GET", "/bar", {}, 404),
    "HEAD on a GET binding": ("HEAD", "/foo", {}, 200),
    "POST form-urlencoded to a GET-only path": ("POST", "/foo", _FORM, 405),
    "POST form-urlencoded + X-HTTP-Method-Override: DELETE": (
        "POST",
        "/v1/all",
        {**_FORM, "x-http-method-override": "DELETE"},
        415,
    ),
    "POST body, Content-Type text/plain": ("POST", "/v1/all", {"content-type": "text/plain"}, 415),
}


def _transcoder(upstream: Upstream, options: Options) -> Transcoder:
    try:
        return Transcoder([(lab.service(), upstream)], options)
    except RouteError as error:
        raise AssertionError("the annotations of lab.v1 are rejected") from error
