"""Clients of the other services: raw channels, upstreams with error reasons, tickets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import code_pb2, status_pb2
from grpc import aio

from reelhaul.admin.v1 import api_key_service_pb2, api_key_service_pb2_grpc
from reelhaul_runtime import errors
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.rpc.credentials import connecting
from reelhaul_runtime.rpc.metrics import METHOD_TYPES, client_handled
from reelhaul_runtime.tracing import rpc as rpc_spans
from reelhaul_runtime.tracing.spans import Span
from reelhaul_transcoding.upstream import Call, UnaryResponse, Upstream, UpstreamError

_MAX_MESSAGE_BYTES = 32 << 20

# gRPC reports CANCELLED for a call that reaches a server which is shutting down. A client that
# disconnects gets no response, so CANCELLED here always means the server.
_UNAVAILABLE_CODES = (code_pb2.UNAVAILABLE, code_pb2.CANCELLED)
_MESSAGES = {
    code_pb2.DEADLINE_EXCEEDED: "the call passed its deadline",
    code_pb2.INTERNAL: "internal error",
    code_pb2.UNKNOWN: "internal error",
}


@asynccontextmanager
async def raw_channel(
    address: str, services: list[ServiceDescriptor], tls: TlsFiles | None = None
) -> AsyncIterator[aio.Channel]:
    """Open a channel for callers' requests: without interceptors, which cost, and without the suite token.

    If *address* may be of several servers, calls are distributed to those that are ready. With *tls* the
    connection uses TLS, as that of ``channels.open_channel``.
    """
    options: list[tuple[str, Any]] = [
        *channels.resolution_options(address, services),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 50),
        # Bounds how long readiness waits for a service that starts or restarts.
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.enable_http_proxy", 0),
    ]
    async with connecting(channels.to_target(address), options, tls) as channel:
        yield channel


class ReasonedUpstream:
    """An upstream whose errors all have a reason.

    Errors of the service itself have one. Errors without one come from gRPC, and their messages
    contain internal addresses.
    """

    def __init__(self, owner: str, inner: Upstream) -> None:
        self._owner, self._inner = owner, inner

    async def unary(self, call: Call) -> UnaryResponse:
        try:
            response = await self._inner.unary(call)
        except UpstreamError as error:
            _count(call, error.status.code, streams_response=False)
            raise self._with_reason(error) from error
        except asyncio.CancelledError:
            _count(call, code_pb2.CANCELLED, streams_response=False)
            raise
        _count(call, code_pb2.OK, streams_response=False)
        return response

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._inner.stream(call)) as messages:
                async for message in messages:
                    yield message
        except UpstreamError as error:
            _count(call, error.status.code, streams_response=True)
            raise self._with_reason(error) from error
        except (GeneratorExit, asyncio.CancelledError):
            _count(call, code_pb2.CANCELLED, streams_response=True)
            raise
        _count(call, code_pb2.OK, streams_response=True)

    def _with_reason(self, error: UpstreamError) -> UpstreamError:
        if error.status.details:
            return error
        code = error.status.code
        if code in _UNAVAILABLE_CODES:
            code = code_pb2.UNAVAILABLE
            failure: errors.ReelhaulError = errors.Unavailable(self._owner, f"{self._owner} does not answer")
        else:
            failure = errors.from_status(status_pb2.Status(code=code, message=_MESSAGES.get(code, "")))
        status = errors.to_status(failure)
        # The reason adds to gRPC's code and does not replace it.
        status.code = code
        status.message = status.message or error.status.message
        return UpstreamError(status, error.metadata, error.trailers)


class TracedUpstream:
    """An upstream that records its calls as spans."""

    def __init__(self, inner: Upstream) -> None:
        self._inner = inner

    async def unary(self, call: Call) -> UnaryResponse:
        span = rpc_spans.start_client(call.path)
        if not span.recorded:
            return await self._inner.unary(call)
        with _recording(span, call) as traced:
            return await self._inner.unary(traced)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        span = rpc_spans.start_client(call.path)
        with _recording(span, call) if span.recorded else nullcontext(call) as traced:
            async with aclosing(self._inner.stream(traced)) as messages:
                async for message in messages:
                    yield message


@contextmanager
def _recording(span: Span, call: Call) -> Iterator[Call]:
    """End *span* as *call* does in the block; yields the call with the trace context of *span*."""
    metadata = [pair for pair in call.metadata if pair[0] != "traceparent"]
    code = code_pb2.CANCELLED
    try:
        yield replace(call, metadata=(*metadata, ("traceparent", span.traceparent)))
        code = code_pb2.OK
    except UpstreamError as error:
        code = error.status.code
        raise
    finally:
        rpc_spans.end_client(span, call.path, code)


def _count(call: Call, code: int, *, streams_response: bool) -> None:
    grpc_type = METHOD_TYPES[call.messages is not None, streams_response]
    client_handled(call.path, grpc_type, code_pb2.Code.Name(code)).inc()


class RemoteTickets:
    """TicketRedeemer that calls jobs."""

    def __init__(self, channel: aio.Channel) -> None:
        # The channel needs the suite token: only the suite may redeem tickets.
        self._jobs = api_key_service_pb2_grpc.ApiKeyServiceStub(channel)

    async def redeem(self, ticket: str) -> api_key_service_pb2.VerifyApiKeyResponse:
        request = api_key_service_pb2.RedeemTicketRequest(ticket=ticket)
        with channels.status_as_errors("jobs"):
            response: api_key_service_pb2.VerifyApiKeyResponse = await self._jobs.RedeemTicket(request)
        return response
