"""Channels: how one service calls another, with deadlines, retries and our credential."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import grpc
from google.protobuf import descriptor, descriptor_pb2
from google.rpc import status_pb2
from grpc import aio

from reelhaul_runtime import errors, identity, logs
from reelhaul_runtime.rpc.policy import max_deadline_of

_MethodOptions = descriptor_pb2.MethodOptions

#: What goes along with a call, as pairs.
Metadata = Iterable[tuple[str, str | bytes]]

# AIP-194: UNAVAILABLE is the one code that may be retried without thinking.
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


@asynccontextmanager
async def open_channel(
    address: str, services: list[descriptor.ServiceDescriptor], *, suite_token: str = ""
) -> AsyncIterator[aio.Channel]:
    """A channel to *address* for stubs of *services*.

    Methods marked with an ``idempotency_level`` are retried on UNAVAILABLE. A call without
    a timeout takes its policy's ``max_deadline``. The suite token, the request id and the
    trace context of the request being served go along.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(service_config(services))),
        # A peer that restarts is found again at once, not after minutes of backoff.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # The addresses are our own; a proxy in the environment is for the sites.
        ("grpc.enable_http_proxy", 0),
        # Answers to many calls in one; ours are trusted not to be larger than they must.
        ("grpc.max_receive_message_length", 16 << 20),
    ]
    async with aio.insecure_channel(address, options) as opened:
        yield cast("aio.Channel", ChannelWithDefaults(opened, suite_token))


def service_config(services: list[descriptor.ServiceDescriptor]) -> dict[str, Any]:
    """gRPC service config of *services*, from their methods' ``idempotency_level``.

    https://github.com/grpc/grpc/blob/master/doc/service_config.md
    """
    safe = [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if method.GetOptions().idempotency_level != _MethodOptions.IDEMPOTENCY_UNKNOWN
    ]
    return {"methodConfig": [{"name": safe, "retryPolicy": _RETRY}]} if safe else {}


@contextmanager
def status_as_errors(service: str) -> Iterator[None]:
    """Raise another service's failure as ours; *service* is its name, for UNAVAILABLE."""
    try:
        yield
    except aio.AioRpcError as error:
        raise error_from_rpc(error, service) from error


def error_from_rpc(error: aio.AioRpcError, service: str) -> errors.ReelhaulError:
    """What *error*, a call of *service*, tells in our terms."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return errors.from_status(status_pb2.Status.FromString(value))
    if error.code() in _NOT_FROM_THERE:
        return errors.Unavailable(service, f"{service} does not answer")
    return errors.from_status(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))


# Said by gRPC itself, not by the service, whose failures have details. A message that is being sent as the
# peer dies ends in INTERNAL, "Internal error from Core", where one that waits for it is UNAVAILABLE; a call
# that arrives as a server leaves is CANCELLED by it.
_NOT_FROM_THERE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)


class ChannelWithDefaults:
    """A channel whose calls bring what every call needs: deadline, credential, request id, trace.

    Not interceptors: with them grpc.aio runs each call in a task of its own, which costs more
    than the rest of the client's side.
    """

    def __init__(self, inner: aio.Channel, suite_token: str) -> None:
        self._inner, self._token = inner, suite_token

    def unary_unary(self, path: str, *how: Any, **more: Any) -> Callable[..., Any]:
        return self._call(path, self._inner.unary_unary(path, *how, **more))

    def unary_stream(self, path: str, *how: Any, **more: Any) -> Callable[..., Any]:
        return self._call(path, self._inner.unary_stream(path, *how, **more))

    def stream_unary(self, path: str, *how: Any, **more: Any) -> Callable[..., Any]:
        return self._call(path, self._inner.stream_unary(path, *how, **more))

    def stream_stream(self, path: str, *how: Any, **more: Any) -> Callable[..., Any]:
        return self._call(path, self._inner.stream_stream(path, *how, **more))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _call(self, path: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(
            *request: Any, timeout: float | None = None, metadata: Metadata | None = None, **options: Any
        ) -> Any:
            granted = timeout if timeout is not None else max_deadline_of(path)
            return inner(*request, timeout=granted, metadata=self._with_ours(metadata), **options)

        return call

    def _with_ours(self, given: Metadata | None) -> aio.Metadata:
        metadata = aio.Metadata(*(given or ()))
        if self._token:
            metadata.add(identity.SUITE_TOKEN_KEY, self._token)
        if request := logs.request_id.get():
            metadata.add("x-request-id", request)
        if trace := logs.traceparent.get():
            metadata.add("traceparent", trace)
        return metadata
