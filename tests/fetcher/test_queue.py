"""Work from a real broker: promptly, by priority, and none lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig
from tests.servers import NatsServer

from reelhaul.work.v1 import work_pb2
from reelhaul_fetcher.nats.queue import JetStreamQueue
from reelhaul_runtime import nats_client
from reelhaul_runtime.tasks import cancel_and_wait

_ACK_WAIT_SECONDS = 30


@pytest.fixture(scope="module")
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker of these tests alone: the stream's name is given."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server.url
    server.kill()


@pytest.fixture
async def broker(own_nats: str) -> AsyncIterator[Client]:
    """A connection to a broker with the WORK stream and nothing in it."""
    async with nats_client.connected(own_nats, "test") as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(
            StreamConfig(name="WORK", subjects=["work.*.*"], retention=RetentionPolicy.WORK_QUEUE)
        )
        for priority in ("high", "normal", "bulk"):
            await _consumer(client, priority)
        yield client
        await jetstream.delete_stream("WORK")


async def _consumer(client: Client, priority: str) -> None:
    config = ConsumerConfig(
        durable_name=f"work-{priority}-default",
        filter_subject=f"work.{priority}.default",
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=_ACK_WAIT_SECONDS,
    )
    await client.jetstream().add_consumer("WORK", config)


async def _put(client: Client, priority: str, job: str) -> None:
    item = work_pb2.WorkItem(job=f"jobs/{job}", attempt=1)
    await client.jetstream().publish(f"work.{priority}.default", item.SerializeToString())


async def _take(queue: JetStreamQueue) -> str:
    async with asyncio.timeout(8):
        delivery = await queue.next()
    await delivery.ack()
    return delivery.item.job.removeprefix("jobs/")


async def test_an_idle_worker_is_reached_at_once(broker: Client) -> None:
    """What is published while a worker waits is in its hands within 50 ms."""
    async with JetStreamQueue.open(broker, "default") as queue:
        waits = []
        for number in range(5):
            taking = asyncio.create_task(_take(queue))
            await asyncio.sleep(0.05)
            began = time.monotonic()
            await _put(broker, "normal", str(number))
            assert str(number) == await taking
            waits.append(time.monotonic() - began)
        # The median: this machine is shared.
        assert sorted(waits)[2] < 0.05


async def test_priorities(broker: Client) -> None:
    """High goes before normal before bulk; at every eighth turn bulk goes first."""
    async with JetStreamQueue.open(broker, "default") as queue:
        for priority, count in (("bulk", 2), ("normal", 2), ("high", 8)):
            for number in range(count):
                await _put(broker, priority, f"{priority}{number}")
        taken = [await _take(queue) for _ in range(12)]
    assert [f"high{n}" for n in range(7)] == taken[:7]
    assert taken[7:] == ["bulk0", "high7", "normal0", "normal1", "bulk1"]


async def test_what_comes_too_late_goes_back(broker: Client) -> None:
    """Messages that reach a worker whose slot is taken are handed back at once, not held."""
    async with JetStreamQueue.open(broker, "default") as queue:
        taking = asyncio.create_task(_take(queue))
        await asyncio.sleep(0.05)
        await asyncio.gather(*(_put(broker, p, p) for p in ("high", "normal", "bulk")))
        first = await taking
        async with JetStreamQueue.open(broker, "default") as other:
            rest = {await _take(other), await _take(other)}
    assert {"high", "normal", "bulk"} == {first, *rest}


async def test_nak_comes_again_after_its_delay(broker: Client) -> None:
    """An item handed back with a delay comes again, and not before."""
    async with JetStreamQueue.open(broker, "default") as queue:
        await _put(broker, "normal", "later")
        delivery = await queue.next()
        began = time.monotonic()
        await delivery.nak(timedelta(seconds=0.3))
        assert await _take(queue) == "later"
        assert time.monotonic() - began >= 0.25


async def test_consumers_made_late(broker: Client) -> None:
    """A worker that starts before its consumers exist waits for them."""
    await broker.jetstream().delete_consumer("WORK", "work-normal-default")
    async with JetStreamQueue.open(broker, "default") as queue:
        taking = asyncio.create_task(_take(queue))
        await asyncio.sleep(0.1)
        await _consumer(broker, "normal")
        await _put(broker, "normal", "patient")
        assert await taking == "patient"


async def test_waiting_without_consumers_is_quiet(broker: Client) -> None:
    """While there are no consumers a worker asks now and then, not without pause."""
    await broker.jetstream().delete_stream("WORK")
    async with JetStreamQueue.open(broker, "default") as queue:
        before = broker.stats["out_msgs"]
        taking = asyncio.create_task(queue.next())
        await asyncio.sleep(1)
        asked = broker.stats["out_msgs"] - before
        await cancel_and_wait(taking)
    assert asked < 30
    await broker.jetstream().add_stream(StreamConfig(name="WORK", subjects=["work.*.*"]))
