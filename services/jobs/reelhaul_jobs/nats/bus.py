"""The bus: JetStream for work and progress, core NATS for hints. Nothing here is the truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import nats.errors
from google.protobuf.message import DecodeError, Message
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from reelhaul.work.v1 import work_pb2
from reelhaul_jobs.model.fair_scheduling import ReadyJob
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import Priority
from reelhaul_jobs.model.wait_reason import Shortage, WorkerStatus
from reelhaul_jobs.nats import publisher as publishing
from reelhaul_jobs.nats.publisher import Publisher
from reelhaul_jobs.ports.bus import ProgressNotice
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_runtime.errors import Unavailable

log = logging.getLogger(__name__)

WORK, PROGRESS = "WORK", "PROGRESS"

#: The one class of workers so far.
POOL = "default"

_LANES = {Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "bulk"}
_TIMEOUT = 2.0
# Not worth a caller's failure: a hint is made up for.
_AWAY = (nats.errors.Error, TimeoutError, OSError, asyncio.TimeoutError)

_WORK = StreamConfig(
    name=WORK,
    subjects=["work.*.*"],
    retention=RetentionPolicy.WORK_QUEUE,
    storage=StorageType.FILE,
    # Full is an error at once, not a timeout; the rows keep what does not fit.
    discard=DiscardPolicy.NEW,
    # Twice the largest window: stale items lie beside live ones.
    max_msgs=8192,
    max_bytes=64 * 1024 * 1024,
    duplicate_window=600,
    num_replicas=1,
)
_PROGRESS = StreamConfig(
    name=PROGRESS,
    subjects=["progress.*"],
    storage=StorageType.MEMORY,
    max_msgs_per_subject=1,
    # What has ended is read from rows, and no more than these run: an hour of the ended ones is a lot.
    max_msgs=10_000,
    allow_direct=True,
    max_age=3600,
    max_bytes=64 * 1024 * 1024,
    discard=DiscardPolicy.OLD,
    num_replicas=1,
)


# What of a stream may be changed while it is in use.
_BOUNDS = ("max_msgs", "max_bytes", "max_age", "duplicate_window")


def consumer_name(lane: str) -> str:
    """The durable consumer of a lane (high, normal, bulk): what fetchers bind to."""
    return f"work-{lane}-{POOL}"


class NatsJobBus:
    """The JobBus of ports, over one connection."""

    def __init__(
        self, client: Client, publisher: Publisher, lease: timedelta, *, alone: bool = False
    ) -> None:
        self._client, self._publisher = client, publisher
        self._alone = alone
        # in_progress follows each renewal: an item is overdue when its lease is.
        self._ack_wait = lease.total_seconds()
        self._jetstream = client.jetstream(timeout=_TIMEOUT)
        # WORK was made, and nobody was told so far.
        self._fresh = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, client: Client, hub: EventHub, lease: timedelta, *, alone: bool = False
    ) -> AsyncIterator[NatsJobBus]:
        """The bus, with what comes over it put into *hub*, until the block ends.

        An item that its worker says nothing of for a *lease* is put to another one. Where this
        replica is *alone*, nobody is told of changes.

        Progress is heard as it is published; who joins late asks the stream for the last.
        """
        heard = [
            await client.subscribe("progress.*", cb=on_progress(hub)),
            await client.subscribe("changes.*", cb=_changes_into_hub(hub)),
            await client.subscribe("workers.*", cb=_workers_into_hub(hub)),
        ]
        try:
            async with Publisher.open(client) as publisher:
                yield cls(client, publisher, lease, alone=alone)
        finally:
            for subscription in heard:
                await ignore_broker_errors(subscription.unsubscribe())

    async def ensure_streams(self) -> bool:
        """See JobBus.ready."""
        try:
            self._fresh |= await self._stream(_WORK)
            await self._stream(_PROGRESS)
            await asyncio.gather(*(self._consumer(lane) for lane in _LANES.values()))
        except (*_AWAY, APIError) as error:
            raise Unavailable("nats", f"the broker does not serve its streams: {error!r}") from error
        fresh, self._fresh = self._fresh, False
        return fresh

    async def publish(self, jobs: Sequence[ReadyJob], now: datetime) -> Sequence[ReadyJob]:
        """See JobBus.publish."""
        stored = await self._publisher.publish([_message_of(job, now) for job in jobs])
        return [job for job, good in zip(jobs, stored, strict=True) if good]

    async def count_work_items(self) -> int:
        """See JobBus.waiting."""
        try:
            return int((await self._jetstream.stream_info(WORK)).state.messages)
        except (*_AWAY, APIError) as error:
            raise Unavailable("nats", "the broker does not tell of its work stream") from error

    async def notify_changed(self, job: Job) -> None:
        """See JobBus.changed."""
        if self._alone:
            return
        change = work_pb2.JobChange(
            job=job.name, revision=job.revision, tenant=job.tenant, batch_id=job.batch_id
        )
        await self._hint(f"changes.{job.id}", change)

    async def notify_worker(self, job: Job) -> None:
        """See JobBus.stop."""
        await self._hint(f"control.{job.id}", work_pb2.StopHint(job=job.name, epoch=job.epoch))

    async def get_last_progress(self, job_id: str) -> ProgressNotice | None:
        """See JobBus.progress."""
        try:
            found = await self._jetstream.get_last_msg(PROGRESS, f"progress.{job_id}", direct=True)
        except (*_AWAY, APIError):
            return None
        return _notice_of(found.data or b"")

    async def check(self) -> None:
        """Return if the broker serves the work stream."""
        await self.count_work_items()

    async def _hint(self, subject: str, message: Message) -> None:
        await ignore_broker_errors(self._client.publish(subject, message.SerializeToString()))

    async def _stream(self, config: StreamConfig) -> bool:
        """Whether the stream had to be made. One that an earlier build made is given this one's bounds."""
        assert config.name
        try:
            present = (await self._jetstream.stream_info(config.name)).config
        except NotFoundError:
            await self._jetstream.add_stream(config)
            return True
        if any(
            getattr(present, bound) != getattr(config, bound) for bound in _BOUNDS if getattr(config, bound)
        ):
            await self._jetstream.update_stream(config)
        return False

    async def _consumer(self, lane: str) -> None:
        name = consumer_name(lane)
        try:
            present = (await self._jetstream.consumer_info(WORK, name)).config
        except NotFoundError:
            present = None
        if present is None or present.ack_wait != self._ack_wait:
            config = ConsumerConfig(
                durable_name=name,
                filter_subject=f"work.{lane}.{POOL}",
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._ack_wait,
                max_deliver=-1,
                max_ack_pending=8192,
            )
            # Of one that is there it changes what differs.
            await self._jetstream.add_consumer(WORK, config)


