"""Channels: how one service calls another: deadlines, retries, the suite's credential, errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import grpc
from google.protobuf import descriptor, descriptor_pb2
from google.rpc import status_pb2
from grpc import aio

from reelhaul_runtime import errors, logs
from reelhaul_runtime.auth.peers import SUITE_TOKEN_KEY
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.rpc.credentials import connecting
from reelhaul_runtime.rpc.metrics import count_client_call
from reelhaul_runtime.rpc.policy import max_deadline_seconds
from reelhaul_runtime.server_addresses import may_be_several, split_addresses
from reelhaul_runtime.tracing import rpc as rpc_spans

_MethodOptions = descriptor_pb2.MethodOptions

#: Metadata of a call, as pairs.
Metadata = Iterable[tuple[str, str | bytes]]

# AIP-194: UNAVAILABLE is the only code that is always safe to retry. These methods are idempotent, and a
# server that stops ends the calls that it has just accepted with CANCELLED.
_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}

# Codes that gRPC itself sets; failures of the service have details. If the peer dies while a message is sent,
# the call ends with INTERNAL ("Internal error from Core"), not UNAVAILABLE; a server that stops cancels calls
# that arrive (CANCELLED).
_TRANSPORT_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)


@asynccontextmanager
async def open_channel(
    address: str,
    services: list[descriptor.ServiceDescriptor],
    *,
    suite_token: str = "",
    tls: TlsFiles | None = None,
) -> AsyncIterator[aio.Channel]:
    """Open a channel to *address* for stubs of *services*; *address* is that of ``to_target``.

    If it may be of several servers, calls are distributed to those that are ready.
    Methods with an ``idempotency_level`` are retried while a server is away or stops. A call without a
    timeout gets its policy's ``max_deadline``. Each call carries the suite token, and the request id, trace
    context and client address of the request being served. With *tls* the connection uses TLS, and the server
    must have a certificate for the name that *tls* says. Raises CertificateError if its files cannot be used.
    """
    options: list[tuple[str, Any]] = [
        *resolution_options(address, services),
        # Reconnect to a restarted peer at once, not after minutes of back-off.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # The addresses are our own; a proxy in the environment is for the sites.
        ("grpc.enable_http_proxy", 0),
        # A batch response is large; our own services are trusted to limit it.
        ("grpc.max_receive_message_length", 16 << 20),
    ]
    async with connecting(to_target(address), options, tls) as channel:
        yield cast("aio.Channel", ChannelWithDefaults(channel, suite_token))


def to_target(address: str) -> str:
    """Return gRPC's name of *address*: host:port, or several of IP addresses, comma separated.

    https://github.com/grpc/grpc/blob/master/doc/naming.md
    """
    addresses = split_addresses(address)
    if len(addresses) < 2:
        return address
    return f"{'ipv6' if addresses[0].startswith('[') else 'ipv4'}:{','.join(addresses)}"


def resolution_options(address: str, services: list[descriptor.ServiceDescriptor]) -> list[tuple[str, Any]]:
    """Return the options of a channel to *address* that select servers: service config, resolution."""
    config = service_config(services, balance=may_be_several(address))
    return [
        ("grpc.service_config", json.dumps(config)),
        # A name is resolved again when a connection ends, at most so often; the default is 30 seconds.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ]


def service_config(services: list[descriptor.ServiceDescriptor], *, balance: bool = False) -> dict[str, Any]:
    """Return the gRPC service config of *services*: methods with an ``idempotency_level`` are retried.

    With *balance*, calls are distributed round-robin to the servers of the address whose health service
    reports the first of *services* as serving.
    https://github.com/grpc/grpc/blob/master/doc/service_config.md
    """
    idempotent = [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if method.GetOptions().idempotency_level != _MethodOptions.IDEMPOTENCY_UNKNOWN
    ]
    config: dict[str, Any] = {}
    if balance:
        # A server that has just died may still be selected.
        idempotent.append({"service": "grpc.health.v1.Health", "method": "Check"})
    if idempotent:
        config["methodConfig"] = [{"name": idempotent, "retryPolicy": _RETRY_POLICY}]
    if balance:
        config["loadBalancingConfig"] = [{"round_robin": {}}]
        config["healthCheckConfig"] = {"serviceName": services[0].full_name}
    return config


@contextmanager
def status_as_errors(service: str) -> Iterator[None]:
    """Raise failed calls in the block as ReelhaulError; *service* is the peer's name, for UNAVAILABLE."""
    try:
        yield
    except aio.AioRpcError as error:
        raise error_from_rpc(error, service) from error


def error_from_rpc(error: aio.AioRpcError, service: str) -> errors.ReelhaulError:
    """Return *error*, of a call of *service*, as ReelhaulError."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return errors.from_status(status_pb2.Status.FromString(value))
    if error.code() in _TRANSPORT_CODES:
        return errors.Unavailable(service, f"{service} does not answer")
    return errors.from_status(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))


class ChannelWithDefaults:
    """A channel that adds deadline, credential, request id and trace to each call, and counts it.

    Not an interceptor: with interceptors grpc.aio runs each call in a task of its own, which costs
    more than the rest of the client's side.
    """

    def __init__(self, channel: aio.Channel, suite_token: str) -> None:
        self._channel, self._suite_token = channel, suite_token

    def unary_unary(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._with_defaults(path, "unary", self._channel.unary_unary(path, *args, **kwargs))

    def unary_stream(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._with_defaults(path, "server_stream", self._channel.unary_stream(path, *args, **kwargs))

    def stream_unary(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._with_defaults(path, "client_stream", self._channel.stream_unary(path, *args, **kwargs))

    def stream_stream(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._with_defaults(path, "bidi_stream", self._channel.stream_stream(path, *args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def _with_defaults(self, path: str, grpc_type: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(
            *request: Any, timeout: float | None = None, metadata: Metadata | None = None, **options: Any
        ) -> Any:
            if timeout is None:
                timeout = max_deadline_seconds(path)
            span = rpc_spans.start_client(path)
            sent = self._metadata(metadata, span.traceparent)
            rpc = method(*request, timeout=timeout, metadata=sent, **options)
            if span.recorded:
                rpc_spans.end_with_call(span, path, rpc)
            count_client_call(path, grpc_type, rpc)
            return rpc

        return call

    def _metadata(self, callers: Metadata | None, traceparent: str) -> aio.Metadata:
        metadata = aio.Metadata(*(callers or ()))
        if self._suite_token:
            metadata.add(SUITE_TOKEN_KEY, self._suite_token)
        if request_id := logs.request_id.get():
            metadata.add("x-request-id", request_id)
        if traceparent := traceparent or logs.traceparent.get():
            metadata.add("traceparent", traceparent)
        if client := logs.client.get():
            metadata.add("x-forwarded-for", client)
        return metadata
