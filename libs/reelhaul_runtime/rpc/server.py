"""gRPC server: serves proto services with health and reflection, and drains them at the end."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from reelhaul_runtime import listeners, logs
from reelhaul_runtime.auth.calls import AuditLog, Authenticator, RateLimiter
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.metrics import instruments
from reelhaul_runtime.rpc.credentials import serving_certificate
from reelhaul_runtime.rpc.health_server import serving_health
from reelhaul_runtime.rpc.interceptor import PolicyInterceptor
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

#: One proto service: its generated ``add_…_to_server``, its servicer, its full name.
Servicer = tuple[Callable[[Any, aio.Server], None], object, str]

#: Returns if a component works; raises, or takes longer than five seconds, if it does not.
Check = Callable[[], Awaitable[object]]

_CHECK_TIMEOUT_SECONDS = 5
_CHECK_INTERVAL_SECONDS = 5
_CHECK_INTERVAL_SECONDS_NOT_READY = 0.1
# So long after the start a component that does not pass yet is checked as often as one that readiness needs.
_STARTING_SECONDS = 10

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_OPTIONS: list[tuple[str, Any]] = [
    # Streams idle between heartbeats: detect dead peers, but do not drop live ones.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A peer that pings more often than that, after so many warnings, is disconnected.
    ("grpc.http2.max_ping_strikes", 10),
    # The gateway has the watches of all its clients on one connection; jobs limits their number itself.
    ("grpc.max_concurrent_streams", 32_768),
]
# Each connection is a file descriptor; the other half is for databases, files and outgoing connections.
_MAX_CONNECTIONS, _DESCRIPTORS_PER_CONNECTION = 2048, 2


def _max_connections() -> int:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return min(_MAX_CONNECTIONS, descriptors // _DESCRIPTORS_PER_CONNECTION)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of the connections of a server, so that idle ones do not exhaust its file descriptors."""

    #: Further connections are closed at once. The default depends on the limit of open files, at most 2,048.
    max_connections: int = field(default_factory=_max_connections)
    #: Seconds within which a peer must complete the HTTP/2 handshake.
    handshake_seconds: float = 10.0
    #: Seconds after which a connection without calls is closed; the client's next call opens another.
    idle_seconds: float = 120.0
    #: Seconds after which a peer's next call opens another connection, so that it resolves the name of this
    #: service again and finds new replicas. Calls that run go on.
    age_seconds: float = 300.0

    @property
    def options(self) -> list[tuple[str, Any]]:
        """The limits as options of a gRPC server."""
        return [
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.server_handshake_timeout_ms", int(self.handshake_seconds * 1000)),
            ("grpc.max_connection_idle_ms", int(self.idle_seconds * 1000)),
            ("grpc.max_connection_age_ms", int(self.age_seconds * 1000)),
        ]


