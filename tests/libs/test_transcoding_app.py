"""The transcoder as an ASGI application: the calls that it makes and the responses that it sends."""

from __future__ import annotations

import asyncio
import json
import os
from urllib.parse import quote

import grpc
import pytest
from google.api import http_pb2, httpbody_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from tests.libs import asgi, lab
from tests.libs.lab import CannedUpstream, EchoUpstream

from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.codec.json_stream import JsonSplitter
from reelhaul_transcoding.errors import ErrorKind, FieldError
from reelhaul_transcoding.http.headers import HeaderPolicy, combine_headers, parse_grpc_timeout
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.rules import RouteError
from reelhaul_transcoding.upstream import GrpcUpstream, UnaryResponse, UpstreamError

JSON = {"content-type": "application/json"}


def _app(upstream, **options) -> Transcoder:
    return Transcoder([(lab.service(), upstream)], Options(**options))


async def test_http_body_passes_unchanged_in_both_directions() -> None:
    """google.api.HttpBody is raw bytes and their media type."""
    response = await asgi.request(
        _app(EchoUpstream()), "POST", "/v1/raw", body=b"\x00\xff", headers={"content-type": "image/png"}
    )
    assert (response.status, response.body, response.headers["content-type"]) == (
        200,
        b"\x00\xff",
        "image/png",
    )


async def test_response_body_selects_one_field() -> None:
    """A repeated field is an array, even if it is empty."""
    page = lab.message_class("lab.v1.Page")
    upstream = CannedUpstream([page(subs=[{"name": "a"}]).SerializeToString()])
    assert (await asgi.request(_app(upstream), "GET", "/v1/subs")).json == [{"name": "a"}]
    assert (await asgi.request(_app(CannedUpstream([b""])), "GET", "/v1/subs")).json == []


@pytest.mark.parametrize("body", [b'[{"i":1},{"i":2}]', b'{"i":1}\n{"i":2}\n', b'{"i":1}{"i":2}'])
async def test_client_stream(body) -> None:
    """The body is an array, or JSON values that follow each other."""
    upstream = EchoUpstream()
    response = await asgi.request(_app(upstream), "POST", "/v1/sum", body=body, headers=JSON)
    assert response.status == 200
    chunk = lab.message_class("lab.v1.Chunk")
    assert [chunk.FromString(message).i for message in upstream.messages] == [1, 2]


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b"", []),
        (b" \r\n\t", []),
        (b"[]", []),
        (b" [ ] ", []),
        (b'[{"i":1}]', [b'{"i":1}']),
        (b'[{"a":[]},[1,[2]],"x,]",1e3 , true]', [b'{"a":[]}', b"[1,[2]]", b'"x,]"', b"1e3", b"true"]),
        (b'{"a":"}"}\n{"a":"\\"}"}', [b'{"a":"}"}', b'{"a":"\\"}"}']),
        (b'{"a":"\\\\"}{"b":{"c":"[\\\\\\""}}', [b'{"a":"\\\\"}', b'{"b":{"c":"[\\\\\\""}}']),
        (b'1 2\n"a b""c"null', [b"1", b"2", b'"a b"', b'"c"', b"null"]),
        ('["\u00fc\u2028"]'.encode(), ['"\u00fc\u2028"'.encode()]),
    ],
)
def test_stream_is_split_at_any_byte(body, values) -> None:
    """The values are the same however the body is cut into pieces."""
    for size in (1, 2, 3, len(body) or 1):
        splitter = JsonSplitter(100)
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        found = [value for piece in pieces for value in splitter.split(piece)]
        assert found + list(splitter.split(b"", is_last=True)) == values


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"i":1} x', "in message 2"),
        (b'{"i":1,"i":2}', "duplicate name"),
        (b'{"i":NaN}', "NaN"),
        (b"\xff", "not UTF-8"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "deeper than 100"),
        (b'{"i":1}\n{"i":1}{"i":"x"}', "in message 3"),
        (b'{"i":1', "ends within a JSON value"),
        (b'{"i":"', "ends within a JSON value"),
        (b'[{"i":1}', "ends within a JSON array"),
        (b'[{"i":1},', "ends within a JSON value"),
        (b"[", "ends within a JSON value"),
        (b'[{"i":1},]', "unexpected ']'"),
        (b"[,]", "unexpected ','"),
        (b'[{"i":1}{"i":2}]', "unexpected '{' after a value"),
        (b'[{"i":1}]{"i":2}', "unexpected '{' after a value"),
        (b'{"i":1},{"i":2}', "unexpected ','"),
        (b'{"i":1}]', "unexpected ']'"),
        (b"[}", "unexpected '}'"),
        (b'{"i":1]', "not JSON"),
        (b'{"nope":1}', "nope"),
        (b"{}" * 10_001, "more than 10000 messages"),
    ],
)
async def test_invalid_client_stream(body, message) -> None:
    """A stream is parsed as strictly as a single value, and the error says which message is wrong."""
    app = _app(EchoUpstream(), ignore_unknown_fields=False)
    response = await asgi.request(app, "POST", "/v1/sum", body=body, headers=JSON)
    assert response.status == 400
    assert message in response.json["message"]