def _message_of(job: ReadyJob, now: datetime) -> publishing.Message:
    item = work_pb2.WorkItem(job=f"jobs/{job.id}", attempt=job.attempt, traceparent=job.traceparent)
    item.publish_time.FromDatetime(now)
    subject = f"work.{_LANES[job.priority]}.{POOL}"
    return publishing.Message(subject, item.SerializeToString(), f"{job.id}/{job.attempt}")


def on_progress(hub: EventHub) -> Callable[[Msg], Awaitable[None]]:
    async def heard(message: Msg) -> None:
        if notice := _notice_of(message.data):
            hub.publish_progress(notice)

    return heard


def _changes_into_hub(hub: EventHub) -> Callable[[Msg], Awaitable[None]]:
    async def heard(message: Msg) -> None:
        try:
            change = work_pb2.JobChange.FromString(message.data)
        except DecodeError:
            return
        hub.publish_row_change(change.job.removeprefix("jobs/"), change.revision, change.tenant)

    return heard


def _workers_into_hub(hub: EventHub) -> Callable[[Msg], Awaitable[None]]:
    async def heard(message: Msg) -> None:
        with suppress(DecodeError):
            told = work_pb2.WorkerNotice.FromString(message.data)
            until = told.until.ToDatetime(UTC) if told.HasField("until") else None
            # What a newer worker is short of, this one cannot tell its users.
            shortage = _SHORTAGES.get(told.shortage, Shortage.NONE)
            hub.workers.record(WorkerStatus(told.worker, told.slot_count, shortage, until))

    return heard


_SHORTAGES: Mapping[int, Shortage] = {int(shortage): shortage for shortage in Shortage}


def _notice_of(content: bytes) -> ProgressNotice | None:
    try:
        told = work_pb2.ProgressNotice.FromString(content)
    except DecodeError:
        return None
    return ProgressNotice(told.job.removeprefix("jobs/"), told.epoch, told.sequence, told.progress)


async def ignore_broker_errors(hint: Awaitable[None]) -> None:
    try:
        await hint
    except _AWAY as error:
        log.debug("a hint was lost", extra={"cause": repr(error)})
