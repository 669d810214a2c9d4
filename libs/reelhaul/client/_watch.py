"""Watching jobs over gRPC: streams that survive disconnects."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

from grpc import aio

from reelhaul._core.errors import CallFailed, connection_lost
from reelhaul._core.resume import MISSED_HEARTBEATS, ResumePosition
from reelhaul.client._errors import from_rpc_error
from reelhaul.jobs.v1.job_service_pb2 import WatchJobResponse, WatchJobsResponse

# Jobs whose latest revision is remembered, so that no revision is delivered twice.
_MAX_REVISIONS = 10_000


class StreamMessage(Protocol):
    """A message that carries its position in the stream."""

    sequence: int
    resume_token: str


M = TypeVar("M", bound=StreamMessage)

#: Starts a stream at a resume_token; empty starts from the present state.
StartStream = Callable[[str], aio.UnaryStreamCall[Any, M]]


async def watch_job(
    start: StartStream[WatchJobResponse], resume_token: str, retry_timeout: float, heartbeat_seconds: float
) -> AsyncIterator[WatchJobResponse]:
    """Yield the messages of WatchJob up to the terminal snapshot, without heartbeats."""
    async for message in _messages(start, resume_token, retry_timeout, heartbeat_seconds):
        if not message.HasField("heartbeat"):
            yield message
        if message.snapshot.terminal:
            return


async def watch_jobs(
    start: StartStream[WatchJobsResponse], resume_token: str, retry_timeout: float, heartbeat_seconds: float
) -> AsyncIterator[WatchJobsResponse]:
    """Yield the messages of WatchJobs without end; of its heartbeats only the first of a new watch."""
    started, revisions = bool(resume_token), OrderedDict[str, int]()
    async for message in _messages(start, resume_token, retry_timeout, heartbeat_seconds):
        if not message.HasField("job"):
            if message.reset or not started:
                started = True
                yield message
        elif message.deleted or message.job.revision > revisions.get(message.job.name, 0):
            # After a resume the server repeats the last seconds.
            revisions[message.job.name] = message.job.revision
            revisions.move_to_end(message.job.name)
            if len(revisions) > _MAX_REVISIONS:
                revisions.popitem(last=False)
            yield message


async def _messages(
    start: StartStream[M], resume_token: str, retry_timeout: float, heartbeat_seconds: float
) -> AsyncIterator[M]:
    """Yield each message once and in order, through as many connections as it takes."""
    position, sequence = ResumePosition(retry_timeout, resume_token), 0
    silence_seconds = MISSED_HEARTBEATS * heartbeat_seconds
    while True:
        try:
            async for message in _read_stream(start(position.token), silence_seconds):
                position.advance(message.resume_token)
                if message.sequence > sequence or _may_repeat_sequence(message):
                    sequence = message.sequence
                    yield message
            failure = connection_lost("the stream ended too early")
        except CallFailed as error:
            failure = error
        await asyncio.sleep(position.next_delay(failure))
        if not position.token:
            sequence = 0


async def _read_stream(call: aio.UnaryStreamCall[Any, M], silence_seconds: float) -> AsyncIterator[M]:
    """Yield the messages of one connection. Raises CallFailed."""
    try:
        while True:
            async with asyncio.timeout(silence_seconds):
                message: Any = await call.read()
            if message is aio.EOF:
                return
            yield message
    except TimeoutError:
        raise connection_lost("the stream fell silent") from None
    except aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    except asyncio.CancelledError:
        # grpc raises it also for a call that it ended itself.
        task = asyncio.current_task()
        if call.cancelled() and not (task and task.cancelling()):
            raise connection_lost("the stream was cut off") from None
        raise
    finally:
        call.cancel()


def _may_repeat_sequence(message: Any) -> bool:
    """Return whether *message* may repeat a sequence: a heartbeat, or a new start."""
    if isinstance(message, WatchJobResponse):
        return message.HasField("heartbeat") or message.snapshot.reset
    return not message.HasField("job")
