"""Server streams over HTTP: NDJSON, Server-Sent Events and WebSocket."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import httpx
import pytest
import websockets
from tests.gateway.fake_services import END_TOKEN


async def test_ndjson_by_default(client):
    """One line for each message, under ``result``."""
    response = await client.get("/v1/jobs/018f:watch")
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["result"]["sequence"] for line in lines] == ["1", "2"]
    assert lines[1]["result"]["snapshot"]["terminal"] is True


async def test_server_sent_events_by_accept(client):
    """Events have the resume token as their id, and the kind of the message as their name."""
    response = await client.get("/v1/jobs/018f:watch", headers={"accept": "text/event-stream"})
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-accel-buffering"] == "no"
    blocks = response.text.split("\n\n")
    assert blocks[0].startswith("id: token-1\nevent: snapshot\ndata: {")
    assert blocks[1].startswith("id: token-2\nevent: snapshot\ndata: {")


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"accept": "text/event-stream", "last-event-id": END_TOKEN}, "", 204),
        ({"accept": "text/event-stream"}, f"?resumeToken={END_TOKEN}", 204),
        ({"accept": "text/event-stream, */*;q=0.1", "last-event-id": END_TOKEN}, "?resumeToken=token-1", 204),
        ({"accept": "text/event-stream", "last-event-id": "token-1"}, "", 200),
        ({"accept": "text/event-stream", "last-event-id": ""}, "", 200),
        ({"accept": "text/event-stream"}, "", 200),
        ({"accept": "*/*"}, f"?resumeToken={END_TOKEN}", 200),
        ({"accept": "application/x-ndjson", "last-event-id": END_TOKEN}, "", 200),
    ],
)
async def test_event_source_after_the_end_gets_204(client, headers, query, status):
    """204 tells an EventSource that returns with the id of the last event to stop. (WHATWG HTML 9.2.3)"""
    response = await client.get(f"/v1/jobs/018f:watch{query}", headers=headers)
    assert response.status_code == status
    has_ended = END_TOKEN in (headers.get("last-event-id"), query.partition("=")[2])
    assert (response.content == b"") is has_ended


async def test_last_event_id_resumes(client, harness):
    """An EventSource that reconnects resumes after its last event, whatever its URL says."""
    headers = {"accept": "text/event-stream", "last-event-id": "token-2"}
    await client.get("/v1/jobs/018f:watch?resumeToken=token-1", headers=headers)
    assert harness.jobs.watch_requests[0].resume_token == "token-2"


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/json"])
async def test_failure_before_the_first_message_has_its_status(client, accept):
    """The response is an ordinary error."""
    response = await client.get("/v1/jobs/missing:watch", headers={"accept": accept})
    assert response.status_code == 404
    assert response.json()["details"][0]["reason"] == "RESOURCE_NOT_FOUND"


async def test_failure_mid_stream_is_visible(client):
    """It is the last line of NDJSON, and a ``stream_error`` event of SSE."""
    lines = (await client.get("/v1/jobs/breaks:watch")).text.splitlines()
    assert "result" in json.loads(lines[0])
    assert json.loads(lines[1])["error"]["code"] == 14
    response = await client.get("/v1/jobs/breaks:watch", headers={"accept": "text/event-stream"})
    name, _, data = response.text.split("\n\n")[1].partition("\n")
    # An EventSource fires "error" itself when the connection breaks.
    assert name == "event: stream_error"
    status = json.loads(data.removeprefix("data: "))
    assert status["details"][0]["reason"] == "SERVICE_UNAVAILABLE"


async def test_array_by_accept(client):
    """Clients that accept only application/json get one JSON array."""
    response = await client.get("/v1/jobs/018f:watch", headers={"accept": "application/json"})
    assert response.headers["content-type"] == "application/json"
    assert [message["sequence"] for message in response.json()] == ["1", "2"]


async def test_failure_in_an_array_aborts_the_connection(client):
    """An array that is cut off does not look complete."""
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await client.get("/v1/jobs/breaks:watch", headers={"accept": "application/json"})


async def test_disconnect_cancels_the_stream(client, harness):
    """The RPC of a watcher that disconnects is cancelled at once."""
    async with client.stream("GET", "/v1/jobs/endless:watch") as response:
        await anext(response.aiter_lines())
    async with asyncio.timeout(5):
        await harness.jobs.cancelled.wait()


async def test_draining_ends_streams(client, harness):
    """Watchers get UNAVAILABLE, and none delays the shutdown of the gateway."""
    async with client.stream("GET", "/v1/jobs/endless:watch") as response:
        lines = response.aiter_lines()
        await anext(lines)
        shutdown = asyncio.create_task(harness.stacks["gateway"].aclose())
        assert json.loads(await anext(lines))["error"]["code"] == 14
        async with asyncio.timeout(5):
            await shutdown


async def test_websocket(harness):
    """One JSON frame for each message, then close code 1000."""
    url = harness.url.replace("http", "ws") + "/v1/jobs/018f:watch"
    async with websockets.connect(url, proxy=None) as websocket:
        frames = [json.loads(frame) async for frame in websocket]
        assert [frame["sequence"] for frame in frames] == ["1", "2"]
        assert websocket.close_code == 1000


@pytest.mark.parametrize(("job", "code"), [("missing", 4404), ("breaks", 1012), ("018f?nope=1", 4400)])
async def test_websocket_failure(harness, job, code):
    """The last frame has the status, and the close code its kind."""
    path, _, query = job.partition("?")
    url = f"{harness.url.replace('http', 'ws')}/v1/jobs/{path}:watch?{query}"
    async with websockets.connect(url, proxy=None) as websocket:
        frames: list[str] = []
        with pytest.raises(websockets.ConnectionClosed):
            await _receive_all(websocket, frames)
        assert json.loads(frames[-1])["error"]["message"]
        assert websocket.close_code == code


async def test_websocket_disconnect_cancels_the_stream(harness):
    """The RPC is cancelled at once."""
    url = harness.url.replace("http", "ws") + "/v1/jobs/endless:watch"
    async with websockets.connect(url, proxy=None) as websocket:
        await websocket.recv()
    async with asyncio.timeout(5):
        await harness.jobs.cancelled.wait()


@pytest.mark.parametrize(("count", "code"), [(50, None), (300, 1008)])
async def test_websocket_input_is_limited(harness, count, code):
    """A client may send a few messages, which are ignored; too many end the connection and its RPC."""
    url = harness.url.replace("http", "ws") + "/v1/jobs/endless:watch"
    async with websockets.connect(url, proxy=None) as websocket:
        await websocket.recv()
        with suppress(websockets.ConnectionClosed):
            for _ in range(count):
                await websocket.send("ping")
        if code is not None:
            await websocket.wait_closed()
            await harness.jobs.cancelled.wait()
        else:
            await (await websocket.ping())
        assert websocket.close_code == code


async def test_websocket_message_that_is_too_large(harness):
    """It ends the connection with 1009, and its RPC."""
    url = harness.url.replace("http", "ws") + "/v1/jobs/endless:watch"
    async with websockets.connect(url, proxy=None) as websocket:
        await websocket.recv()
        await websocket.send("x" * 70_000)
        await websocket.wait_closed()
        assert websocket.close_code == 1009
    async with asyncio.timeout(5):
        await harness.jobs.cancelled.wait()


async def test_websocket_subprotocol(harness):
    """The first one that the client offers, since a browser would close the connection without one."""
    url = harness.url.replace("http", "ws") + "/v1/jobs/018f:watch"
    async with websockets.connect(url, proxy=None, subprotocols=["json", "other"]) as websocket:
        assert websocket.subprotocol == "json"


async def test_draining_ends_every_kind_of_stream(client, harness):
    """SSE clients get an event, WebSocket clients 1012, and both reconnect to another gateway."""
    url = harness.url.replace("http", "ws") + "/v1/jobs/endless:watch"
    sse = {"accept": "text/event-stream"}
    async with (
        websockets.connect(url, proxy=None) as websocket,
        client.stream("GET", "/v1/jobs/endless:watch", headers=sse) as response,
    ):
        lines = response.aiter_lines()
        while await anext(lines):
            pass
        await websocket.recv()
        shutdown = asyncio.create_task(harness.stacks["gateway"].aclose())
        assert await anext(lines) == "event: stream_error"
        assert json.loads((await anext(lines)).removeprefix("data: "))["code"] == 14
        assert json.loads(await websocket.recv())["error"]["code"] == 14
        await websocket.wait_closed()
        assert websocket.close_code == 1012
        async with asyncio.timeout(5):
            await shutdown


async def _receive_all(websocket, frames):
    while True:
        frames.append(await websocket.recv())


async def test_websocket_of_another_origin_is_rejected(harness):
    """Browsers let any page connect to a loopback address."""
    url = harness.url.replace("http", "ws") + "/v1/jobs/018f:watch"
    with pytest.raises(websockets.InvalidStatus) as failure:
        await websockets.connect(url, proxy=None, origin="https://evil.example")
    assert failure.value.response.status_code == 403


async def test_head_of_a_stream(client, harness):
    """HEAD returns the content type without starting the stream."""
    response = await client.head("/v1/jobs/endless:watch", headers={"accept": "text/event-stream"})
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
    assert not harness.jobs.watch_requests
