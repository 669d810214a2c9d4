"""Upstreams: where calls go, a gRPC channel with raw bytes or handlers in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from grpc import aio

from reelhaul_transcoding.http.headers import Metadata

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Call:
    """A call to make: ``path`` is /package.Service/Method, ``timeout`` is in seconds."""

    path: str
    #: One serialized message, or all messages of a client stream.
    messages: Sequence[bytes]
    client_streaming: bool
    metadata: Metadata
    timeout: float


@dataclass(frozen=True, slots=True)
class UnaryResponse:
    """A serialized message and its initial metadata."""

    message: bytes
    metadata: Metadata = ()


class UpstreamError(Exception):
    """The call ended with a status other than OK."""

    def __init__(self, status: status_pb2.Status, metadata: Metadata = ()) -> None:
        super().__init__(status.message)
        self.status = status
        self.metadata = metadata


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
            message = await rpc
            return UnaryResponse(message, await rpc.initial_metadata())
        except aio.AioRpcError as error:
            _raise_upstream_error(error)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        rpc = self._start(call, server_streaming=True)
        try:
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
            }[call.client_streaming, server_streaming]
            # Without serializers bytes pass through unchanged. Multicallables are costly to create: cache.
            multicallable = self._callables[call.path] = factory(call.path)
        request = _iterate(call.messages) if call.client_streaming else call.messages[0]
        return multicallable(request, timeout=call.timeout, metadata=call.metadata)


#: Handles one RPC in this process: takes the request and its metadata. Raises UpstreamError.
Handler = Callable[[Any, Metadata], Awaitable[Message]]


class InProcessUpstream:
    """Upstream whose RPCs are handlers in this process, by path and with their request class."""

    def __init__(self, handlers: Mapping[str, tuple[type[Message], Handler]]) -> None:
        self._handlers = handlers

    async def unary(self, call: Call) -> UnaryResponse:
        if call.path not in self._handlers:
            message = f"{call.path.removeprefix('/')} is not implemented"
            raise UpstreamError(status_pb2.Status(code=code_pb2.UNIMPLEMENTED, message=message))
        request_class, handler = self._handlers[call.path]
        response = await handler(request_class.FromString(call.messages[0]), call.metadata)
        return UnaryResponse(response.SerializeToString())

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the single response message of *call*."""
        yield (await self.unary(call)).message


async def _iterate(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _raise_upstream_error(error: aio.AioRpcError) -> NoReturn:
    """Raise *error* as UpstreamError, with the details of grpc-status-details-bin if present."""
    code = error.code().value[0]
    status = status_pb2.Status(code=code, message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            detailed = status_pb2.Status.FromString(value)
            status = detailed if detailed.code == code else status
    raise UpstreamError(status, tuple(error.initial_metadata() or ())) from error
