"""Parsers of untrusted input take time in proportion to its size.

To cover another parser, add a line to CASES: an input of n units that an attacker would choose, and the
call that parses it.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import ipaddress
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from tests.libs import lab

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2
from reelhaul_gateway import origins, proxy_protocol, request_head
from reelhaul_gateway.files import ArtifactDownloads
from reelhaul_gateway.settings import Settings
from reelhaul_gateway.transcoding import SERVICES, build_transcoder
from reelhaul_runtime import logs
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.binding.query import QueryBinder
from reelhaul_transcoding.binding.request_body import _JSON_TYPE
from reelhaul_transcoding.binding.update_mask import paths_in_json
from reelhaul_transcoding.codec import well_known
from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.codec.json_stream import JsonSplitter
from reelhaul_transcoding.codec.strict_json import parse_json
from reelhaul_transcoding.errors import FieldError, TranscodingError
from reelhaul_transcoding.http.asgi import accepts_gzip, read_body
from reelhaul_transcoding.http.headers import HeaderPolicy, combine_headers, parse_grpc_timeout
from reelhaul_transcoding.http.status import StatusWriter
from reelhaul_transcoding.openapi.paths import PathExpander
from reelhaul_transcoding.routing.percent import Unescape, percent_decode, percent_decode_except
from reelhaul_transcoding.routing.router import Router
from reelhaul_transcoding.routing.templates import parse_template
from reelhaul_transcoding.upstream import Call, UnaryResponse

# The head of a request may have 64 KiB, and its body 4 MiB.
_HEAD, _BODY = 64 << 10, 4 << 20
# A shorter time says more about the clock than about the parser.
_MIN_SECONDS = 0.002
# The work for an input 8 times as large may be 8 times as much; a quadratic parser needs 64 times as much.
_FACTOR, _MAX_RATIO = 8, 24
_TRIES = 5

_ALL = lab.message_class("lab.v1.All")
_BRACKETS = b"[]" * 101
# A body with more values is rejected unparsed.
_VALUES = 99_000


@dataclass(frozen=True)
class Case:
    """A parser and the input that would be the most work for it."""

    name: str
    #: Returns an input of n units.
    build: Callable[[int], Any]
    parse: Callable[[Any], object]
    #: Largest n to try; the largest input that reaches the parser needs no more.
    max_units: int = _HEAD


def _decode(field: str) -> Callable[[bytes], object]:
    decode = Decoder().compile(_ALL.DESCRIPTOR)
    return lambda text: decode(_ALL(), {field: parse_json(text)}, "")


def _bind(query: bytes) -> None:
    QueryBinder(_ALL.DESCRIPTOR, ()).bind(_ALL(), query)


def _router() -> Router[str]:
    router: Router[str] = Router(Unescape.ALL_CHARACTERS_EXCEPT_SLASH)
    for template in ("/v1/{name=jobs/*}", "/v1/{name=jobs/*}:cancel", "/v1/{name=files/**}", "/v1/a/*/b/*/c"):
        router.add("GET", parse_template(template), template, template)
    return router


def _request(request: tuple[bytes, bytes, bytes], app: Transcoder | None = None) -> None:
    """Send *request*, a path, a query and a body, through the transcoder; a server error is a failure."""
    path, query, body = request
    app = app or _APP

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: Any) -> None:
        if event.get("status", 0) >= 500:
            raise AssertionError(event)

    scope = {"type": "http", "path": "/", "raw_path": path, "query_string": query, "headers": []}
    for method in ("GET", "POST", "PATCH"):
        asyncio.run(app({**scope, "method": method}, receive, send))


@cache
def _gateway() -> tuple[Transcoder, list[bytes]]:
    """Return the gateway's transcoder, whose services answer with nothing, and a path of each route."""
    upstream = lab.CannedUpstream([b""])
    app = build_transcoder(Settings(), dict.fromkeys(SERVICES, upstream))
    paths = {re.sub(r"\{[^}=]*=?|\}", "", rule.template.replace("*", _JOB_ID)) for rule in app.rules}
    return app, [path.encode() for path in sorted(paths)]


