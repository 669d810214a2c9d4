"""The streams that jobs keeps in the broker, on a real nats-server."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from nats.js.api import AckPolicy, ConsumerConfig
from tests.servers import NatsServer

from reelhaul_jobs.nats.bus import (
    MAX_WORK_ITEMS,
    PROGRESS,
    PROGRESS_STREAM,
    WORK,
    WORK_STREAM,
    NatsJobBus,
    consumer_name,
)
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_runtime import nats_client


async def test_streams_of_an_earlier_build_are_updated(nats_server: NatsServer) -> None:
    """Streams of an earlier build get this one's limits and keep their messages."""
    async with nats_client.connect(nats_server.url, "jobs") as client:
        stream = client.jetstream()
        await stream.add_stream(replace(PROGRESS_STREAM, max_msgs=-1, max_age=60))
        await stream.add_stream(replace(WORK_STREAM, duplicate_window=60))
        await stream.publish("progress.one", b"1")
        async with NatsJobBus.open(client, EventHub(), timedelta(seconds=30)) as opened:
            assert not await opened.ensure_streams()
            work, progress = await stream.stream_info(WORK), await stream.stream_info(PROGRESS)
            assert work.config.duplicate_window == 600
            assert (progress.config.max_msgs, progress.config.max_age) == (10_000, 3600)
            assert progress.state.messages == 1


async def test_limits_of_an_earlier_build_are_raised(nats_server: NatsServer) -> None:
    """A broker that an earlier build set up for 8,192 running jobs serves as many as this one does."""
    async with nats_client.connect(nats_server.url, "jobs") as client:
        stream = client.jetstream()
        await stream.add_stream(replace(WORK_STREAM, max_msgs=8192))
        consumer = ConsumerConfig(
            durable_name=consumer_name("normal"),
            filter_subject="work.normal.default",
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=30,
            max_ack_pending=8192,
        )
        await stream.add_consumer(WORK, consumer)
        async with NatsJobBus.open(client, EventHub(), timedelta(seconds=30)) as opened:
            await opened.ensure_streams()
        assert (await stream.stream_info(WORK)).config.max_msgs == MAX_WORK_ITEMS
        after = await stream.consumer_info(WORK, consumer_name("normal"))
        assert after.config.max_ack_pending == MAX_WORK_ITEMS


async def test_progress_is_bounded(nats_server: NatsServer) -> None:
    """The latest progress of each job is kept, for at most 10,000 jobs."""
    async with (
        nats_client.connect(nats_server.url, "jobs") as client,
        NatsJobBus.open(client, EventHub(), timedelta(seconds=30)) as opened,
    ):
        await opened.ensure_streams()
        for number in range(10_020):
            for percent in (b"1", b"2"):
                await client.publish(f"progress.{number}", percent)
        # Its answer comes when all before it are stored.
        await client.jetstream().publish("progress.last", b"1", timeout=30)
        state = (await client.jetstream().stream_info(PROGRESS)).state
        assert (state.messages, state.last_seq) == (10_000, 20_041)
