"""The connection to NATS while the broker dies and comes back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.servers import NatsServer, running_nats_server

from reelhaul_runtime import nats_client
from reelhaul_runtime.up import ports


@pytest.fixture
async def own_broker(tmp_path: Path):
    async with running_nats_server(tmp_path, ports.find_free_port()) as server:
        yield server


async def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the client has no event for it
            await asyncio.sleep(0.02)


async def test_broker_is_killed_and_restarted(own_broker: NatsServer):
    """While the broker is down a publish fails at once; when it is back the same connection works."""
    async with nats_client.connect(own_broker.url, "test") as client:
        subscription = await client.subscribe("events")
        await client.publish("events", b"before")
        assert (await subscription.next_msg(timeout=5)).data == b"before"

        own_broker.kill()
        await wait_until(lambda: not client.is_connected)
        started = time.monotonic()
        with pytest.raises(Exception):  # noqa: B017, PT011 - any failure, but at once
            await client.publish("events", b"while down")
        assert time.monotonic() - started < 3

        await own_broker.start()
        await wait_until(lambda: client.is_connected)
        await client.publish("events", b"after")
        # A publish that failed is not sent later.
        assert (await subscription.next_msg(timeout=5)).data == b"after"


async def test_streams_survive_a_killed_broker(own_broker: NatsServer):
    """What JetStream acknowledged before kill -9 is still there after it."""
    async with nats_client.connect(own_broker.url, "test") as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="KEPT", subjects=["kept.*"])
        await jetstream.publish("kept.one", b"x")
        own_broker.kill()
        await own_broker.start()
        await wait_until(lambda: client.is_connected)
        assert (await jetstream.stream_info("KEPT")).state.messages == 1


async def test_waits_for_the_broker(own_broker: NatsServer):
    """A service that starts before the broker waits for it."""
    own_broker.kill()
    connecting = asyncio.create_task(_connect_once(own_broker.url))
    await asyncio.sleep(0.2)
    assert not connecting.done()
    await own_broker.start()
    assert await asyncio.wait_for(connecting, 15)


async def test_absence_of_the_broker_is_logged_once(own_broker: NatsServer, caplog: pytest.LogCaptureFixture):
    """One line says that the broker is down, with its URL without credentials, and one that it is back."""
    url = own_broker.url.replace("nats://", "nats://user:hunter2@")
    with caplog.at_level(logging.INFO, "reelhaul_runtime.nats_client"):
        async with nats_client.connect(url, "test") as client:
            own_broker.kill()
            await wait_until(lambda: not client.is_connected)
            lost = time.monotonic()
            # The client tries every second.
            await wait_until(lambda: time.monotonic() - lost > 3.5)
            await own_broker.start()
            await wait_until(lambda: client.is_connected)
            await wait_until(lambda: "reconnected to the broker" in caplog.messages)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert [vars(record)["broker"] for record in caplog.records] == [own_broker.url] * 2
    assert "hunter2" not in caplog.text + repr([vars(record) for record in caplog.records])


async def test_start_before_the_broker_is_no_warning(
    own_broker: NatsServer, caplog: pytest.LogCaptureFixture
):
    """A service that starts before the broker logs that it waits, at INFO, once."""
    own_broker.kill()
    with caplog.at_level(logging.INFO, "reelhaul_runtime.nats_client"):
        connecting = asyncio.create_task(_connect_once(own_broker.url))
        await wait_until(lambda: len(caplog.records) > 0)
        await own_broker.start()
        assert await asyncio.wait_for(connecting, 15)
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def _connect_once(url: str) -> bool:
    async with nats_client.connect(url, "test") as client:
        return client.is_connected


async def test_closing_while_the_broker_is_down(own_broker: NatsServer):
    """The connection closes at once and without an error while the broker is down."""
    closed = asyncio.Event()
    async with nats_client.connect(own_broker.url, "test", closed=closed) as client:
        own_broker.kill()
        await wait_until(lambda: not client.is_connected)
    assert client.is_closed
    assert not closed.is_set()
