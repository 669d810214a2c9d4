"""Composition root of the gateway."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc import aio
from prometheus_client.metrics_core import Metric

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway import archives, console, documentation, files, metrics, openapi
from reelhaul_gateway.access import ForwardingUpstream, RequestAuthorizer
from reelhaul_gateway.archives import ArchiveDownloads
from reelhaul_gateway.clients import (
    ReasonedUpstream,
    RemoteTickets,
    TracedUpstream,
    raw_channel,
)
from reelhaul_gateway.connections import ConnectionLimits
from reelhaul_gateway.console import ConsoleEndpoints
from reelhaul_gateway.documentation import DocumentationEndpoints
from reelhaul_gateway.files import ArtifactDownloads
from reelhaul_gateway.health import PROBE_PATHS, ProbeEndpoints
from reelhaul_gateway.http_server import serve_http
from reelhaul_gateway.middleware import RequestMiddleware
from reelhaul_gateway.origins import AllowedHosts, CorsPolicy
from reelhaul_gateway.request_head import TrustedProxies
from reelhaul_gateway.settings import ANY_ORIGIN, Settings
from reelhaul_gateway.system_service import system_upstream
from reelhaul_gateway.transcoding import SERVICES, build_transcoder, has_effects
from reelhaul_runtime import errors, listeners
from reelhaul_runtime.auth.audit_log import open_audit_log
from reelhaul_runtime.auth.rate_limits import open_rate_limiter
from reelhaul_runtime.auth.verification import open_authenticator
from reelhaul_runtime.certificate import Certificate, CertificateError
from reelhaul_runtime.doctor.check import Check
from reelhaul_runtime.metrics import instruments
from reelhaul_runtime.metrics.collectors import collecting
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.server_addresses import split_addresses
from reelhaul_runtime.service import Service
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.system.checks import GrpcHealthChecker, StorageHealthProbe
from reelhaul_runtime.system.health import Health
from reelhaul_runtime.system.processes import ProcessReader
from reelhaul_runtime.system.service import SystemReports
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.dispatcher import ROUTE
from reelhaul_transcoding.http.asgi import ASGIApp, Receive, Scope, Send
from reelhaul_transcoding.http.status import StatusWriter
from reelhaul_transcoding.upstream import GrpcUpstream, Upstream

log = logging.getLogger(__name__)

# File descriptors that connections of clients leave free: for the listener, the channels to the services,
# logs, and the connections beyond the limits that serve health checks.
_RESERVED_DESCRIPTORS = 128


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """Run the gateway until the block exits; yields its port."""
    async with AsyncExitStack() as stack:
        raw_channels = {
            owner: await stack.enter_async_context(raw_channel(address, SERVICES[owner], settings.tls))
            for owner, address in _addresses(settings).items()
        }
        trusted_storage = await stack.enter_async_context(
            channels.open_channel(
                settings.storage_target,
                SERVICES["storage"],
                suite_token=settings.suite_token,
                tls=settings.tls,
            )
        )
        own_probes, *other_workers = split_addresses(settings.gateway_worker_addresses) or [""]
        health = Health(
            GrpcHealthChecker(raw_channels),
            StorageHealthProbe(trusted_storage),
            other_workers=other_workers,
        )
        processes = ProcessReader(_addresses(settings), settings.suite_token, settings.tls)
        authorizer = await _open_authorizer(stack, settings)
        system = system_upstream(
            SystemReports(health, settings, processes, own_service="gateway"),
            authorizer.record if authorizer else _record_nothing,
        )
        upstreams = _upstreams(
            raw_channels, system, forwards=authorizer is not None, traced=bool(settings.otlp_endpoint)
        )
        transcoder = build_transcoder(
            settings, upstreams, authorizer.authorize_method if authorizer else None
        )
        downloads: ASGIApp = ArtifactDownloads(
            upstreams["storage"],
            transcoder.statuses,
            redirect=settings.gateway_downloads == "redirect",
            resource_policy=settings.gateway_resource_policy,
        )
        archive_downloads: ASGIApp = ArchiveDownloads(
            upstreams["jobs"], upstreams["storage"], transcoder.statuses
        )
        documents: ASGIApp = DocumentationEndpoints(
            partial(openapi.build_document, transcoder), transcoder.statuses
        )
        if authorizer is not None:
            downloads = authorizer.guard(downloads, files.METHOD, transcoder.statuses)
            archive_downloads = authorizer.guard(archive_downloads, archives.METHOD, transcoder.statuses)
            documents = authorizer.guard(documents, documentation.METHOD, transcoder.statuses)
        probes = ProbeEndpoints(health, transcoder.statuses)
        proxies = TrustedProxies(settings.gateway_trusted_proxies)
        with_middleware = partial(
            RequestMiddleware,
            statuses=transcoder.statuses,
            allow_anyone=settings.auth == "none",
            hosts=_allowed_hosts(settings),
            cors=_cors_policy(settings),
            proxies=proxies,
            has_effects=partial(has_effects, transcoder),
            accept_xray=settings.trace_xray,
        )
        console_files = ConsoleEndpoints(transcoder.statuses) if settings.gateway_console else None
        app = with_middleware(
            Endpoints(probes, downloads, archive_downloads, documents, console_files, transcoder)
        )
        overloaded = with_middleware(OverloadedEndpoints(probes, transcoder.statuses))
        serve = partial(
            serve_http,
            overloaded=overloaded,
            limits=_connection_limits(settings),
            keep_alive=settings.gateway_keep_alive_seconds,
            drain_seconds=settings.drain_seconds - settings.gateway_unready_seconds,
            reuse_port=settings.reuse_port,
        )
        if own_probes:
            await stack.enter_async_context(serve(overloaded, own_probes))
        stack.enter_context(
            collecting("gateway", partial(_read_metrics, health, transcoder), timeout_seconds=5)
        )
        port = await stack.enter_async_context(
            serve(
                app,
                settings.gateway_address,
                certificate=_load_certificate(settings),
                proxies=proxies if settings.gateway_proxy_protocol else None,
            )
        )
        if settings.gateway_tls_certificate is None and not settings.gateway_trusted_proxies:
            listeners.warn_of_plain_text(settings.gateway_address)
        log.info("serving", extra={"address": f"{settings.gateway_address.rpartition(':')[0]}:{port}"})
        try:
            yield port
        finally:
            health.draining = True
            # In the second half load balancers have noticed, and streams are resumed elsewhere.
            await asyncio.sleep(settings.gateway_unready_seconds / 2)
            await transcoder.end_streams(settings.gateway_unready_seconds / 2)
            transcoder.drain()


async def _read_metrics(health: Health, transcoder: Transcoder) -> list[Metric]:
    """Return the metrics that a scrape reads; a check of a service that hangs takes two seconds."""
    instruments.READY.set(await health.is_ready())
    return [metrics.cache_lookups(*transcoder.cache_lookups)]


class Endpoints:
    """Selects between probes, downloads of artifacts and archives, documentation, console, and the routes."""

    def __init__(
        self,
        probes: ProbeEndpoints,
        downloads: ASGIApp,
        archive_downloads: ASGIApp,
        documents: ASGIApp,
        console_files: ASGIApp | None,
        transcoder: Transcoder,
    ) -> None:
        self._probes, self._transcoder = probes, transcoder
        self._downloads, self._archive_downloads = downloads, archive_downloads
        self._documents, self._console_files = documents, console_files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in PROBE_PATHS:
            scope[ROUTE] = scope["path"]
            await self._probes(scope, receive, send)
        elif scope["type"] == "http" and files.is_download(scope):
            scope[ROUTE] = files.ROUTE
            await self._downloads(scope, receive, send)
        elif scope["type"] == "http" and archives.is_archive(scope):
            scope[ROUTE] = archives.route_of(scope)
            await self._archive_downloads(scope, receive, send)
        elif scope["type"] == "http" and documentation.is_documentation(scope):
            scope[ROUTE] = scope["path"]
            await self._documents(scope, receive, send)
        elif scope["type"] == "http" and self._console_files and console.is_console(scope):
            scope[ROUTE] = console.route_of(scope)
            await self._console_files(scope, receive, send)
        else:
            await self._transcoder(scope, receive, send)


class OverloadedEndpoints:
    """Answers the probes, and all other requests with 503: there are too many connections."""

    def __init__(self, probes: ProbeEndpoints, statuses: StatusWriter) -> None:
        self._probes, self._statuses = probes, statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBE_PATHS:
            scope[ROUTE] = scope["path"]
            await self._probes(scope, receive, send)
            return
        error = errors.ReelhaulError(
            ErrorReason.OVERLOADED, "too many connections; try again", retry_delay=timedelta(seconds=1)
        )
        await self._statuses.send_status(send, errors.to_status(error), [(b"connection", b"close")])


def _allowed_hosts(settings: Settings) -> AllowedHosts:
    """Return the hosts of the settings; without any, all if callers authenticate, else local ones."""
    return AllowedHosts(
        settings.gateway_allowed_hosts, anyone=settings.auth != "none" and not settings.gateway_allowed_hosts
    )


def _cors_policy(settings: Settings) -> CorsPolicy:
    if ANY_ORIGIN in settings.gateway_cors_origins and settings.auth == "none":
        log.warning(
            "REELHAUL_GATEWAY_CORS_ORIGINS=* with REELHAUL_AUTH=none: every web page that a user of this"
            " machine visits can control the suite"
        )
    return CorsPolicy(
        settings.gateway_cors_origins,
        credentials=settings.gateway_cors_credentials,
        max_age=settings.gateway_cors_max_age_seconds,
    )


def _connection_limits(settings: Settings) -> ConnectionLimits:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    workers = settings.gateway_workers
    total = min(settings.gateway_max_connections // workers, descriptors - _RESERVED_DESCRIPTORS)
    return ConnectionLimits(
        total=max(1, total),
        per_peer=max(1, settings.gateway_max_connections_per_peer // workers),
        head_seconds=settings.gateway_head_seconds,
        body_seconds=settings.gateway_body_seconds,
        min_body_rate=settings.gateway_min_body_rate,
        total_body_bytes=settings.gateway_max_total_body_bytes // workers,
    )


def _load_certificate(settings: Settings) -> Certificate | None:
    """Return the certificate of the settings; None without one. Raises InvalidSetting."""
    if settings.gateway_tls_certificate is None or settings.gateway_tls_key is None:
        return None
    try:
        return Certificate(settings.gateway_tls_certificate, settings.gateway_tls_key)
    except CertificateError as error:
        raise InvalidSetting(f"REELHAUL_GATEWAY_TLS_CERTIFICATE: {error}") from error


async def _record_nothing(path: str, request: Message, status: status_pb2.Status) -> None:
    """Record nothing: without authentication there is no audit log."""


def _addresses(settings: Settings) -> dict[str, str]:
    return {
        "jobs": settings.jobs_target,
        "storage": settings.storage_target,
        "fetcher": settings.fetcher_target,
    }


def _upstreams(
    raw_channels: Mapping[str, aio.Channel], system: Upstream, *, forwards: bool, traced: bool
) -> dict[str, Upstream]:
    """Return the upstreams by owner.

    With *forwards*, their calls prove that they entered at the gateway; *traced* ones are recorded as spans.
    """
    upstreams: dict[str, Upstream] = {"gateway": system}
    for owner, channel in raw_channels.items():
        upstream: Upstream = GrpcUpstream(channel)
        if forwards:
            upstream = ForwardingUpstream(upstream)
        upstreams[owner] = ReasonedUpstream(owner, TracedUpstream(upstream) if traced else upstream)
    return upstreams


async def _open_authorizer(stack: AsyncExitStack, settings: Settings) -> RequestAuthorizer | None:
    """Return what decides about requests; None if all are served."""
    if settings.auth == "none":
        return None
    authenticator = await stack.enter_async_context(open_authenticator(settings, "gateway"))
    channel = channels.open_channel(
        settings.jobs_target, SERVICES["jobs"], suite_token=settings.suite_token, tls=settings.tls
    )
    tickets = RemoteTickets(await stack.enter_async_context(channel))
    rate_limiter = await stack.enter_async_context(open_rate_limiter(settings))
    audit_log = await stack.enter_async_context(open_audit_log(settings))
    return RequestAuthorizer(authenticator, tickets, settings.suite_token, rate_limiter, audit_log)


@asynccontextmanager
async def _running_from_env() -> AsyncIterator[None]:
    async with running(Settings()):
        yield


def _count_workers() -> int:
    settings = Settings()
    return 1 if settings.gateway_worker_addresses else settings.gateway_workers


def _checks() -> Sequence[Check]:
    from reelhaul_gateway import doctor

    return doctor.checks()


service = Service("gateway", running=_running_from_env, count_workers=_count_workers, checks=_checks)
