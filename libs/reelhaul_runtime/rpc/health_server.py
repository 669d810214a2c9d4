"""Health server: serves grpc.health.v1 alone, in plain text and to callers without a credential.

kubelet's gRPC probes have no TLS (https://kubernetes.io/docs/concepts/workloads/pods/probes/), and a
service with mutual TLS refuses them at its main address.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from reelhaul_runtime import listeners

log = logging.getLogger(__name__)

_MAX_RPCS = 64
_OPTIONS: list[tuple[str, Any]] = [
    # A probe is one connection with one call of some bytes.
    ("grpc.max_allowed_incoming_connections", 32),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.max_receive_message_length", 1024),
    ("grpc.max_metadata_size", 4096),
    ("grpc.server_handshake_timeout_ms", 3_000),
    ("grpc.max_connection_idle_ms", 10_000),
    # Who watches connects again: no connection takes the place of a probe for longer.
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", 1_000),
]


class HealthAddressUnavailable(listeners.AddressUnavailable):
    """No server can listen at the address of health."""

    setting = "HEALTH_ADDRESS"


@asynccontextmanager
async def serving_health(
    address: str, health: health_aio.HealthServicer, *, reuse_port: bool = False
) -> AsyncIterator[int]:
    """Serve *health* at *address* (host:port; port 0 takes a free one) until the end of the block.

    Yields the port. With *reuse_port* a process of the same user may hold it. Raises
    HealthAddressUnavailable.
    """
    options = [*_OPTIONS, ("grpc.so_reuseport", int(reuse_port))]
    server = aio.server(options=options, maximum_concurrent_rpcs=_MAX_RPCS)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise HealthAddressUnavailable(listeners.explain(address)) from error
    await server.start()
    log.info("serving health", extra={"address": f"{address.rpartition(':')[0]}:{port}"})
    try:
        yield port
    finally:
        await server.stop(None)
