"""Server streams over HTTP: lines, events and WebSockets."""

from __future__ import annotations

import asyncio
import json

import pytest
import websockets


async def test_lines_by_default(client):
    """NDJSON, each message under ``result``."""
    answer = await client.get("/v1/jobs/018f:watch")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["result"]["sequence"] for line in lines] == ["1", "2"]
    assert lines[1]["result"]["snapshot"]["terminal"] is True


async def test_events_by_accept(client):
    """Server-Sent Events carry the resume token as their id."""
    answer = await client.get("/v1/jobs/018f:watch", headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-accel-buffering"] == "no"
    blocks = answer.text.split("\n\n")
    assert blocks[0].startswith("id: token-1\ndata: {")
    assert blocks[1].startswith("id: token-2\ndata: {")


async def test_last_event_id_resumes(client, suite):
    """An EventSource that comes back goes on from where it was, whatever its URL says."""
    headers = {"accept": "text/event-stream", "last-event-id": "token-2"}
    await client.get("/v1/jobs/018f:watch?resumeToken=token-1", headers=headers)
    assert suite.jobs.watched[0].resume_token == "token-2"


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_a_failure_before_the_first_message_has_its_status(client, accept):
    """A stream that never was is an ordinary error."""
    answer = await client.get("/v1/jobs/missing:watch", headers={"accept": accept})
    assert answer.status_code == 404
    assert answer.json()["details"][0]["reason"] == "RESOURCE_NOT_FOUND"


async def test_a_failure_in_mid_stream_is_visible(client):
    """As the last line, and as an event of its own."""
    lines = (await client.get("/v1/jobs/breaks:watch")).text.splitlines()
    assert "result" in json.loads(lines[0])
    assert json.loads(lines[1])["error"]["code"] == 14
    answer = await client.get("/v1/jobs/breaks:watch", headers={"accept": "text/event-stream"})
    name, _, text = answer.text.split("\n\n")[1].partition("\n")
    assert name == "event: error"
    status = json.loads(text.removeprefix("data: "))
    assert status["details"][0]["reason"] == "SERVICE_UNAVAILABLE"


async def test_a_watcher_that_leaves_ends_the_stream(client, suite):
    """Its RPC is cancelled at once."""
    async with client.stream("GET", "/v1/jobs/endless:watch") as answer:
        await anext(answer.aiter_lines())
    async with asyncio.timeout(5):
        await suite.jobs.cancelled.wait()


async def test_a_draining_gateway_ends_its_streams(client, suite):
    """Watchers are told to come back, and none holds the gateway up."""
    async with client.stream("GET", "/v1/jobs/endless:watch") as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        leaving = asyncio.create_task(suite.stacks["gateway"].aclose())
        assert json.loads(await anext(lines))["error"]["code"] == 14
        async with asyncio.timeout(5):
            await leaving


async def test_a_websocket_gets_the_same_messages(suite):
    """One JSON frame each; 1000 at the end."""
    url = suite.url.replace("http", "ws") + "/v1/jobs/018f:watch"
    async with websockets.connect(url, proxy=None) as socket:
        frames = [json.loads(frame) async for frame in socket]
        assert [frame["sequence"] for frame in frames] == ["1", "2"]
        assert socket.close_code == 1000


@pytest.mark.parametrize(("job", "code"), [("missing", 4404), ("breaks", 1012), ("018f?nope=1", 4400)])
async def test_a_websocket_is_closed_with_what_went_wrong(suite, job, code):
    """The last frame holds the status, and the close code its kind."""
    path, _, query = job.partition("?")
    url = f"{suite.url.replace('http', 'ws')}/v1/jobs/{path}:watch?{query}"
    async with websockets.connect(url, proxy=None) as socket:
        frames: list[str] = []
        with pytest.raises(websockets.ConnectionClosed):
            await _collected(socket, frames)
        assert json.loads(frames[-1])["error"]["message"]
        assert socket.close_code == code


async def test_a_websocket_that_leaves_ends_the_stream(suite):
    """Its RPC is cancelled at once."""
    url = suite.url.replace("http", "ws") + "/v1/jobs/endless:watch"
    async with websockets.connect(url, proxy=None) as socket:
        await socket.recv()
    async with asyncio.timeout(5):
        await suite.jobs.cancelled.wait()


async def _collected(socket, frames):
    while True:
        frames.append(await socket.recv())


async def test_a_websocket_of_another_page_is_refused(suite):
    """Browsers would let any page read what runs on this machine."""
    url = suite.url.replace("http", "ws") + "/v1/jobs/018f:watch"
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url, proxy=None, origin="https://evil.example")
    assert refused.value.response.status_code == 403


async def test_head_of_a_stream_waits_for_nothing(client, suite):
    """What it would say, without watching."""
    answer = await client.head("/v1/jobs/endless:watch", headers={"accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    assert not suite.jobs.watched