@asynccontextmanager
async def serving(
    address: str,
    servicers: Sequence[Servicer],
    *,
    authenticator: Authenticator,
    rate_limiter: RateLimiter | None = None,
    audit_log: AuditLog | None = None,
    checks: Mapping[str, Check] | None = None,
    informational_checks: Mapping[str, Check] | None = None,
    health: health_aio.HealthServicer | None = None,
    drain_seconds: float = 10.0,
    on_drain: Callable[[], Awaitable[None]] | None = None,
    reuse_port: bool = False,
    limits: ConnectionLimits | None = None,
    tls: TlsFiles | None = None,
    health_address: str = "",
) -> AsyncIterator[int]:
    """Serve *servicers* at *address* (host:port; port 0 takes a free one); yields the port.

    Health v1: the empty name is liveness and looks inward only. *checks* look outward, by
    component name (``jobs.database``), every five seconds, or ten times a second until all pass: each is
    served under its name, and the proto services' names are readiness, SERVING while all checks pass.
    *informational_checks* are served likewise, but readiness does not depend on them and they are not
    logged; *health* serves all of it if it is given. At the end of the block
    health turns NOT_SERVING, *on_drain* is awaited (it ends streams), and running calls have
    *drain_seconds* to end. At *health_address*, if there is one, health is served in plain text too, and
    nothing else, until all of this has ended.

    With *reuse_port* a process of the same user may hold the port. With *tls* clients must use TLS, and have
    a certificate of its authorities if it names the services. Raises AddressUnavailable if an address is in
    use or not this machine's, InvalidSetting or CertificateError if the files of *tls* cannot be used.
    """
    # Without *reuse_port*, a second server at the port must fail.
    options = [*_OPTIONS, *(limits or ConnectionLimits()).options, ("grpc.so_reuseport", int(reuse_port))]
    interceptor = PolicyInterceptor(authenticator, rate_limiter, audit_log)
    server = aio.server(interceptors=[interceptor], options=options)
    health = health or health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, cast("aio.Server", GenericHandlersOnly(server)))
    for add, servicer, _ in servicers:
        add(servicer, cast("aio.Server", GenericHandlersOnly(server)))
    names = [name for _, _, name in servicers]
    reflection.enable_server_reflection(
        [*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME], server
    )
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(_listening(server, address, tls))
        if health_address:
            await stack.enter_async_context(serving_health(health_address, health, reuse_port=reuse_port))
        await server.start()
        await health.set("", _SERVING)
        checking = asyncio.create_task(update_health(checks or {}, informational_checks or {}, health, names))
        log.info("serving", extra={"address": f"{address.rpartition(':')[0]}:{port}", "services": names})
        try:
            yield port
        finally:
            await cancel_and_wait(checking)
            instruments.READY.set(0)
            await health.enter_graceful_shutdown()
            if on_drain is not None:
                await on_drain()
            await server.stop(drain_seconds)


@asynccontextmanager
async def _listening(server: aio.Server, address: str, tls: TlsFiles | None) -> AsyncIterator[int]:
    """Let *server* listen at *address* until the end of the block; yields the port."""
    async with AsyncExitStack() as stack:
        try:
            if tls is None:
                port = server.add_insecure_port(address)
                listeners.warn_of_plain_text(address)
            elif tls.certificate is None:
                raise InvalidSetting("REELHAUL_TLS_CERTIFICATE is not set: REELHAUL_TLS_CA asks for TLS")
            else:
                credentials = await stack.enter_async_context(serving_certificate(tls))
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise listeners.AddressUnavailable(listeners.explain(address)) from error
        yield port


class GenericHandlersOnly:
    """A server to which services are added without registering each method.

    grpc.aio waits separately for the next call of each registered method, and starts and ends all of
    these waits at every call: with fifty methods that costs more than the call itself. Methods
    that are not registered are found by their path.
    """

    def __init__(self, server: aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: the generic handlers suffice."""


async def update_health(
    checks: Mapping[str, Check],
    informational_checks: Mapping[str, Check],
    health: health_aio.HealthServicer,
    names: list[str],
) -> None:
    """Set the health of each component to its check's result, and of *names* to all of *checks*."""
    all_checks = {**informational_checks, **checks}
    outages = {name: logs.Outage() for name in checks}
    starting_until = asyncio.get_running_loop().time() + _STARTING_SECONDS
    while True:
        running = (_passes(name, check, outages.get(name)) for name, check in all_checks.items())
        passed = dict(zip(all_checks, await asyncio.gather(*running), strict=True))
        ready = all(passed[name] for name in checks)
        instruments.READY.set(ready)
        for name, good in [*passed.items(), *((name, ready) for name in names)]:
            await health.set(name, _SERVING if good else _NOT_SERVING)
        is_starting = not all(passed.values()) and asyncio.get_running_loop().time() < starting_until
        is_settled = ready and not is_starting
        await asyncio.sleep(_CHECK_INTERVAL_SECONDS if is_settled else _CHECK_INTERVAL_SECONDS_NOT_READY)


async def _passes(component: str, check: Check, outage: logs.Outage | None) -> bool:
    """Return whether *check* passes. Failures are logged at growing intervals, if *outage* is given."""
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
            await check()
    except Exception as error:
        if outage is not None and (level := outage.level()) is not None:
            log.log(level, "check failed", extra={"component": component, "cause": repr(error)})
        return False
    if outage is not None:
        if outage.logged:
            log.info("check passes", extra={"component": component})
        outage.end()
    return True
