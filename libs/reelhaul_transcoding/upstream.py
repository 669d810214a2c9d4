"""Upstream: where requests go. gRPC with bytes as they are on the wire, or functions of this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from grpc import aio

from reelhaul_transcoding.http.headers import Metadata

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Call:
    """One call to make: ``path`` is /package.Service/Method, ``timeout`` is in seconds."""

    path: str
    #: One message, or all that a client-streaming method is sent.
    messages: Sequence[bytes]
    client_streaming: bool
    metadata: Metadata
    timeout: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A message and the metadata around it."""

    message: bytes
    headers: Metadata = ()


class UpstreamError(Exception):
    """The call ended with a status that is not OK."""

    def __init__(self, status: status_pb2.Status, headers: Metadata = ()) -> None:
        super().__init__(status.message)
        self.status = status
        self.headers = headers


class Upstream(Protocol):
    """What answers the RPCs of one service. Cancelling a caller's task cancels its RPC."""

    async def unary(self, call: Call) -> Answer:
        """The one message that answers *call*. Raises UpstreamError."""

    def stream(self, call: Call) -> AsyncIterator[bytes]:
        """The messages that answer *call*, as they come. Raises UpstreamError."""


class GrpcUpstream:
    """A gRPC channel; messages pass as they are, nothing is parsed."""

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel
        self._callables: dict[str, Any] = {}

    async def unary(self, call: Call) -> Answer:
        """See Upstream.unary."""
        rpc = self._begun(call, server_streaming=False)
        try:
            message = await rpc
            return Answer(message, await rpc.initial_metadata())
        except aio.AioRpcError as error:
            _raise_status(error)

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        """See Upstream.stream."""
        rpc = self._begun(call, server_streaming=True)
        try:
            async for message in rpc:
                yield message
        except aio.AioRpcError as error:
            _raise_status(error)
        finally:
            rpc.cancel()

    def _begun(self, call: Call, *, server_streaming: bool) -> Any:
        callable_ = self._callables.get(call.path)
        if callable_ is None:
            make: Any = {
                (False, False): self._channel.unary_unary,
                (False, True): self._channel.unary_stream,
                (True, False): self._channel.stream_unary,
                (True, True): self._channel.stream_stream,
            }[call.client_streaming, server_streaming]
            # Without serializers bytes pass as they are. Making a callable costs: keep it.
            callable_ = self._callables[call.path] = make(call.path)
        request = _each(call.messages) if call.client_streaming else call.messages[0]
        return callable_(request, timeout=call.timeout, metadata=call.metadata)


#: Answers one RPC in this process: the request as a message, and its metadata. Raises UpstreamError.
Handler = Callable[[Any, Metadata], Awaitable[Message]]


class InProcess:
    """RPCs that this process answers itself, by path and with the class of their requests."""

    def __init__(self, handlers: Mapping[str, tuple[type[Message], Handler]]) -> None:
        self._handlers = handlers

    async def unary(self, call: Call) -> Answer:
        """See Upstream.unary."""
        if call.path not in self._handlers:
            text = f"{call.path.removeprefix('/')} is not served"
            raise UpstreamError(status_pb2.Status(code=code_pb2.UNIMPLEMENTED, message=text))
        kind, handler = self._handlers[call.path]
        answer = await handler(kind.FromString(call.messages[0]), call.metadata)
        return Answer(answer.SerializeToString())

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        """See Upstream.stream; a stream of one message."""
        yield (await self.unary(call)).message


async def _each(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _raise_status(error: aio.AioRpcError) -> NoReturn:
    """Raise what *error* says as UpstreamError: the rich status where there is one."""
    code = error.code().value[0]
    status = status_pb2.Status(code=code, message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            rich = status_pb2.Status.FromString(value)
            status = rich if rich.code == code else status
    raise UpstreamError(status, tuple(error.initial_metadata() or ())) from error
