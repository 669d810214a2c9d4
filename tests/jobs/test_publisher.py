"""Publishing many work items at once, with a real broker."""

from __future__ import annotations

import asyncio
import signal

import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from tests.jobs.conftest import TIMEOUT, eventually

from reelhaul_jobs.nats.publisher import Message, Publisher
from reelhaul_runtime import nats_client


@pytest.fixture
async def client(nats_server):
    async with nats_client.connect(nats_server.url, "test") as opened:
        yield opened


@pytest.fixture
async def publisher(client):
    async with Publisher.open(client) as opened:
        yield opened


def messages(*ids: str) -> list[Message]:
    return [Message("news.x", message_id.encode(), message_id) for message_id in ids]


async def test_each_message_is_stored_once(client, publisher):
    """What is reported as stored is there; published again, it is reported as stored and is there once."""
    await client.jetstream().add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    assert await publisher.publish(messages("a", "b", "c")) == [True] * 3
    assert await publisher.publish(messages("c", "d")) == [True] * 2
    assert (await client.jetstream().stream_info("NEWS")).state.messages == 4


async def test_a_full_stream_refuses_the_rest(client, publisher):
    """Only the messages that the stream took count as stored; a refusal is an answer, not silence."""
    full = StreamConfig(name="NEWS", subjects=["news.*"], max_msgs=2, discard=DiscardPolicy.NEW)
    await client.jetstream().add_stream(full)
    begin = asyncio.get_running_loop().time()
    assert await publisher.publish(messages("a", "b", "c")) == [True, True, False]
    assert asyncio.get_running_loop().time() - begin < 2


async def test_no_stream(publisher):
    """Without a stream nothing is stored, and the call returns soon."""
    async with asyncio.timeout(TIMEOUT):
        assert await publisher.publish(messages("a", "b")) == [False, False]


async def test_silent_broker(client, publisher, nats_server):
    """A broker that stops answering costs two seconds, and nothing is reported as stored."""
    await client.jetstream().add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    nats_server.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(TIMEOUT):
            assert await publisher.publish(messages("a")) == [False]
    finally:
        nats_server.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(TIMEOUT):
        assert await publisher.publish(messages("a", "b")) == [True, True]


async def test_broker_away(client, publisher, nats_server):
    """However much is published while the broker is away, publishing works once it is back."""
    await client.jetstream().add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    nats_server.kill()
    await eventually(lambda: not client.is_connected)
    for _ in range(5):
        async with asyncio.timeout(TIMEOUT):
            assert not any(await publisher.publish(messages(*map(str, range(4096)))))
    await nats_server.start()
    await eventually(lambda: client.is_connected)

    async def published():
        return await publisher.publish(messages("a", "b")) == [True, True]

    await eventually(published)
