"""Publishing many work items at once, with a real broker."""

from __future__ import annotations

import asyncio
import signal

import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from tests.jobs.conftest import PATIENCE

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
    return [Message("news.x", told.encode(), told) for told in ids]


async def test_each_is_stored_once(client, publisher):
    """What is said to be stored is there; said again, it is stored and there once."""
    await client.jetstream().add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    assert await publisher.publish(messages("a", "b", "c")) == [True] * 3
    assert await publisher.publish(messages("c", "d")) == [True] * 2
    assert (await client.jetstream().stream_info("NEWS")).state.messages == 4


async def test_a_full_stream_refuses_the_rest(client, publisher):
    """Only those that found room count as stored."""
    full = StreamConfig(name="NEWS", subjects=["news.*"], max_msgs=2, discard=DiscardPolicy.NEW)
    await client.jetstream().add_stream(full)
    assert await publisher.publish(messages("a", "b", "c")) == [True, True, False]


async def test_nobody_stores_them(publisher):
    """Where there is no stream none is stored, and nobody waits for long."""
    async with asyncio.timeout(PATIENCE):
        assert await publisher.publish(messages("a", "b")) == [False, False]


async def test_the_broker_goes_silent(client, publisher, nats_server):
    """A broker that stops answering costs a while, and nothing is said to be stored."""
    await client.jetstream().add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    nats_server.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE):
            assert await publisher.publish(messages("a")) == [False]
    finally:
        nats_server.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(PATIENCE):
        assert await publisher.publish(messages("a", "b")) == [True, True]
