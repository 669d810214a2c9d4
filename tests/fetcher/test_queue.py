"""Work queue on a real broker: items arrive at once, by priority, and none is lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig
from tests.servers import NatsServer

from reelhaul.work.v1 import work_pb2
from reelhaul_fetcher.nats.queue import JetStreamQueue
from reelhaul_runtime import nats_client
from reelhaul_runtime.tasks import cancel_and_wait

_ACK_WAIT_SECONDS = 30


class PullRecorder:
    """A NATS client that records the pulls that are sent through it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pulls: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        await self._client.publish(subject, payload, reply=reply)
        prefix, _, consumer = subject.rpartition(".")
        if prefix == "$JS.API.CONSUMER.MSG.NEXT.WORK":
            self._pulls.put_nowait((consumer, json.loads(payload)))

    async def next_pull(self) -> tuple[str, dict[str, Any]]:
        """Wait for the next pull; return its consumer and its request."""
        async with asyncio.timeout(10):
            return await self._pulls.get()

    async def wait_for_open_pulls(self, *priorities: str) -> None:
        """Return once pulls that wait for an item were sent to the consumers of *priorities*."""
        missing = {f"work-{priority}-default" for priority in priorities}
        while missing:
            consumer, request = await self.next_pull()
            if "expires" in request:
                missing.discard(consumer)


@pytest.fixture(scope="module")
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker for these tests alone: the stream's name is fixed."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server.url
    server.kill()


@pytest.fixture
async def broker(own_nats: str) -> AsyncIterator[Client]:
    """A connection to a broker with an empty WORK stream."""
    async with nats_client.connect(own_nats, "test") as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(
            StreamConfig(name="WORK", subjects=["work.*.*"], retention=RetentionPolicy.WORK_QUEUE)
        )
        for priority in ("high", "normal", "bulk"):
            await _add_consumer(client, priority)
        yield client
        await jetstream.delete_stream("WORK")


async def _add_consumer(client: Client, priority: str) -> None:
    config = ConsumerConfig(
        durable_name=f"work-{priority}-default",
        filter_subject=f"work.{priority}.default",
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=_ACK_WAIT_SECONDS,
    )
    await client.jetstream().add_consumer("WORK", config)


async def _publish(client: Client, priority: str, job: str) -> None:
    item = work_pb2.WorkItem(job=f"jobs/{job}", attempt=1)
    await client.jetstream().publish(f"work.{priority}.default", item.SerializeToString())


async def _take(queue: JetStreamQueue) -> str:
    async with asyncio.timeout(8):
        delivery = await queue.next()
    await delivery.ack()
    return delivery.item.job.removeprefix("jobs/")


async def test_idle_worker_gets_items_at_once(broker: Client) -> None:
    """An item that is published while a worker waits arrives within 50 ms."""
    client = PullRecorder(broker)
    async with JetStreamQueue.open(client, "default") as queue:
        latencies = []
        for number in range(5):
            taking = asyncio.create_task(_take(queue))
            await client.wait_for_open_pulls("normal")
            published_at = time.monotonic()
            await _publish(broker, "normal", str(number))
            assert str(number) == await taking
            latencies.append(time.monotonic() - published_at)
        # The median: this machine is shared.
        assert sorted(latencies)[2] < 0.05


async def test_priorities(broker: Client) -> None:
    """High goes before normal before bulk; every eighth time bulk goes first."""
    async with JetStreamQueue.open(broker, "default") as queue:
        for priority, count in (("bulk", 2), ("normal", 2), ("high", 8)):
            for number in range(count):
                await _publish(broker, priority, f"{priority}{number}")
        taken = [await _take(queue) for _ in range(12)]
    assert [f"high{n}" for n in range(7)] == taken[:7]
    assert taken[7:] == ["bulk0", "high7", "normal0", "normal1", "bulk1"]


async def test_surplus_items_are_handed_back(broker: Client) -> None:
    """Items that reach a worker without a free slot are handed back at once, not held."""
    client = PullRecorder(broker)
    async with JetStreamQueue.open(client, "default") as queue:
        taking = asyncio.create_task(_take(queue))
        await client.wait_for_open_pulls("high", "normal", "bulk")
        await asyncio.gather(*(_publish(broker, p, p) for p in ("high", "normal", "bulk")))
        first = await taking
        async with JetStreamQueue.open(broker, "default") as other:
            rest = {await _take(other), await _take(other)}
    assert {"high", "normal", "bulk"} == {first, *rest}


async def test_nak_with_a_delay(broker: Client) -> None:
    """An item that is handed back with a delay comes again after it, and not before."""
    async with JetStreamQueue.open(broker, "default") as queue:
        await _publish(broker, "normal", "later")
        delivery = await queue.next()
        handed_back_at = time.monotonic()
        await delivery.nak(timedelta(seconds=0.3))
        assert await _take(queue) == "later"
        assert time.monotonic() - handed_back_at >= 0.25


async def test_consumers_created_later(broker: Client) -> None:
    """A worker that starts before its consumers exist waits for them."""
    await broker.jetstream().delete_consumer("WORK", "work-normal-default")
    client = PullRecorder(broker)
    async with JetStreamQueue.open(client, "default") as queue:
        taking = asyncio.create_task(_take(queue))
        await client.wait_for_open_pulls("normal")
        await _add_consumer(broker, "normal")
        await _publish(broker, "normal", "patient")
        assert await taking == "patient"


async def test_pull_rate_without_consumers(broker: Client) -> None:
    """While there are no consumers a worker sends less than 30 pulls a second."""
    await broker.jetstream().delete_stream("WORK")
    client = PullRecorder(broker)
    async with JetStreamQueue.open(client, "default") as queue:
        taking = asyncio.create_task(queue.next())
        await client.next_pull()
        first_pull_at = time.monotonic()
        for _ in range(30):
            await client.next_pull()
        elapsed = time.monotonic() - first_pull_at
        await cancel_and_wait(taking)
    assert elapsed > 1
    await broker.jetstream().add_stream(StreamConfig(name="WORK", subjects=["work.*.*"]))
