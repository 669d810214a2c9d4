"""Cases: how one vector of each section of transcoding.json is put to the transcoder."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from google.rpc import status_pb2
from tests.libs import asgi, lab

from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.binding.query import Query
from reelhaul_transcoding.binding.update_mask import paths_of
from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.codec.strict_json import value_of
from reelhaul_transcoding.errors import Fault
from reelhaul_transcoding.health import http_status_of_health
from reelhaul_transcoding.http.headers import HeaderPolicy, timeout_of
from reelhaul_transcoding.http.status import StatusWriter, http_status_of
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing import templates
from reelhaul_transcoding.routing.percent import Unescape
from reelhaul_transcoding.routing.router import RouteError, Router
from reelhaul_transcoding.upstream import Upstream

STRICT = Options(ignore_unknown_fields=False)
LENIENT = Options(
    ignore_unknown_parameters=True, refuse_conflicts=False, ignore_unbound_body=True, patch_masks=True
)
_SERVING = {"UNKNOWN": 0, "SERVING": 1, "NOT_SERVING": 2, "SERVICE_UNKNOWN": 3}


class Skipped(Exception):
    """The vector expects nothing that could be checked."""


@contextmanager
def refused() -> Iterator[None]:
    """Raises AssertionError unless what is inside is refused as it should be."""
    try:
        yield
    except (Fault, templates.TemplateError):
        return
    raise AssertionError("was taken")


def path(vector: dict[str, Any]) -> None:
    """A request path and what it leads to; the vectors' own default mode is Envoy's."""
    mode = vector.get("unescape_mode", "ALL_CHARACTERS_EXCEPT_RESERVED")
    router: Router[str] = Router(Unescape[mode])
    for registered in vector.get("registered") or [f"{vector['method']} {vector['template']}"]:
        method, _, template = registered.partition(" ")
        router.add(method, templates.parsed(template), template, template)
    expected = vector["expect"]
    try:
        match = router.match(vector["method"], vector["path"].encode())
    except Fault:
        assert not expected["matched"], "no match"
        return
    assert expected["matched"], f"matched {match.target}"
    got = {name: value for name, value in match.variables if value}
    wanted = {name: value for name, value in expected["vars"].items() if value}
    assert got == wanted, got
    if "template" in expected:
        assert match.target == expected["template"], match.target


def invalid_template(vector: dict[str, Any]) -> None:
    """A template that must not start."""
    with refused():
        templates.parsed(vector["template"])


def template_decision(vector: dict[str, Any]) -> None:
    """A template that gateways disagree about."""
    if vector["expect"].startswith("accept"):
        templates.parsed(vector["template"])
    else:
        invalid_template(vector)


def query(vector: dict[str, Any]) -> None:
    """A query string and the message that it makes."""
    expected = vector["expect"]
    if expected.get("unknown_parameter"):
        with refused():
            _queried(vector)
        assert _queried(vector, unknown=True) == expected["lenient"]
    elif "error" in expected:
        with refused():
            _queried(vector)
    else:
        assert (got := _queried(vector)) == expected["json"], got


def query_filter(vector: dict[str, Any]) -> None:
    """Parameters of fields that the path or the body has set."""
    assert (got := _queried(vector)) == vector["expect"], got
    with refused():
        _queried(vector, strict=True)


def _queried(vector: dict[str, Any], **switches: bool) -> Any:
    kind = lab.message(vector["message"])
    made = kind()
    Query(kind.DESCRIPTOR, vector.get("bound", ()), **switches).apply(made, vector["query"].encode())
    return json.loads(Encoder().json(made))


def status(vector: dict[str, Any]) -> None:
    """A code, its HTTP status and its body."""
    assert http_status_of(vector["code"]) == vector["http_status"]
    if vector.get("body"):
        told = status_pb2.Status(code=vector["code"], message=vector["body"]["message"])
        assert json.loads(StatusWriter(Encoder()).json(told)) == vector["body"]


def body(vector: dict[str, Any]) -> None:
    """A request body, mirrored."""
    expected = vector["expect"]
    if expected.get("policy"):
        assert _sent(vector, STRICT).status == 400
        assert (reply := _sent(vector, LENIENT)).json == expected["lenient"], reply
    elif "error" in expected:
        assert (reply := _sent(vector, STRICT)).status == 400, reply
        assert reply.json["code"] == 3
    elif "json" in expected:
        reply = _sent(vector, LENIENT)
        assert reply.status == 200, reply
        assert reply.json == expected["json"], reply
    else:
        raise Skipped


def _sent(vector: dict[str, Any], options: Options) -> asgi.Reply:
    # A mask that we fill in is checked by its own vectors.
    patch_masks = "updateMask" in vector["expect"].get("json", {})
    app = _app(lab.Mirror(), replace(options, patch_masks=patch_masks))
    text = vector.get("body")
    headers = {"content-type": vector.get("content_type", "application/json")} if text else {}
    content = (text or "").encode()
    return asyncio.run(asgi.request(app, vector["method"], vector["path"], body=content, headers=headers))


def update_mask(vector: dict[str, Any]) -> None:
    """A PATCH body and the paths that it changes."""
    kind = lab.message(vector["message"])
    value = value_of(vector["body"].encode())
    if "error" in vector["expect"]:
        with refused():
            Decoder(unknown_fields=False).of(kind.DESCRIPTOR)(kind(), value, "")
        return
    assert (got := paths_of(kind.DESCRIPTOR, value)) == vector["expect"]["paths"], got


def grpc_timeout(vector: dict[str, Any]) -> None:
    """A Grpc-Timeout header; what gRPC's own rules do not allow is refused."""
    if "seconds" in vector:
        assert math.isclose(timeout_of(vector["header"]), vector["seconds"])
        return
    with refused():
        timeout_of(vector["header"])