async def test_size_of_a_client_stream() -> None:
    """Each message has a limit, and their sum has none."""
    upstream = EchoUpstream()
    app = _app(upstream, max_request_bytes=20)
    exact = b'{"i":1, "i": "1"     }'.replace(b', "i": "1"', b"")
    response = await asgi.request(app, "POST", "/v1/sum", body=exact * 9, headers=JSON)
    assert (response.status, len(upstream.messages)) == (200, 9)
    for body in (b'{"i":1%s}' % (b" " * 20), b'{"i":1%s' % (b" " * 20)):
        response = await asgi.request(app, "POST", "/v1/sum", body=exact + body, headers=JSON)
        assert (response.status, "larger than 20 bytes" in response.json["message"]) == (413, True)


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {**JSON, "content-encoding": "gzip"}])
async def test_media_type_of_a_client_stream(headers) -> None:
    """415, and the upstream is not called."""
    upstream = EchoUpstream()
    response = await asgi.request(_app(upstream), "POST", "/v1/sum", body=b"{}", headers=headers)
    assert (response.status, upstream.calls) == (415, [])


@pytest.mark.parametrize(
    ("size", "sizes"), [(0, [0]), (1, [1]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50])]
)
async def test_raw_client_stream(size, sizes) -> None:
    """The bytes of an HttpBody are cut into messages, each with the media type."""
    upstream, body = EchoUpstream(), os.urandom(size)
    app = _app(upstream, max_request_bytes=100)
    response = await asgi.request(app, "POST", "/v1/upload", body=body, headers={"content-type": "video/mp4"})
    assert response.status == 200
    messages = [httpbody_pb2.HttpBody.FromString(message) for message in upstream.messages]
    assert [len(message.data) for message in messages] == sizes
    assert b"".join(message.data for message in messages) == body
    assert {message.content_type for message in messages} == {"video/mp4"}


async def test_path_and_query_set_the_first_message_of_a_stream() -> None:
    """Later messages have what their own JSON says."""
    upstream = EchoUpstream()
    body = b'{"resumeToken":"a"}{"i":8}'
    assert (await asgi.request(_app(upstream), "POST", "/v1/sum/7", body=body)).status == 200
    chunk = lab.message_class("lab.v1.Chunk")
    messages = [chunk.FromString(message) for message in upstream.messages]
    assert [(message.i, message.resume_token) for message in messages] == [(7, "a"), (8, "")]


