"""Watching: streams of events that survive disconnects."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, cast

from reelhaul._core import methods
from reelhaul._core.errors import CallFailed, connection_lost
from reelhaul._core.resource_requests import to_duration
from reelhaul._core.resume import MISSED_HEARTBEATS, ResumePosition
from reelhaul._core.transport import Transport
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressRequest, WatchProgressResponse
from reelhaul.jobs.v1.job_service_pb2 import WatchJobsRequest, WatchJobsResponse

#: ``snapshot`` is first, and again if the position was too old; ``completed`` or ``failed`` is last.
#: ``reconnecting`` comes from the client, with an empty message.
EventKind = Literal["snapshot", "progress", "state", "completed", "failed", "reconnecting"]

# Jobs whose latest revision is remembered, so that no revision is delivered twice.
_MAX_REVISIONS = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    kind: EventKind
    #: The field of the kind's name is set.
    message: WatchProgressResponse

    @property
    def job(self) -> Download | None:
        """The whole job, if the event has it: a snapshot, completed or failed."""
        if self.kind in ("snapshot", "completed", "failed"):
            return cast("Download", getattr(self.message, self.kind))
        return None


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """Seconds without a response after which a watch gives up, and after which heartbeats are sent."""

    reconnect: float
    heartbeat: float

    @property
    def silence(self) -> float:
        """Seconds without a message after which a connection is dead, whatever TCP believes."""
        return MISSED_HEARTBEATS * self.heartbeat


async def watch_job(
    transport: Transport, request: WatchProgressRequest, times: WatchTimes
) -> AsyncGenerator[Event, None]:
    """Yield the events of a job until it has ended. Raises CallFailed."""
    position = ResumePosition(times.reconnect, request.resume_token)
    request.heartbeat_seconds = times.heartbeat
    while True:
        request.resume_token = position.token
        try:
            stream = transport.stream(methods.WATCH_PROGRESS, request, times.silence)
            async with aclosing(stream):
                async for message in stream:
                    position.advance(message.resume_token)
                    kind = message.WhichOneof("event")
                    if kind is not None and kind != "heartbeat":
                        yield Event(kind, message)
                    if kind in ("completed", "failed"):
                        return
            failure = connection_lost("the stream ended too early")
        except CallFailed as error:
            failure = error
        delay = position.next_delay(failure)
        yield Event("reconnecting", WatchProgressResponse())
        await asyncio.sleep(delay)


async def watch_jobs(
    transport: Transport, request: WatchJobsRequest, times: WatchTimes
) -> AsyncGenerator[WatchJobsResponse, None]:
    """Yield the changes of matching jobs without end; of heartbeats only the first of a new watch."""
    position = ResumePosition(times.reconnect, request.resume_token)
    is_started, revisions = bool(request.resume_token), _Revisions()
    request.heartbeat_interval.CopyFrom(to_duration(times.heartbeat))
    while True:
        request.resume_token = position.token
        try:
            stream = transport.stream(methods.WATCH_JOBS, request, times.silence)
            async with aclosing(stream):
                async for message in stream:
                    position.advance(message.resume_token)
                    if not message.HasField("job"):
                        if message.reset or not is_started:
                            is_started = True
                            yield message
                    elif revisions.is_new(message):
                        yield message
            failure = connection_lost("the stream ended too early")
        except CallFailed as error:
            failure = error
        await asyncio.sleep(position.next_delay(failure))


class _Revisions:
    """The latest revision of each job: after a resume the server repeats the last seconds."""

    def __init__(self) -> None:
        self._latest = OrderedDict[str, int]()

    def is_new(self, message: WatchJobsResponse) -> bool:
        """Return whether *message* is news, and remember it."""
        job = message.job
        if not message.deleted and job.revision <= self._latest.get(job.name, 0):
            return False
        self._latest[job.name] = job.revision
        self._latest.move_to_end(job.name)
        if len(self._latest) > _MAX_REVISIONS:
            self._latest.popitem(last=False)
        return True
