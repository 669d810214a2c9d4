"""Composition root of the gateway."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from grpc import aio

from reelhaul_gateway import files
from reelhaul_gateway.clients import GrpcHealthChecker, ReasonedUpstream, StorageHealthProbe, raw_channel
from reelhaul_gateway.files import ArtifactDownloads
from reelhaul_gateway.health import PROBE_PATHS, Health, ProbeEndpoints
from reelhaul_gateway.http_server import serve_http
from reelhaul_gateway.middleware import RequestMiddleware
from reelhaul_gateway.settings import Settings
from reelhaul_gateway.system_service import SystemServicer
from reelhaul_gateway.transcoding import SERVICES, build_transcoder, has_effects
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.service import Service
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.http.asgi import Receive, Scope, Send
from reelhaul_transcoding.upstream import GrpcUpstream, Upstream

log = logging.getLogger(__name__)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """Run the gateway until the block exits; yields its port."""
    async with AsyncExitStack() as stack:
        raw_channels = {
            owner: await stack.enter_async_context(raw_channel(address, SERVICES[owner]))
            for owner, address in _addresses(settings).items()
        }
        trusted_storage = await stack.enter_async_context(
            channels.open_channel(
                settings.storage_address, SERVICES["storage"], suite_token=settings.suite_token
            )
        )
        health = Health(GrpcHealthChecker(raw_channels), StorageHealthProbe(trusted_storage))
        system = SystemServicer(health, authentication_required=settings.auth != "none")
        upstreams = _upstreams(raw_channels, system)
        transcoder = build_transcoder(settings, upstreams)
        downloads = ArtifactDownloads(
            upstreams["storage"], transcoder.statuses, resource_policy=settings.gateway_resource_policy
        )
        app = RequestMiddleware(
            Endpoints(ProbeEndpoints(health), downloads, transcoder),
            transcoder.statuses,
            allow_anyone=settings.auth == "none",
            has_effects=partial(has_effects, transcoder),
        )
        port = await stack.enter_async_context(
            serve_http(
                app,
                settings.gateway_address,
                keep_alive=settings.gateway_keep_alive_seconds,
                drain_seconds=settings.drain_seconds,
            )
        )
        log.info("serving", extra={"address": f"{settings.gateway_address.rpartition(':')[0]}:{port}"})
        try:
            yield port
        finally:
            health.draining = True
            transcoder.drain()


class Endpoints:
    """Selects between the probes, artifact downloads, and the routes of the protos."""

    def __init__(self, probes: ProbeEndpoints, downloads: ArtifactDownloads, transcoder: Transcoder) -> None:
        self._probes, self._downloads, self._transcoder = probes, downloads, transcoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in PROBE_PATHS:
            await self._probes(scope, receive, send)
        elif scope["type"] == "http" and files.is_download(scope):
            await self._downloads(scope, receive, send)
        else:
            await self._transcoder(scope, receive, send)


def _addresses(settings: Settings) -> dict[str, str]:
    return {
        "jobs": settings.jobs_address,
        "storage": settings.storage_address,
        "fetcher": settings.fetcher_address,
    }


def _upstreams(raw_channels: Mapping[str, aio.Channel], system: SystemServicer) -> dict[str, Upstream]:
    remote: dict[str, Upstream] = {
        owner: ReasonedUpstream(owner, GrpcUpstream(channel)) for owner, channel in raw_channels.items()
    }
    return remote | {"gateway": system.as_upstream()}


@asynccontextmanager
async def _running_from_env() -> AsyncIterator[None]:
    async with running(Settings()):
        yield


service = Service("gateway", running=_running_from_env)
