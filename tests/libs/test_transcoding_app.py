"""The transcoder as an application: what goes up, what comes back."""

from __future__ import annotations

import asyncio
import json

import pytest
from google.protobuf import descriptor_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from tests.libs import asgi, lab
from tests.libs.lab import Mirror, Recorded

from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.errors import Kind
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.router import RouteError
from reelhaul_transcoding.upstream import Answer

JSON = {"content-type": "application/json"}


def _app(upstream, **options) -> Transcoder:
    return Transcoder([(lab.service(), upstream)], Options(**options))


async def test_raw_bodies_pass_both_ways() -> None:
    """google.api.HttpBody is its bytes and their type."""
    reply = await asgi.request(
        _app(Mirror()), "POST", "/v1/raw", body=b"\x00\xff", headers={"content-type": "image/png"}
    )
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"\x00\xff", "image/png")


async def test_response_body_is_one_field() -> None:
    """A repeated one is an array, also when it is empty."""
    page = lab.message("lab.v1.Page")
    reply = await asgi.request(
        _app(Recorded([page(subs=[{"name": "a"}]).SerializeToString()])), "GET", "/v1/subs"
    )
    assert reply.json == [{"name": "a"}]
    assert (await asgi.request(_app(Recorded([b""])), "GET", "/v1/subs")).json == []


@pytest.mark.parametrize("body", [b'[{"i":1},{"i":2}]', b'{"i":1}\n{"i":2}\n', b'{"i":1}{"i":2}'])
async def test_a_clients_stream(body) -> None:
    """An array, or one value after the other."""
    mirror = Mirror()
    reply = await asgi.request(_app(mirror), "POST", "/v1/sum", body=body, headers=JSON)
    assert reply.status == 200
    chunk = lab.message("lab.v1.Chunk")
    assert [chunk.FromString(each).i for each in mirror.calls[0].messages] == [1, 2]


async def test_path_and_body_must_not_contradict() -> None:
    """400 where they differ; one switch lets the path win."""
    body = b'{"s":"body"}'
    strict = await asgi.request(_app(Mirror()), "POST", "/v1/all/path", body=body, headers=JSON)
    assert strict.status == 400
    lenient = _app(Mirror(), refuse_conflicts=False)
    assert (await asgi.request(lenient, "POST", "/v1/all/path", body=body, headers=JSON)).json == {
        "s": "path"
    }


async def test_a_body_where_none_is_taken() -> None:
    """Bytes that nobody reads are a misunderstanding."""
    reply = await asgi.request(_app(Mirror()), "PUT", "/v1/nobody/x", body=b"{}", headers=JSON)
    assert reply.status == 400


async def test_what_the_upstream_says_besides() -> None:
    """Another 2xx, plain headers from an allow-list, the rest under a prefix, gRPC's own never."""

    class Says(Mirror):
        async def unary(self, call):
            headers = [("x-http-code", "201"), ("location", "/v1/x"), ("color", "red"), ("grpc-status", "0")]
            return Answer(call.messages[0], headers)

    reply = await asgi.request(_app(Says()), "GET", "/foo")
    assert reply.status == 201
    assert reply.headers["location"] == "/v1/x"
    assert reply.headers["grpc-metadata-color"] == "red"
    assert not any("grpc-status" in name for name in reply.headers)


async def test_when_to_come_back() -> None:
    """RetryInfo is Retry-After, and a 401 says how to come in."""
    busy = status_pb2.Status(code=14, message="busy")
    busy.details.add().Pack(
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=1))
    )
    assert (await asgi.request(_app(Recorded([], busy)), "GET", "/foo")).headers["retry-after"] == "2"
    stranger = status_pb2.Status(code=16, message="who?")
    reply = await asgi.request(_app(Recorded([], stranger), challenge="Bearer"), "GET", "/foo")
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")


async def test_the_host_describes_faults() -> None:
    """Its details come first."""
    kinds = []

    def describe(fault):
        kinds.append(fault.kind)
        return [error_details_pb2.ErrorInfo(reason="MINE", domain="host")]

    reply = await asgi.request(_app(Mirror(), describe=describe), "GET", "/foo?nope=1")
    assert [detail["@type"].rpartition(".")[2] for detail in reply.json["details"]] == [
        "ErrorInfo",
        "BadRequest",
    ]
    assert kinds == [Kind.FIELD]


async def test_a_silent_stream_lives() -> None:
    """It begins without a message, and pings."""

    class Silent(Mirror):
        async def stream(self, call):
            await asyncio.sleep(0.3)
            yield call.messages[0]

    app = _app(Silent(), begin_after_seconds=0.05, ping_seconds=0.05)
    reply = await asgi.request(app, "GET", "/v1/watch/7", headers={"accept": "text/event-stream"})
    assert reply.status == 200
    assert reply.body.count(b": ping\n\n") >= 2
    assert reply.body.endswith(b'data: {"i":7}\n\n')


async def test_a_token_cannot_break_out_of_its_event() -> None:
    """Line breaks in SSE's id would begin a field of their own."""
    chunk = lab.message("lab.v1.Chunk")(i=1, resume_token="a\ndata: evil").SerializeToString()
    app = _app(Recorded([chunk]), event_id_field="resume_token")
    reply = await asgi.request(app, "GET", "/v1/watch/1", headers={"accept": "text/event-stream"})
    assert b"\ndata: evil" not in reply.body


async def test_deadlines_are_capped() -> None:
    """A client may ask for less than the method grants, not for more."""
    mirror = Mirror()
    app = _app(mirror, timeout_of=lambda method: 10.0)
    for headers in ({}, {"grpc-timeout": "2S"}, {"grpc-timeout": "1H"}, {"x-server-timeout": "0.5"}):
        await asgi.request(app, "GET", "/foo", headers=headers)
    assert [call.timeout for call in mirror.calls] == [10, 2, 10, 0.5]
    assert (await asgi.request(app, "GET", "/foo", headers={"x-server-timeout": "-1"})).status == 400


def test_a_wrong_annotation_does_not_start() -> None:
    """The error names the method and what is wrong."""
    file = descriptor_pb2.FileDescriptorProto()
    lab.service().file.CopyToProto(file)
    file.name, file.package = "wrong.proto", "wrong.v1"
    text = file.SerializeToString().replace(b"lab.v1", b"wrong1")
    broken = descriptor_pb2.FileDescriptorProto.FromString(text.replace(b"/v1/watch/{i}", b"/v1/watch/{x}"))
    broken.package = "wrong1"
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.Default()
    pool.AddSerializedFile(broken.SerializeToString())
    with pytest.raises(RouteError, match=r"wrong1\.Lab\.Watch.*'x'"):
        Transcoder([(pool.FindServiceByName("wrong1.Lab"), Mirror())])


async def test_an_error_body_is_always_a_status() -> None:
    """code, message and details, whatever failed."""
    for method, url in (
        ("GET", "/nowhere"),
        ("PUT", "/foo"),
        ("GET", "/foo?x=1"),
        ("GET", "/%zz"),
        ("GET", "/%ff"),
    ):
        reply = await asgi.request(_app(Mirror()), method, url)
        assert reply.status in (400, 404, 405)
        assert reply.json.keys() == {"code", "message", "details"}
        json.dumps(reply.json)