async def test_path_and_body_must_not_differ() -> None:
    """400 if they do; without reject_conflicts the path wins."""
    body = b'{"s":"body"}'
    strict = await asgi.request(_app(EchoUpstream()), "POST", "/v1/all/path", body=body, headers=JSON)
    assert strict.status == 400
    lenient = _app(EchoUpstream(), reject_conflicts=False)
    response = await asgi.request(lenient, "POST", "/v1/all/path", body=body, headers=JSON)
    assert response.json == {"s": "path"}


@pytest.mark.parametrize(
    ("word", "accepted"),
    [
        ("RED", True),
        ("red", True),
        ("Red", True),
        ("color-unspecified", True),
        ("unspecified", True),
        ("purple", False),
        ("", False),
        ("RED ", False),
        ("x" * 10_000, False),
    ],
)
async def test_enum_words(word, accepted) -> None:
    """With the option, enum values are accepted as people write them, in parameters and bodies."""
    app = _app(EchoUpstream(), case_insensitive_enums=True)
    body = json.dumps({"color": word, "rc": [word]}).encode()
    responses = [
        await asgi.request(app, "POST", "/v1/all", body=body, headers=JSON),
        await asgi.request(app, "PUT", f"/v1/nobody/x?color={quote(word)}&rc={quote(word)}"),
    ]
    assert [response.status for response in responses] == [200 if accepted else 400] * 2
    if word.lower() == "red":
        assert [response.json["rc"] for response in responses] == [["RED"]] * 2
    strict = await asgi.request(_app(EchoUpstream()), "POST", "/v1/all", body=body, headers=JSON)
    assert (strict.status == 200) == (word == "RED")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{}", 200), (b'{"ts":"2020-01-01T00:00:00Z"}', 200), (b'{"ts":"2021-01-01T00:00:00Z"}', 400)],
)
async def test_path_and_body_must_not_differ_in_a_time(body, status) -> None:
    """A well-known type in the path is compared by value."""
    rule = http_pb2.HttpRule(selector="lab.v1.Lab.PostAll", post="/v2/{ts}", body="*")
    app = _app(EchoUpstream(), http=http_pb2.Http(rules=[rule]))
    response = await asgi.request(app, "POST", "/v2/2020-01-01T00:00:00Z", body=body, headers=JSON)
    assert response.status == status
    if status == 200:
        assert response.json == {"ts": "2020-01-01T00:00:00Z"}


async def test_unbound_body_is_rejected() -> None:
    """400 for a body if the binding takes none."""
    response = await asgi.request(_app(EchoUpstream()), "PUT", "/v1/nobody/x", body=b"{}", headers=JSON)
    assert response.status == 400


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"path": "/v1/all/a%b", "raw_path": b"/v1/all/a%25b"}, "a%b"),
        ({"path": "/v1/all/a%b?c"}, "a%b?c"),
        ({"path": "/v1/all/a?x=1", "raw_path": b"/v1/all/a?x=1"}, "a"),
    ],
)
async def test_servers_differ_in_the_path_that_they_report(scope, expected) -> None:
    """Without raw_path the decoded path is data; a query in raw_path is not part of the path."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"{}"}

    async def send(event):
        sent.append(event)

    scope = {"type": "http", "method": "POST", "query_string": b"", "headers": [], **scope}
    await _app(EchoUpstream())(scope, receive, send)
    assert json.loads(sent[1]["body"]) == {"s": expected}


async def test_repeated_headers_are_combined() -> None:
    """A second deadline is not ignored, and a binary header may hold several values."""
    headers = [(b"grpc-timeout", b"5S"), (b"grpc-timeout", b"9S")]
    with pytest.raises(FieldError, match="grpc-timeout"):
        parse_grpc_timeout(combine_headers(headers)[b"grpc-timeout"].decode())
    assert combine_headers([(b"accept", b"a"), (b"te", b"b")]) == {b"accept": b"a", b"te": b"b"}
    binary = [(b"grpc-metadata-x-bin", b"YQ==,Yg"), (b"grpc-metadata-x-bin", b"Yw==")]
    assert HeaderPolicy().to_metadata(binary) == [("x-bin", b"a"), ("x-bin", b"b"), ("x-bin", b"c")]


async def test_response_metadata() -> None:
    """It selects another 2xx; listed keys keep their names, others get a prefix, gRPC's own are dropped."""

    class MetadataUpstream(EchoUpstream):
        async def unary(self, call):
            metadata = [
                ("x-http-code", "201"),
                ("location", "/v1/x"),
                ("color", "red"),
                ("grpc-status", "0"),
            ]
            return UnaryResponse(call.message, metadata)

    response = await asgi.request(_app(MetadataUpstream()), "GET", "/foo")
    assert response.status == 201
    assert response.headers["location"] == "/v1/x"
    assert response.headers["grpc-metadata-color"] == "red"
    assert not any("grpc-status" in name for name in response.headers)