def header(vector: dict[str, Any]) -> None:
    """Request headers and the metadata that they become."""
    policy = HeaderPolicy(permanent_prefix="grpcgateway-")
    for padded in (True, False):
        content = base64.b64encode(b"\x00\xffhaul!").decode()
        given = [
            (name.encode(), _filled(value, content if padded else content.rstrip("=")).encode())
            for name, values in vector["in"].items()
            for value in values
        ]
        if "error" in vector:
            with refused():
                policy.metadata(given)
            continue
        got: dict[str, list[str | bytes]] = {}
        for key, value in policy.metadata(given):
            got.setdefault(key, []).append(value)
        wanted = {
            key: [b"\x00\xffhaul!" if value == "<raw bytes>" else value for value in values]
            for key, values in vector["metadata"].items()
        }
        assert got == wanted, got


def _filled(value: str, content: str) -> str:
    return content if value.startswith("<base64") else value


def health(vector: dict[str, Any]) -> None:
    """What an upstream says of its health, and the HTTP status of that."""
    if vector["grpc_code"]:
        assert http_status_of(vector["grpc_code"]) == vector["http_status"]
    else:
        assert http_status_of_health(_SERVING[vector["serving_status"]]) == vector["http_status"]


def stream(vector: dict[str, Any]) -> None:
    """A server stream as lines and as events, its failure visible in both."""
    chunk = lab.message("lab.v1.Chunk")
    error = status_pb2.Status(**vector["error"]) if "error" in vector else None
    app = _app(lab.Recorded([chunk(i=m["i"]).SerializeToString() for m in vector["messages"]], error), STRICT)
    lines = asyncio.run(asgi.request(app, "GET", "/v1/watch/1"))
    events = asyncio.run(asgi.request(app, "GET", "/v1/watch/1", headers={"accept": "text/event-stream"}))
    told = {**vector["error"], "details": []} if error else None
    if error and not vector["messages"]:
        for reply in (lines, events):
            assert reply.status == http_status_of(error.code)
            assert reply.json == told
        return
    values = [{key: value for key, value in m.items() if value} for m in vector["messages"]]
    wanted = [{"result": value} for value in values] + ([{"error": told}] if told else [])
    assert [json.loads(line) for line in lines.body.splitlines()] == wanted
    wanted_events = [(b"", value) for value in values] + ([(b"event: error\n", told)] if told else [])
    blocks = events.body.split(b"\n\n")[:-1]
    parts = [block.partition(b"data: ") for block in blocks]
    assert [(name, json.loads(text)) for name, _, text in parts] == wanted_events
    assert lines.whole
    assert events.whole


def routing(vector: dict[str, Any]) -> None:
    """A request in words; those that we do not know are skipped."""
    if vector["request"] not in _ROUTING:
        raise Skipped
    method, url, headers, wanted = _ROUTING[vector["request"]]
    reply = asyncio.run(
        asgi.request(
            _app(lab.Mirror(), STRICT), method, url, body=b"x=1" if headers else b"", headers=headers
        )
    )
    assert reply.status == wanted, reply
    if wanted == 405:
        assert reply.headers["allow"]
    if method != "HEAD":
        assert reply.json["code"], reply


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


def _app(upstream: Upstream, options: Options) -> Transcoder:
    try:
        return Transcoder([(lab.service(), upstream)], options)
    except RouteError as error:
        raise AssertionError("the lab does not start") from error
