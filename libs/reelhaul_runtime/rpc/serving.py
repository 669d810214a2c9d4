"""Serving: a gRPC server with health, reflection and a graceful end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from reelhaul_runtime.rpc.door import Authenticator, Door

log = logging.getLogger(__name__)

#: One proto service: its generated ``add_…_to_server``, its servicer, its full name.
Servicer = tuple[Callable[[Any, aio.Server], None], object, str]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_OPTIONS: list[tuple[str, Any]] = [
    # Two servers must never share a port unnoticed.
    ("grpc.so_reuseport", 0),
    # Streams idle between heartbeats: dead peers must be noticed, live ones not dropped.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
]


async def _always() -> bool:
    return True


@asynccontextmanager
async def serving(
    address: str,
    servicers: Sequence[Servicer],
    *,
    authenticator: Authenticator,
    ready: Callable[[], Awaitable[bool]] = _always,
    drain_seconds: float = 10.0,
    draining: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[int]:
    """Serve *servicers* at *address* (host:port; port 0 takes a free one); yields the port.

    Health v1: the empty name is liveness and looks inward only; each service's name is
    readiness and follows *ready*, asked every second. On leaving, health turns NOT_SERVING,
    *draining* is awaited (end streams here), and calls in hand are given *drain_seconds*.

    Raises RuntimeError if the address is taken.
    """
    server = aio.server(interceptors=[Door(authenticator)], options=_OPTIONS)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    for add, servicer, _ in servicers:
        add(servicer, server)
    names = [name for _, _, name in servicers]
    reflection.enable_server_reflection(
        [*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME], server
    )
    port = server.add_insecure_port(address)
    await server.start()
    await health.set("", _SERVING)
    watching = asyncio.create_task(_follow(ready, health, names))
    log.info("serving", extra={"address": f"{address.rpartition(':')[0]}:{port}", "services": names})
    try:
        yield port
    finally:
        watching.cancel()
        await health.enter_graceful_shutdown()
        if draining is not None:
            await draining()
        await server.stop(drain_seconds)


async def _follow(
    ready: Callable[[], Awaitable[bool]], health: health_aio.HealthServicer, names: list[str]
) -> None:
    """Keep the health of *names* at what *ready* says."""
    while True:
        try:
            async with asyncio.timeout(5):
                serves = await ready()
        except Exception as error:
            log.warning("not ready", extra={"cause": repr(error)})
            serves = False
        for name in names:
            await health.set(name, _SERVING if serves else _NOT_SERVING)
        await asyncio.sleep(1 if serves else 0.1)