async def test_trailing_metadata_on_request() -> None:
    """A client that sends TE: trailers gets it as headers, of successes and of failures; others do not."""

    async def get(request, context):
        context.set_trailing_metadata([("cost", "3"), ("x-bin", b"\x01"), ("cost", "4")])
        if not request:
            await context.abort(grpc.StatusCode.NOT_FOUND, "none")
        return request

    server = grpc.aio.server()
    handlers = {"GetFoo": grpc.unary_unary_rpc_method_handler(get)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("lab.v1.Lab", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        app = _app(GrpcUpstream(channel))
        for url, status in (("/foo?i=1", 200), ("/foo", 404)):
            response = await asgi.request(app, "GET", url, headers={"te": "trailers"})
            assert (response.status, response.headers["grpc-trailer-cost"]) == (status, "4")
            assert response.headers["grpc-trailer-x-bin"] == "AQ=="
            response = await asgi.request(app, "GET", url)
            assert not any("trailer" in name for name in response.headers)
    await server.stop(None)


async def test_messages_beyond_the_limits_of_grpc() -> None:
    """A response that the channel does not accept is 502, and a request that the service does not, 413."""

    async def get(request, context):
        return request * 100

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 100)])
    handlers = {"GetFoo": grpc.unary_unary_rpc_method_handler(get)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("lab.v1.Lab", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [("grpc.max_receive_message_length", 100)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        app = _app(GrpcUpstream(channel))
        for url, status in (("/foo", 200), ("/foo?i=70000", 502), (f"/foo?resume_token={'x' * 99}", 413)):
            response = await asgi.request(app, "GET", url)
            assert response.status == status, response
        assert "larger" in response.json["message"]
    await server.stop(None)


async def test_upstream_selects_no_content() -> None:
    """A 204 has neither a body nor its headers (RFC 9110)."""

    class EmptyUpstream(EchoUpstream):
        async def unary(self, call):
            return UnaryResponse(call.message, [("x-http-code", "204")])

    response = await asgi.request(_app(EmptyUpstream()), "GET", "/foo?i=1")
    assert (response.status, response.body, response.headers) == (204, b"", {})


async def test_retry_after_and_challenge() -> None:
    """RetryInfo becomes Retry-After, and a 401 has WWW-Authenticate."""
    busy = status_pb2.Status(code=14, message="busy")
    busy.details.add().Pack(
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=1))
    )
    response = await asgi.request(_app(CannedUpstream([], busy)), "GET", "/foo")
    assert response.headers["retry-after"] == "2"
    unauthenticated = status_pb2.Status(code=16, message="no key")
    app = _app(CannedUpstream([], unauthenticated), challenge="Bearer")
    response = await asgi.request(app, "GET", "/foo")
    assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")


async def test_host_authorizes_requests() -> None:
    """A host may refuse a request by its method, before the body is parsed, and a WebSocket likewise."""
    upstream, methods = EchoUpstream(), []

    async def authorize(method, scope) -> None:
        methods.append(method.name)
        if dict(scope["headers"]).get(b"authorization") != b"Bearer good":
            raise UpstreamError(status_pb2.Status(code=code_pb2.UNAUTHENTICATED, message="no"))

    app = _app(upstream, authorize=authorize, challenge="Bearer")
    refused = await asgi.request(app, "POST", "/v1/all", body=b"{ no json", headers=JSON)
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    allowed = await asgi.request(
        app, "POST", "/v1/all", body=b'{"i32":7}', headers={**JSON, "authorization": "Bearer good"}
    )
    assert (allowed.status, methods) == (200, ["PostAll", "PostAll"])
    assert (await asgi.request(app, "GET", "/no/such/path")).status == 404
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(event):
        sent.append(event)

    path = "/v1/watch/1"
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", 4401)


async def test_host_describes_errors() -> None:
    """The details of describe_error come first."""
    kinds = []

    def describe_error(error):
        kinds.append(error.kind)
        return [error_details_pb2.ErrorInfo(reason="MINE", domain="host")]

    response = await asgi.request(_app(EchoUpstream(), describe_error=describe_error), "GET", "/foo?nope=1")
    assert [detail["@type"].rpartition(".")[2] for detail in response.json["details"]] == [
        "ErrorInfo",
        "BadRequest",
    ]
    assert kinds == [ErrorKind.FIELD]


async def test_silent_stream_starts_and_pings() -> None:
    """The response starts before the first message, and pings follow."""

    class SlowUpstream(EchoUpstream):
        async def stream(self, call):
            await asyncio.sleep(0.3)
            yield call.message

    app = _app(SlowUpstream(), stream_start_seconds=0.05, ping_seconds=0.05)
    response = await asgi.request(app, "GET", "/v1/watch/7", headers={"accept": "text/event-stream"})
    assert response.status == 200
    assert response.body.count(b": ping\n\n") >= 2
    assert response.body.endswith(b'data: {"i":7}\n\n')


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "application/x-ndjson"),
        ("*/*", "application/x-ndjson"),
        ("image/png", "application/x-ndjson"),
        ("text/event-stream", "text/event-stream"),
        ("Text/Event-Stream;charset=utf-8", "text/event-stream"),
        ("*/*, text/event-stream", "text/event-stream"),
        ("text/*", "text/event-stream"),
        ("text/event-stream;q=0.4, application/x-ndjson;q=0.5", "application/x-ndjson"),
        ("text/event-stream;q=0, */*;q=0.1", "application/x-ndjson"),
        ("text/event-stream;q=2", "application/x-ndjson"),
        ("text/event-stream;q=nan", "application/x-ndjson"),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/json;q=0.9, text/event-stream", "text/event-stream"),
        ("application/json, application/x-ndjson", "application/x-ndjson"),
        ("application/*", "application/x-ndjson"),
        (",;,q=;" * 5000, "application/x-ndjson"),
    ],
)
async def test_accept_selects_the_format_of_a_stream(accept, media_type) -> None:
    """The highest quality wins, then the type that is named, then NDJSON. (RFC 9110 section 12.5.1)"""
    app = _app(CannedUpstream([b""]), json_arrays=True)
    response = await asgi.request(app, "GET", "/v1/watch/1", headers={"accept": accept})
    assert (response.status, response.headers["content-type"]) == (200, media_type)


