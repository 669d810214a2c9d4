"""The broker connection while the broker dies and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.servers import NatsServer, running_nats_server

from reelhaul_runtime import nats_client
from reelhaul_runtime.up import data_dir


@pytest.fixture
async def own_broker(tmp_path: Path):
    async with running_nats_server(tmp_path, data_dir.reserve_port()) as server:
        yield server


async def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - the client tells of itself by no event
            await asyncio.sleep(0.02)


async def test_broker_that_is_killed_and_comes_back(own_broker: NatsServer):
    """While the broker is away a publish fails at once; when it is back the same connection works."""
    async with nats_client.connect(own_broker.url, "test") as client:
        heard = await client.subscribe("news")
        await client.publish("news", b"before")
        assert (await heard.next_msg(timeout=5)).data == b"before"

        own_broker.kill()
        await until(lambda: not client.is_connected)
        begun = time.monotonic()
        with pytest.raises(Exception):  # noqa: B017, PT011 - any failure, but now
            await client.publish("news", b"while away")
        assert time.monotonic() - begun < 1

        await own_broker.start()
        await until(lambda: client.is_connected)
        await client.publish("news", b"after")
        # Nothing that was said to have failed is sent later.
        assert (await heard.next_msg(timeout=5)).data == b"after"


async def test_streams_outlive_a_killed_broker(own_broker: NatsServer):
    """What JetStream acknowledged before kill -9 is there after it."""
    async with nats_client.connect(own_broker.url, "test") as client:
        stream = client.jetstream()
        await stream.add_stream(name="KEPT", subjects=["kept.*"])
        await stream.publish("kept.one", b"x")
        own_broker.kill()
        await own_broker.start()
        await until(lambda: client.is_connected)
        assert (await stream.stream_info("KEPT")).state.messages == 1


async def test_waits_for_a_broker_that_is_not_there_yet(own_broker: NatsServer):
    """A service that starts before the broker waits for it."""
    own_broker.kill()
    connecting = asyncio.create_task(_connect_once(own_broker.url))
    await asyncio.sleep(0.2)
    assert not connecting.done()
    await own_broker.start()
    assert await asyncio.wait_for(connecting, 15)


async def _connect_once(url: str) -> bool:
    async with nats_client.connect(url, "test") as client:
        return client.is_connected


async def test_leaving_while_the_broker_is_away(own_broker: NatsServer):
    """The connection can be left while the broker is away, in a moment and without a failure."""
    closed = asyncio.Event()
    async with nats_client.connect(own_broker.url, "test", closed=closed) as client:
        own_broker.kill()
        await until(lambda: not client.is_connected)
    assert client.is_closed
    assert not closed.is_set()
