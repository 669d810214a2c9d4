"""The JobBus over NATS: JetStream for work items and progress, core NATS for hints and change notices.

Nothing on the bus is authoritative: the rows are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
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
from reelhaul_jobs.nats import publisher
from reelhaul_jobs.nats.publisher import Publisher
from reelhaul_jobs.ports.bus import BusListener, ProgressNotice
from reelhaul_runtime.errors import Unavailable
from reelhaul_runtime.logs import Outage
from reelhaul_runtime.tracing import spans
from reelhaul_runtime.tracing.spans import NOT_RECORDED, Kind, Span

log = logging.getLogger(__name__)

WORK, PROGRESS = "WORK", "PROGRESS"

#: Subject of the names of changed keys and tenants, which services then ask for again.
ACCESS_CHANGED = "access.changed"

#: The only class of workers so far.
POOL = "default"

# The second part of a work item's subject.
_SUBJECTS = {Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "bulk"}
_TIMEOUT_SECONDS = 2.0
_BROKER_AWAY = (nats.errors.Error, TimeoutError, OSError, asyncio.TimeoutError)

#: The items of running jobs are held until they are acknowledged, beside those of the window and stale ones.
MAX_WORK_ITEMS = 65_536
WORK_STREAM = StreamConfig(
    name=WORK,
    subjects=["work.*.*"],
    retention=RetentionPolicy.WORK_QUEUE,
    storage=StorageType.FILE,
    # A full stream is an error at once, not a timeout; the rows keep what does not fit.
    discard=DiscardPolicy.NEW,
    max_msgs=MAX_WORK_ITEMS,
    max_bytes=64 * 1024 * 1024,
    duplicate_window=600,
    num_replicas=1,
)
PROGRESS_STREAM = StreamConfig(
    name=PROGRESS,
    subjects=["progress.*"],
    storage=StorageType.MEMORY,
    max_msgs_per_subject=1,
    # More than ever run at once: the progress of ended jobs is read from rows.
    max_msgs=10_000,
    allow_direct=True,
    max_age=3600,
    max_bytes=64 * 1024 * 1024,
    discard=DiscardPolicy.OLD,
    num_replicas=1,
)

# The settings of a stream that may be changed while it is in use.
_CHANGEABLE = ("max_msgs", "max_bytes", "max_age", "duplicate_window", "num_replicas")
# No suitable peers for placement; replicas > 1 not supported in non-clustered mode:
# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_TOO_FEW_SERVERS = (10005, 10074)


def consumer_name(priority: str) -> str:
    """Return the durable consumer of a priority (high, normal, bulk), which fetchers bind to."""
    return f"work-{priority}-{POOL}"


class NatsJobBus:
    """The JobBus over one NATS connection."""

    def __init__(
        self,
        client: Client,
        publisher: Publisher,
        lease: timedelta,
        *,
        alone: bool = False,
        replicas: int = 1,
    ) -> None:
        self._client, self._publisher = client, publisher
        self._alone, self._replicas = alone, replicas
        self._outage = Outage()
        # Workers send in_progress after each renewal, so an item times out when its lease does.
        self._ack_wait = lease.total_seconds()
        self._jetstream = client.jetstream(timeout=_TIMEOUT_SECONDS)
        # WORK was created, and ensure_streams has not reported it yet.
        self._work_created = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        client: Client,
        listener: BusListener,
        lease: timedelta,
        *,
        alone: bool = False,
        replicas: int = 1,
    ) -> AsyncIterator[NatsJobBus]:
        """Open the bus over *client* until the block ends; *listener* receives what others publish.

        JetStream redelivers an item that its worker does not acknowledge for a *lease*. If this replica is
        *alone*, it publishes no change notices. So many *replicas* of each stream are kept. Progress is
        received as it is published; a late watcher asks the stream for the last one.
        """
        subscriptions = [
            await client.subscribe("progress.*", cb=_on_progress(listener)),
            await client.subscribe("changes.*", cb=_on_change(listener)),
            await client.subscribe("workers.*", cb=_on_worker_notice(listener)),
        ]
        try:
            async with Publisher.open(client) as publisher:
                yield cls(client, publisher, lease, alone=alone, replicas=replicas)
        finally:
            for subscription in subscriptions:
                await ignore_broker_errors(subscription.unsubscribe())

    async def ensure_streams(self) -> bool:
        try:
            self._work_created |= await self._ensure_stream(WORK_STREAM)
            await self._ensure_stream(PROGRESS_STREAM)
            await asyncio.gather(*(self._ensure_consumer(priority) for priority in _SUBJECTS.values()))
        except (*_BROKER_AWAY, APIError) as error:
            raise Unavailable("nats", f"the broker does not serve its streams: {error!r}") from error
        created, self._work_created = self._work_created, False
        return created

    async def publish(self, jobs: Sequence[ReadyJob], now: datetime) -> Sequence[ReadyJob]:
        sends = [_start_send(job) for job in jobs]
        messages = [_work_item(job, now, send) for job, send in zip(jobs, sends, strict=True)]
        stored = await self._publisher.publish(messages)
        for send, is_stored in zip(sends, stored, strict=True):
            if not is_stored:
                send.fail("not_stored")
            send.end()
        return [job for job, is_stored in zip(jobs, stored, strict=True) if is_stored]

    async def count_work_items(self) -> int:
        try:
            return int((await self._jetstream.stream_info(WORK)).state.messages)
        except (*_BROKER_AWAY, APIError) as error:
            raise Unavailable("nats", "the broker does not serve its work stream") from error

    async def count_work_items_by_subject(self) -> Mapping[tuple[Priority, str], int]:
        try:
            info = await self._jetstream.stream_info(WORK, subjects_filter="work.>")
        except (*_BROKER_AWAY, APIError) as error:
            raise Unavailable("nats", "the broker does not serve its work stream") from error
        counts = {(priority, POOL): 0 for priority in _SUBJECTS}
        by_name = {name: priority for priority, name in _SUBJECTS.items()}
        for subject, items in (info.state.subjects or {}).items():
            _, name, pool = subject.split(".")
            counts[by_name[name], pool] = items
        return counts

    async def notify_changed(self, job: Job) -> None:
        if self._alone:
            return
        change = work_pb2.JobChange(
            job=job.name, revision=job.revision, tenant=job.tenant, batch_id=job.batch_id
        )
        await self._send_hint(f"changes.{job.id}", change)

    async def notify_worker(self, job: Job) -> None:
        hint = work_pb2.StopHint(job=job.name, epoch=job.epoch, job_ended=job.state.is_terminal)
        await self._send_hint(f"control.{job.id}", hint)

    async def notify_access_changed(self, name: str) -> None:
        await ignore_broker_errors(self._client.publish(ACCESS_CHANGED, name.encode()))

    async def get_last_progress(self, job_id: str) -> ProgressNotice | None:
        try:
            message = await self._jetstream.get_last_msg(PROGRESS, f"progress.{job_id}", direct=True)
        except (*_BROKER_AWAY, APIError):
            return None
        return _parse_progress(message.data or b"")

    @property
    def version(self) -> str:
        """The version of the broker that is connected, or was last, e.g. "nats-server 2.15.1"."""
        version = self._client.connected_server_version
        return f"nats-server {version.major}.{version.minor}.{version.patch}"

    async def check(self) -> None:
        """Return if the broker serves the work stream. Raises ``Unavailable``."""
        await self.count_work_items()

    async def _send_hint(self, subject: str, message: Message) -> None:
        await ignore_broker_errors(self._client.publish(subject, message.SerializeToString()))

    async def _ensure_stream(self, wanted: StreamConfig) -> bool:
        """Create the stream, or update that of an earlier build or setting. Return whether it is new."""
        assert wanted.name
        config = replace(wanted, num_replicas=self._replicas)
        try:
            current = (await self._jetstream.stream_info(wanted.name)).config
        except NotFoundError:
            try:
                await self._jetstream.add_stream(config)
            except APIError as error:
                raise self._explain(error) from error
            return True
        changed = [name for name in _CHANGEABLE if getattr(config, name)]
        if any(getattr(current, name) != getattr(config, name) for name in changed):
            await self._update_stream(config)
        return False

    async def _update_stream(self, config: StreamConfig) -> None:
        """Update the stream; where the cluster is too small for its replicas, it goes on as it is."""
        try:
            await self._jetstream.update_stream(config)
        except APIError as error:
            if error.err_code not in _TOO_FEW_SERVERS:
                raise
            if (level := self._outage.level()) is not None:
                extra = {"stream": config.name, "cause": str(self._explain(error))}
                log.log(level, "a stream has fewer replicas than it should", extra=extra)
        else:
            self._outage.end()
            replicas = {"stream": config.name, "replicas": config.num_replicas}
            log.info("the settings of a stream were changed", extra=replicas)

    def _explain(self, error: APIError) -> Exception:
        """Return what to raise for *error*, which the broker answered to the request for a stream."""
        if error.err_code not in _TOO_FEW_SERVERS:
            return error
        return Unavailable(
            "nats",
            f"REELHAUL_JOBS_STREAM_REPLICAS={self._replicas}: the broker has fewer servers with JetStream"
            f" that are up: {error.description}",
        )

    async def _ensure_consumer(self, priority: str) -> None:
        name = consumer_name(priority)
        try:
            current = (await self._jetstream.consumer_info(WORK, name)).config
        except NotFoundError:
            current = None
        wanted = (self._ack_wait, MAX_WORK_ITEMS)
        if current is None or (current.ack_wait, current.max_ack_pending) != wanted:
            config = ConsumerConfig(
                durable_name=name,
                filter_subject=f"work.{priority}.{POOL}",
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._ack_wait,
                max_deliver=-1,
                max_ack_pending=MAX_WORK_ITEMS,
            )
            # Updates a consumer that exists.
            await self._jetstream.add_consumer(WORK, config)


def _work_item(job: ReadyJob, now: datetime, send: Span) -> publisher.Message:
    traceparent = send.traceparent or job.traceparent
    item = work_pb2.WorkItem(job=f"jobs/{job.id}", attempt=job.attempt, traceparent=traceparent)
    item.publish_time.FromDatetime(now)
    subject = f"work.{_SUBJECTS[job.priority]}.{POOL}"
    return publisher.Message(subject, item.SerializeToString(), _message_id(job), traceparent)


def _message_id(job: ReadyJob) -> str:
    return f"{job.id}/{job.attempt}"


def _start_send(job: ReadyJob) -> Span:
    """Start the span of publishing *job*.

    https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
    """
    if not job.traceparent:
        return NOT_RECORDED
    span = spans.start(f"send {WORK}", Kind.PRODUCER, parent=job.traceparent)
    if span.recorded:
        span.set(
            {
                "messaging.system": "nats",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": WORK,
                "messaging.message.id": _message_id(job),
                "reelhaul.job": f"jobs/{job.id}",
            }
        )
    return span


def _on_progress(listener: BusListener) -> Callable[[Msg], Awaitable[None]]:
    async def handle(message: Msg) -> None:
        if notice := _parse_progress(message.data):
            listener.publish_progress(notice)

    return handle


def _on_change(listener: BusListener) -> Callable[[Msg], Awaitable[None]]:
    async def handle(message: Msg) -> None:
        with suppress(DecodeError):
            change = work_pb2.JobChange.FromString(message.data)
            listener.publish_row_change(change.job.removeprefix("jobs/"), change.revision, change.tenant)

    return handle


def _on_worker_notice(listener: BusListener) -> Callable[[Msg], Awaitable[None]]:
    async def handle(message: Msg) -> None:
        with suppress(DecodeError):
            notice = work_pb2.WorkerNotice.FromString(message.data)
            until = notice.until.ToDatetime(UTC) if notice.HasField("until") else None
            # A newer worker may have a shortage that this build cannot explain.
            shortage = _SHORTAGES.get(notice.shortage, Shortage.NONE)
            listener.record_worker(WorkerStatus(notice.worker, notice.slot_count, shortage, until))

    return handle


_SHORTAGES: Mapping[int, Shortage] = {int(shortage): shortage for shortage in Shortage}


def _parse_progress(content: bytes) -> ProgressNotice | None:
    try:
        notice = work_pb2.ProgressNotice.FromString(content)
    except DecodeError:
        return None
    return ProgressNotice(notice.job.removeprefix("jobs/"), notice.epoch, notice.sequence, notice.progress)


async def ignore_broker_errors(sending: Awaitable[None]) -> None:
    """Await *sending* and ignore that the broker is away: a lost hint is made up for."""
    try:
        await sending
    except _BROKER_AWAY as error:
        log.debug("a hint was lost", extra={"cause": repr(error)})