async def test_arrays_are_optional() -> None:
    """Without json_arrays a client that asks for application/json gets lines."""
    app = _app(CannedUpstream([b""]))
    response = await asgi.request(app, "GET", "/v1/watch/1", headers={"accept": "application/json"})
    assert response.headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize("numbers", [[], [1], [1, 2, 3]])
async def test_array_stream(numbers) -> None:
    """The messages are the elements of one JSON array; a stream that fails never closes it."""
    chunk = lab.message_class("lab.v1.Chunk")
    messages = [chunk(i=number).SerializeToString() for number in numbers]
    accept = {"accept": "application/json"}
    app = _app(CannedUpstream(messages), json_arrays=True)
    response = await asgi.request(app, "GET", "/v1/watch/1", headers=accept)
    assert (response.status, response.complete) == (200, True)
    assert response.json == [{"i": number} for number in numbers]
    failing = _app(CannedUpstream(messages, status_pb2.Status(code=5, message="gone")), json_arrays=True)
    response = await asgi.request(failing, "GET", "/v1/watch/1", headers=accept)
    if numbers:
        assert (response.status, response.complete) == (200, False)
        assert not response.body.endswith(b"]")
    else:
        assert (response.status, response.json["message"]) == (404, "gone")


async def test_event_id_cannot_inject_sse_fields() -> None:
    """An SSE id with line breaks is dropped."""
    chunk = lab.message_class("lab.v1.Chunk")(i=1, resume_token="a\ndata: evil").SerializeToString()
    app = _app(CannedUpstream([chunk]), event_id_field="resume_token")
    response = await asgi.request(app, "GET", "/v1/watch/1", headers={"accept": "text/event-stream"})
    assert b"\ndata: evil" not in response.body