def _gateway_request(number: int) -> tuple[bytes, bytes, bytes]:
    """Return a request of the route *number*, with a query and a body that some methods accept."""
    _, paths = _gateway()
    query = b"pageSize=1&view=basic&updateMask=labels&status=running&labels[a]=b"
    body = (
        b'{"url":"https://a.example","labels":{"a":"b"},"format":{"maxHeight":720},"ttl":"60s","names":["a"]}'
    )
    return paths[number % len(paths)], query, body if number % 2 else b""


def _members(count: int) -> bytes:
    return b",".join(b'"%d":0' % number for number in range(count))


def _split_json(text: bytes) -> None:
    """Split *text* in pieces of 16 KiB, as a client stream is."""
    splitter = JsonSplitter(_BODY)
    for start in range(0, len(text), 16 << 10):
        for _ in splitter.split(text[start : start + (16 << 10)]):
            pass


def _receiver(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class _Storage:
    """Storage with one artifact of one byte, which has *fields* besides."""

    def __init__(self, fields: dict[str, str]) -> None:
        self._artifact = artifact_pb2.Artifact(name="artifacts/a", size_bytes=1, etag='"x"', **fields)

    async def unary(self, call: Call) -> UnaryResponse:
        return UnaryResponse(self._artifact.SerializeToString())

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        yield storage_service_pb2.ReadArtifactResponse(content=b"a").SerializeToString()


def _download(query: bytes = b"", header: tuple[bytes, bytes] | None = None, **fields: str) -> None:
    """Handle a request for the content of an artifact with *fields*."""

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        pass

    scope = {
        "method": "GET",
        "raw_path": b"/v1/artifacts/a:download",
        "query_string": query,
        "headers": [header] if header else [],
    }
    downloads = ArtifactDownloads(_Storage(fields), StatusWriter(Encoder()))
    asyncio.run(downloads(scope, receive, send))


_ROUTER = _router()
_JOB_ID = "0190b5ae-0000-7000-8000-000000000000"
_APP = Transcoder([(lab.service(), lab.EchoUpstream())])

PROXIES = request_head.TrustedProxies([ipaddress.ip_network("127.0.0.0/8")])
CASES = [
    Case(
        "JSON: unterminated string of escapes",
        lambda n: _BRACKETS + b'"' + b'\\"' * n,
        parse_json,
        _BODY // 2,
    ),
    Case("JSON: unterminated string of quotes", lambda n: _BRACKETS + b'\\"' * n, parse_json, _BODY // 2),
    Case(
        "JSON: string that ends in a backslash",
        lambda n: _BRACKETS + b'"' + b"\\" * (2 * n + 1),
        parse_json,
        _BODY // 2,
    ),
    Case("JSON: brackets", lambda n: b"[" + b"[]," * n + b"[]]", parse_json, _BODY // 3),
    Case("JSON: objects", lambda n: b"[" + b'{"a":{}},' * n + b"0]", parse_json, _VALUES // 3),
    Case("JSON: numbers", lambda n: b"[" + b"0," * n + b"0]", parse_json, _BODY // 2),
    Case("JSON: strings", lambda n: b"[" + b'"",' * n + b"0]", parse_json, _BODY // 3),
    Case("JSON: quotes", lambda n: b"," * 100_001 + b'"' * n, parse_json, _BODY),
    Case("JSON: a string of commas and escapes", lambda n: b'["' + b',\\"' * n, parse_json, _BODY // 4),
    Case(
        "JSON: escapes at the ends of chunks",
        lambda n: b'["' + b"," * 100_001 + b"\\" * n + b'"]',
        parse_json,
        _BODY // 2,
    ),
    Case("JSON: brackets that do not match", lambda n: b"[]" * n, parse_json, _BODY // 2),
    Case("JSON: nesting", lambda n: b"[" * n, parse_json, _BODY),
    Case(
        "gzip: zeros",
        lambda n: gzip.compress(bytes(n)),
        lambda body: asyncio.run(read_body(_receiver(body), {b"content-encoding": b"gzip"}, _BODY)),
        _BODY,
    ),
    Case("JSON: strings of brackets", lambda n: b'["' + b"[" * n + b'"]', parse_json, _BODY),
    Case(
        "JSON: repeated name after many others",
        lambda n: b"{" + _members(n) + b',"%d":0}' % (n - 1),
        parse_json,
        _BODY // 12,
    ),
    Case("JSON: long number", lambda n: b"1" * n, parse_json, _BODY),
    Case("JSON: long fraction", lambda n: b"0." + b"1" * n, parse_json, _BODY),
    Case("JSON: whitespace", lambda n: b" " * n + b"x", parse_json, _BODY),
    Case(
        "JSON: escaped surrogates", lambda n: b'["' + b"\\ud83d\\ude00" * n + b'"]', parse_json, _BODY // 12
    ),
    Case("JSON: unfinished objects", lambda n: b'{"a":' * n, parse_json, _BODY // 5),
    Case(
        "client stream: values",
        lambda n: b"{}\n" * n,
        _split_json,
        _BODY // 3,
    ),
    Case(
        "client stream: whitespace",
        lambda n: b"{}" + b" " * n + b"x",
        _split_json,
        _BODY,
    ),
    Case("client stream: array of values", lambda n: b"[" + b"{}," * n, _split_json, _BODY // 3),
    Case("client stream: unfinished string", lambda n: b'"' + b"\\" * n, _split_json, _BODY // 2),
    Case("client stream: strings", lambda n: b"[[" + b'"",' * n, _split_json, _BODY // 3),
    Case("client stream: brackets", lambda n: b"[[" + b"[]," * n, _split_json, _BODY // 3),
    Case("client stream: long number", lambda n: b"1" * n, _split_json, _BODY),
    Case("decoder: double that is no number", lambda n: b'"' + b"1" * n + b'x"', _decode("d"), _BODY),
    Case("decoder: double of many digits", lambda n: b'"0.' + b"1" * n + b'"', _decode("d"), _BODY),
    Case("decoder: base64 that ends badly", lambda n: b'"' + b"A" * n + b'!"', _decode("by"), _BODY),
    Case("decoder: base64 of padding", lambda n: b'"' + b"=" * n + b'"', _decode("by"), _BODY),
    Case("decoder: duration", lambda n: b'"' + b"1" * n + b's"', _decode("dur"), _BODY),
    Case("decoder: time", lambda n: b'"2026-01-01T00:00:00.' + b"1" * n + b'"', _decode("ts"), _BODY),
    Case("decoder: field mask", lambda n: b'"' + b"aB," * n + b'c"', _decode("mask"), _BODY // 3),
    Case(
        "update mask: long name over many",
        lambda n: parse_json(b'{"' + b"k" * n + b'":{' + _members(n) + b"}}"),
        lambda value: paths_in_json(_ALL.DESCRIPTOR, {"st": value}),
        _VALUES,
    ),
    Case("query: many parameters", lambda n: b"a=b&" * n, _bind, _HEAD // 4),
    Case("query: escapes", lambda n: b"s=" + b"%41" * n, _bind, _HEAD // 3),
    Case("query: malformed escapes", lambda n: b"s=" + b"%4" * n, _bind, _HEAD // 2),
    Case("query: long path", lambda n: b"a." * n + b"=1", _bind, _HEAD // 2),
    Case("query: double that is no number", lambda n: b"d=" + b"1" * n + b"x", _bind, _HEAD),
    Case("query: integer of many digits", lambda n: b"i32=" + b"0" * n, _bind, _HEAD),
    Case(
        "query: entries of a map",
        lambda n: b"&".join(b"m[%d]=1" % i for i in range(min(n, 1000))),
        _bind,
        1000,
    ),
    Case(
        "escapes of a variable",
        lambda n: "%2f%41" * n,
        lambda text: percent_decode_except(Unescape.ALL_CHARACTERS_EXCEPT_SLASH, text),
        _HEAD // 6,
    ),
    Case("escapes of UTF-8", lambda n: "%c3%a4x" * n, percent_decode, _HEAD // 7),
    Case("route: slashes", lambda n: b"/v1/a" + b"/" * n, lambda path: _ROUTER.match("GET", path)),
    Case("route: colons", lambda n: b"/v1/jobs/" + b":" * n, lambda path: _ROUTER.match("GET", path)),
    Case(
        "route: segments",
        lambda n: b"/v1/files" + b"/x" * n,
        lambda path: _ROUTER.match("GET", path),
        _HEAD // 2,
    ),
    Case(
        "route: segments that almost match",
        lambda n: b"/v1" + b"/a/x/b/x" * n,
        lambda path: _ROUTER.match("GET", path),
        _HEAD // 8,
    ),
    Case(
        "path template: variables",
        lambda n: "".join(f"/{{a{number}=b/*}}" for number in range(n)) + ":c",
        parse_template,
        _HEAD // 12,
    ),
    Case("path template: a long field", lambda n: "/{" + "a." * n + "a=**}/b", parse_template, _HEAD // 2),
    Case("path template: braces", lambda n: "/a" + "/{a=" * n, parse_template, _HEAD // 4),
    Case("path template: literals", lambda n: "/%41a" * n + "/**" + "/b" * n, parse_template, _HEAD // 7),
    Case(
        "path template to a path of OpenAPI",
        lambda n: "".join(f"/{{a{number}=b/*}}/*" for number in range(n)),
        lambda template: PathExpander([]).expand(parse_template(template)),
        _HEAD // 14,
    ),
    Case(
        "request: a path of escapes and a query after it",
        lambda n: (b"/v1/all/" + b"%3A%2f:x" * n + b"?s=1", b"", b"{}"),
        _request,
        _HEAD // 8,
    ),
    Case(
        "request: parameters with brackets",
        lambda n: (b"/v1/subs/a", b"sub.tags=a&m[k]=v&rs[]=1&" * n, b'{"name":"x"}'),
        _request,
        _HEAD // 25,
    ),
    Case("request: a parameter of brackets", lambda n: (b"/v1/subs", b"m" + b"[" * n, b""), _request, _HEAD),
    Case(
        "request: a body that sets a mask",
        lambda n: (b"/v1/subs/a", b"", b'{"child":{"tags":["a"' + b',"b"' * n + b"]}}"),
        _request,
        _HEAD // 4,
    ),
    Case(
        "request: values of every kind",
        lambda n: (
            b"/v1/all/x",
            b"",
            b'{"rs":["a"],"ts":"2026-01-01T00:00:00Z","any":{"@type":"a/lab.v1.Sub","id":"1"},"st":{"a":['
            + b"1," * n
            + b'2]},"m":{"k":"v"},"oSub":{"name":"n"},"by":"YQ==","d":1e3,"mask":"aB,c","wI64":"1"}',
        ),
        _request,
        _HEAD // 2,
    ),
    Case(
        "request: any route of the gateway",
        _gateway_request,
        lambda request: _request(request, _gateway()[0]),
        100,
    ),
    Case("headers: one name, many times", lambda n: [(b"a", b"b")] * n, combine_headers, _HEAD // 4),
    Case(
        "Grpc-Metadata-Bin: many values",
        lambda n: [(b"grpc-metadata-x-bin", b"YQ==," * n)],
        HeaderPolicy().to_metadata,
        _HEAD // 5,
    ),
    Case("Accept-Encoding: spaces", lambda n: b"gzip" + b" " * n + b";q=0", accepts_gzip),
    Case("Accept-Encoding: codings", lambda n: b"gzip ;" * n + b"gzip,", accepts_gzip, _HEAD // 6),
    Case("Accept-Encoding: zeros", lambda n: b"gzip;q=0." + b"0" * n + b"x", accepts_gzip),
    Case("Content-Type: spaces", lambda n: b"application/json" + b" " * n + b"x", _JSON_TYPE.fullmatch),
    Case(
        "Content-Type: suffixes",
        lambda n: b"application/" + b"+json" * n + b"x",
        _JSON_TYPE.fullmatch,
        _HEAD // 5,
    ),
    Case("Grpc-Timeout", lambda n: "1" * n + "S", parse_grpc_timeout),
    Case("X-Server-Timeout", lambda n: "1" * n + "x", well_known.parse_double),
    Case(
        "Grpc-Metadata",
        lambda n: [(b"grpc-metadata-" + b"x" * n, b"a" * n + b"\xff")],
        HeaderPolicy().to_metadata,
    ),
    Case(
        "Grpc-Metadata-Bin",
        lambda n: [(b"grpc-metadata-x-bin", b"=" * n + b"A" * n)],
        HeaderPolicy().to_metadata,
    ),
    Case(
        "Range: spaces",
        lambda n: b"bytes" + b" " * n + b"0-",
        lambda value: _download(header=(b"range", value)),
    ),
    Case("Range: digits", lambda n: b"bytes=" + b"0" * n, lambda value: _download(header=(b"range", value))),
    Case(
        "If-None-Match: quotes",
        lambda n: b'W/"' * n,
        lambda value: _download(header=(b"if-none-match", value)),
        _HEAD // 3,
    ),
    Case("disposition: parameters", lambda n: b"disposition=inline&" * n, _download, _HEAD // 19),
    Case("file name: quotes and accents", lambda n: '"ä' * n, lambda name: _download(file_name=name)),
    Case(
        "media type: parameters",
        lambda n: "a/b" + "; c=d" * n + ";",
        lambda media_type: _download(media_type=media_type),
        _HEAD // 5,
    ),
    Case(
        "PROXY protocol: blanks",
        lambda n: b"PROXY TCP4 " + b" " * n,
        proxy_protocol.parse_header,
        proxy_protocol.MAX_HEADER_BYTES,
    ),
    Case(
        "PROXY protocol: colons of an address",
        lambda n: b"PROXY TCP6 " + b":" * n + b" ::1 1 1\r\n",
        proxy_protocol.parse_header,
        proxy_protocol.MAX_HEADER_BYTES,
    ),
    Case(
        "Host: brackets",
        lambda n: b"[" + b":" * n,
        lambda host: origins.check_host([host], origins.AllowedHosts(["*.example.org", "media.example"])),
    ),
    Case(
        "Host: dots",
        lambda n: b"a." * n + b"localhost:",
        lambda host: origins.check_host([host], origins.AllowedHosts(["*.example.org", "media.example"])),
        _HEAD // 2,
    ),
    Case(
        "Origin",
        lambda n: b"http://" + b"[" * n,
        lambda origin: origins.check_origin([origin], [], [b"a"]),
    ),
    Case("X-Request-Id", lambda n: "a" * n + " ", lambda value: logs.begin_request(value, "")),
    Case(
        "X-Forwarded-For",
        lambda n: b"127.0.0.1," * n,
        lambda value: PROXIES.find_client("127.0.0.1", [value]),
        _HEAD // 10,
    ),
    Case("X-Forwarded-For: one entry", lambda n: b":" * n, lambda value: PROXIES.find_client("::1", [value])),
    Case(
        "path with a job", lambda n: "/jobs/" + "a" * 35 + "/jobs/a" * n, request_head._JOB.search, _HEAD // 7
    ),
    Case("traceparent", lambda n: "00-" + "0" * n, logs.is_traceparent),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_work_is_proportional_to_the_input(case: Case) -> None:
    """An input eight times as large takes about eight times as long, not 64 times as long."""
    units, seconds = _find_measurable_size(case)
    if units * _FACTOR > case.max_units * 2:
        # The largest input that can arrive takes no longer than a moment.
        assert seconds < 1
        return
    ratios = []
    for _ in range(_TRIES):
        ratios.append(_measure(case, units * _FACTOR) / max(seconds, _MIN_SECONDS / 2))
        if ratios[-1] <= _MAX_RATIO:
            return
        seconds = _measure(case, units)
    pytest.fail(f"{case.name}: {_FACTOR} times the input takes {min(ratios):.0f} times the work")


def _find_measurable_size(case: Case) -> tuple[int, float]:
    """Return the first size that takes a measurable time, or the largest one, and its seconds."""
    units = 64
    while (seconds := _measure(case, units)) < _MIN_SECONDS and units * 2 <= case.max_units:
        units *= 2
    return units, seconds


def _measure(case: Case, units: int) -> float:
    """Return the CPU seconds that this thread needs for an input of *units*."""
    value = case.build(units)
    # The garbage collector runs more often, and longer, where many other tests have left objects.
    gc.disable()
    try:
        start = time.thread_time()
        with suppress(TranscodingError, ValueError):
            case.parse(value)
        return time.thread_time() - start
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": "' + b"[" * 1000 + b'"}',
        b'{"a": "' + b'\\"[\\\\' * 1000 + b'"}',
        b"[" * 100 + b"]" * 100,
        b"[" + b"[]," * 10_000 + b"[]]",
        b'["\\ud83d\\ude00", "\\\\ud83d"]',
        b'{"a" : ":", "b" : {"\\"" : ":\\":", "c": []}}',
        b'{"a": "b\\u00e4", "c": [{"d": 1}, {"d": 1}]}',
        b"[" + b"0," * 99_998 + b"0]",
        b'["' + b'[,\\"' * 200_000 + b'", ' + b'"[\\\\",' * 40_000 + b"0]",
        b'["' + b"," * 200_000 + b'\\\\"]',
        b'{"' + b"{" * (64 * 1024 - 3) + b'\\"": "' + b"," * 200_000 + b'"}',
    ],
)
@pytest.mark.parametrize("padding", [0, 64 * 1024])
def test_valid_json_beside_the_limits_is_accepted(text: bytes, padding: int) -> None:
    """Brackets in strings do not count, and neither do those that are closed again."""
    assert parse_json(text + b" " * padding) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 101 + b"]" * 101, "nested deeper"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nested deeper"),
        (b'["\\"", ' + b"[" * 100 + b"]" * 100 + b"]", "nested deeper"),
        (b"[" + b"[]," * 100_000 + b"[]]", "more than 100000 values"),
        (b"[" + b"0," * 100_000 + b"0]", "more than 100000 values"),
        (b'["' + b'[,\\"' * 100_000 + b'",' + b'"[\\\\",' * 100_000 + b"0]", "more than 100000 values"),
        (b"[" * 1_000_000, "more than 100000 values"),
        (b"[" * 500 + b"]" * 500, "nested deeper"),
        (b"[" * 90_000, "nested deeper|depth limit"),
        (b'{"b": 1, "a": 1, "b": 2}', "duplicate name"),
        (b'[{"a": {"b": "\\": ,:"}, "\\u0061": 1}]', "duplicate name"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b"[NaN]", "not JSON"),
        (b"[1] [2]", "not JSON"),
        (b'["\xff"]', "UTF-8"),
        (b"]" * 200 + b"[" * 101, "not JSON"),
    ],
)
@pytest.mark.parametrize("padding", [0, 64 * 1024])
def test_invalid_json_beside_the_limits_is_rejected(text: bytes, message: str, padding: int) -> None:
    """Deeper nesting and repeated names are still rejected, in large text as in small."""
    with pytest.raises(FieldError, match=message):
        parse_json(text + b" " * padding)


@pytest.mark.parametrize("number", ["1", "1.", "1.5", ".5", "-1.5e3", "+0.5E-7"])
def test_numbers_are_accepted_as_before(number: str) -> None:
    """Every spelling of a number that was valid is still valid."""
    assert well_known.parse_double(number) == float(number)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (b"gzip", True),
        (b"deflate, gzip;q=1.0, *;q=0.5", True),
        (b"*", True),
        (b"x-gzip", True),
        (b"GZIP ; Q=0.001", True),
        (b"", False),
        (b"gzip;q=0", False),
        (b"gzip; q=0.000, *", False),
        (b"*;q=0", False),
        (b"identity, *;q=0", False),
        (b"br, deflate", False),
        (b"notgzip", False),
        (b"gzip;q=nan", False),
        (b"gzip;q=-1", False),
    ],
)
def test_accept_encoding(header: bytes, accepted: bool) -> None:
    """Quality 0 rejects gzip, and ``*`` stands for what is not listed. RFC 9110 section 12.5.3."""
    assert accepts_gzip(header) is accepted
