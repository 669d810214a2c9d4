"""Upstreams: where calls go, a gRPC channel with raw bytes or handlers in this process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from grpc import aio

from reelhaul_transcoding.errors import RequestTooLarge, ResponseTooLarge
from reelhaul_transcoding.http.headers import Metadata

# The words of gRPC's C core.
_TOO_LARGE = re.compile(r"\b(CLIENT|SERVER): Received message larger than max")
_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Call:
    """A call to make: ``path`` is /package.Service/Method, ``timeout`` is in seconds."""

    path: str
    #: The serialized request; empty for a client stream.
    message: bytes
    metadata: Metadata
    timeout: float
    #: The serialized messages of a client stream, as they arrive.
    messages: AsyncGenerator[bytes, None] | None = None
    #: Whether the caller wants the trailing metadata of a unary call.
    trailers: bool = False


@dataclass(frozen=True, slots=True)
class UnaryResponse:
    """A serialized message, its initial metadata, and the trailing metadata if the call wants them."""

    message: bytes
    metadata: Metadata = ()
    trailers: Metadata = ()


class UpstreamError(Exception):
    """The call ended with a status other than OK."""

    def __init__(self, status: status_pb2.Status, metadata: Metadata = (), trailers: Metadata = ()) -> None:
        super().__init__(status.message)
        self.status = status
        self.metadata = metadata
        self.trailers = trailers


class Upstream(Protocol):
    """Answers the RPCs of a service. Cancelling the caller's task cancels the RPC."""

    async def unary(self, call: Call) -> UnaryResponse:
        """Return the response of *call*. Raises UpstreamError."""

    def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the response messages of *call* as they arrive. Raises UpstreamError."""


class GrpcUpstream:
    """Upstream over a gRPC channel; messages pass through unparsed."""

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel
        self._callables: dict[str, Any] = {}

    async def unary(self, call: Call) -> UnaryResponse:
        rpc = self._start(call, server_streaming=False)
        try:
            if call.messages is None:
                message = await rpc
            else:
                async with _uploading(rpc, call.messages):
                    message = await rpc
            trailers = await rpc.trailing_metadata() if call.trailers else ()
            return UnaryResponse(message, await rpc.initial_metadata(), trailers)
        except aio.AioRpcError as error:
            _raise_upstream_error(error)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        rpc = self._start(call, server_streaming=True)
        try:
            async with _uploading(rpc, call.messages):
                async for message in rpc:
                    yield message
        except aio.AioRpcError as error:
            _raise_upstream_error(error)
        finally:
            rpc.cancel()

    def _start(self, call: Call, *, server_streaming: bool) -> Any:
        multicallable = self._callables.get(call.path)
        if multicallable is None:
            factory: Any = {
                (False, False): self._channel.unary_unary,
                (False, True): self._channel.unary_stream,
                (True, False): self._channel.stream_unary,
                (True, True): self._channel.stream_stream,
            }[call.messages is not None, server_streaming]
            # Without serializers bytes pass through unchanged. Multicallables are costly to create: cache.
            multicallable = self._callables[call.path] = factory(call.path)
        if call.messages is not None:
            return multicallable(timeout=call.timeout, metadata=call.metadata)
        return multicallable(call.message, timeout=call.timeout, metadata=call.metadata)


#: Handles one RPC in this process: takes the request and its metadata. Raises UpstreamError.
Handler = Callable[[Any, Metadata], Awaitable[Message]]


class InProcessUpstream:
    """Upstream whose RPCs are handlers in this process, by path and with their request class."""

    def __init__(self, handlers: Mapping[str, tuple[type[Message], Handler]]) -> None:
        self._handlers = handlers

    async def unary(self, call: Call) -> UnaryResponse:
        if call.path not in self._handlers or call.messages is not None:
            message = f"{call.path.removeprefix('/')} is not implemented"
            raise UpstreamError(status_pb2.Status(code=code_pb2.UNIMPLEMENTED, message=message))
        request_class, handler = self._handlers[call.path]
        response = await handler(request_class.FromString(call.message), call.metadata)
        return UnaryResponse(response.SerializeToString())

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the single response message of *call*."""
        yield (await self.unary(call)).message


@asynccontextmanager
async def _uploading(rpc: Any, messages: AsyncGenerator[bytes, None] | None) -> AsyncIterator[None]:
    """Write *messages* to *rpc* while the block waits for its response.

    If *messages* fails, the RPC is cancelled, and the failure raised from the block: the upstream
    must not take a part of a stream for the whole. If the RPC ends first, the rest is not read.
    """
    if messages is None:
        yield
        return
    upload = asyncio.create_task(_upload(rpc, messages))
    try:
        yield
    except asyncio.CancelledError:
        if upload.done() and not upload.cancelled() and (failure := upload.exception()) is not None:
            raise failure from None
        raise
    finally:
        upload.cancel()
        await asyncio.gather(upload, return_exceptions=True)


async def _upload(rpc: Any, messages: AsyncGenerator[bytes, None]) -> None:
    try:
        async with aclosing(messages):
            async for message in messages:
                # Returns when flow control has let the message pass.
                await rpc.write(message)
        await rpc.done_writing()
    except (aio.AioRpcError, asyncio.InvalidStateError):
        # The RPC has ended, and its response says how.
        return
    except BaseException:
        rpc.cancel()
        raise


def _raise_upstream_error(error: aio.AioRpcError) -> NoReturn:
    """Raise *error* as UpstreamError, with the details of grpc-status-details-bin if present.

    Raises RequestTooLarge or ResponseTooLarge at a limit of gRPC, which has no code of its own for that.
    """
    code = error.code().value[0]
    if code == code_pb2.RESOURCE_EXHAUSTED and (too_large := _TOO_LARGE.search(error.details() or "")):
        raise (ResponseTooLarge if too_large[1] == "CLIENT" else RequestTooLarge) from error
    status = status_pb2.Status(code=code, message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            detailed = status_pb2.Status.FromString(value)
            status = detailed if detailed.code == code else status
    trailers = tuple(error.trailing_metadata() or ())
    raise UpstreamError(status, tuple(error.initial_metadata() or ()), trailers) from error