async def test_deadlines_are_capped() -> None:
    """A client may set a shorter deadline than the method's, but not a longer one."""
    upstream = EchoUpstream()
    app = _app(upstream, max_timeout=lambda method: 10.0)
    for headers in ({}, {"grpc-timeout": "2S"}, {"grpc-timeout": "1H"}, {"x-server-timeout": "0.5"}):
        await asgi.request(app, "GET", "/foo", headers=headers)
    assert [call.timeout for call in upstream.calls] == [10, 2, 10, 0.5]
    assert (await asgi.request(app, "GET", "/foo", headers={"x-server-timeout": "-1"})).status == 400


def test_invalid_annotation_is_rejected_at_start() -> None:
    """The error names the method and the problem."""
    file = descriptor_pb2.FileDescriptorProto()
    lab.service().file.CopyToProto(file)
    file.name, file.package = "wrong.proto", "wrong.v1"
    serialized = file.SerializeToString().replace(b"lab.v1", b"wrong1")
    broken = descriptor_pb2.FileDescriptorProto.FromString(
        serialized.replace(b"/v1/watch/{i}", b"/v1/watch/{x}")
    )
    broken.package = "wrong1"
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(broken.SerializeToString())
    with pytest.raises(RouteError, match=r"wrong1\.Lab\.Watch.*'x'"):
        Transcoder([(pool.FindServiceByName("wrong1.Lab"), EchoUpstream())])


async def test_error_bodies_are_statuses() -> None:
    """Every error has code, message and details."""
    for method, url in (
        ("GET", "/nowhere"),
        ("PUT", "/foo"),
        ("GET", "/foo?x=1"),
        ("GET", "/%zz"),
        ("GET", "/%ff"),
    ):
        response = await asgi.request(_app(EchoUpstream()), method, url)
        assert response.status in (400, 404, 405)
        assert response.json.keys() == {"code", "message", "details"}
        json.dumps(response.json)


async def test_large_bodies_do_not_stop_other_requests() -> None:
    """While a body of many values is parsed, the event loop goes on."""
    body = b'{"mi":{' + b",".join(b'"k%d":1' % number for number in range(45_000)) + b"}}"
    app = _app(CannedUpstream([b""]))
    large = asyncio.create_task(asgi.request(app, "POST", "/v1/all", body=body))
    turns = 0
    while not large.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await large).status == 200
    # Where the body is parsed on the event loop, there are five; on a busy machine there were 30.
    assert turns > 10


@pytest.mark.parametrize("path", ["/v1/none", "/foo"])
async def test_websocket_client_may_disconnect_before_the_end(path) -> None:
    """ASGI's send raises OSError then; that is no failure of the application."""
    app = Transcoder([(lab.service(), EchoUpstream())])
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(event) -> None:
        sent.append(event["type"])
        if event["type"] != "websocket.accept":
            raise OSError("disconnected")

    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert sent == ["websocket.accept", "websocket.send"]
