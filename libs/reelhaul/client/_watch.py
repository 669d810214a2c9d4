"""Following jobs: streams that survive disconnects."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

from google.protobuf import duration_pb2
from grpc import aio

from reelhaul._core.retries import Retries
from reelhaul.client import _errors
from reelhaul.client._errors import CallFailed
from reelhaul.jobs.v1.job_service_pb2 import WatchJobResponse, WatchJobsResponse

#: What the server is asked for, in seconds of silence.
HEARTBEAT_SECONDS = 5
# Three missed heartbeats mean a dead stream, whatever TCP believes.
_SILENCE_SECONDS = 3.0 * HEARTBEAT_SECONDS


# Jobs whose newest revision is remembered, so that none is told twice.
_MOST_KNOWN = 10_000


class Positioned(Protocol):
    """A message that says where in the stream it is."""

    sequence: int
    resume_token: str


M = TypeVar("M", bound=Positioned)

#: Opens a stream at a resume_token, empty for its beginning.
Opening = Callable[[str], aio.UnaryStreamCall[Any, M]]


async def job_messages(
    opening: Opening[WatchJobResponse], token: str, seconds: float
) -> AsyncIterator[WatchJobResponse]:
    """Messages of WatchJob but its heartbeats, to the terminal snapshot."""
    async for message in _messages(opening, token, seconds):
        if not message.HasField("heartbeat"):
            yield message
        if message.snapshot.terminal:
            return


async def change_messages(
    opening: Opening[WatchJobsResponse], token: str, seconds: float
) -> AsyncIterator[WatchJobsResponse]:
    """Messages of WatchJobs, without end; of its heartbeats the first only: it says "from now on"."""
    begun, known = bool(token), OrderedDict[str, int]()
    async for message in _messages(opening, token, seconds):
        if not message.HasField("job"):
            if message.reset or not begun:
                begun = True
                yield message
        elif message.deleted or message.job.revision > known.get(message.job.name, 0):
            # After a resume the server tells the last seconds again, to be sure.
            known[message.job.name] = message.job.revision
            known.move_to_end(message.job.name)
            if len(known) > _MOST_KNOWN:
                known.popitem(last=False)
            yield message


async def _messages(opening: Opening[M], token: str, seconds: float) -> AsyncIterator[M]:
    """What the stream tells, each once and in order, through as many connections as it takes."""
    retries, given, sequence = Retries(seconds), token, 0
    while True:
        try:
            async for message in _connection(opening(token)):
                retries.reset()
                token = message.resume_token
                if message.sequence > sequence or _again(message):
                    sequence = message.sequence
                    yield message
            failure = _errors.connection_lost("the stream ended too early")
        except CallFailed as error:
            failure = error
        if failure.reason == "RESUME_TOKEN_INVALID" and token != given:
            # Good when it was given to us: the server has forgotten its past. Begin anew.
            token, sequence = "", 0
        elif failure.reason != "REQUEST_TIMED_OUT":
            # A stream that reached its longest time goes on like a broken one.
            await retries.wait(failure)


async def _connection(call: aio.UnaryStreamCall[Any, M]) -> AsyncIterator[M]:
    """The messages of one connection. Raises CallFailed."""
    try:
        while True:
            async with asyncio.timeout(_SILENCE_SECONDS):
                message: Any = await call.read()
            if message is aio.EOF:
                return
            yield message
    except TimeoutError:
        raise _errors.connection_lost("the stream fell silent") from None
    except aio.AioRpcError as error:
        raise _errors.of_rpc(error) from error
    except asyncio.CancelledError:
        # grpc says so as well of a call that it ended itself.
        task = asyncio.current_task()
        if call.cancelled() and not (task and task.cancelling()):
            raise _errors.connection_lost("the stream was cut off") from None
        raise
    finally:
        call.cancel()


def _again(message: Any) -> bool:
    """Whether *message* may repeat a position: a heartbeat, or a new beginning."""
    if isinstance(message, WatchJobResponse):
        return message.HasField("heartbeat") or message.snapshot.reset
    return not message.HasField("job")


def heartbeat() -> duration_pb2.Duration:
    """The heartbeat_interval to ask for."""
    return duration_pb2.Duration(seconds=HEARTBEAT_SECONDS)
