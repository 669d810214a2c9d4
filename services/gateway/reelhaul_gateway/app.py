"""The gateway, put together: real things are chosen here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from grpc import aio

from reelhaul_gateway import files, probes
from reelhaul_gateway.clients import GrpcCheckup, StorageHealthProbe, raw_channel
from reelhaul_gateway.files import Files
from reelhaul_gateway.health import Health
from reelhaul_gateway.http_server import listening
from reelhaul_gateway.middleware import RequestMiddleware
from reelhaul_gateway.probes import Probes
from reelhaul_gateway.routes import SERVICES
from reelhaul_gateway.settings import Settings
from reelhaul_gateway.system_service import SystemServicer
from reelhaul_gateway.transcoding import transcoder
from reelhaul_gateway.upstreams import ReasonedUpstream
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.service import Service
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.http.asgi import Receive, Scope, Send
from reelhaul_transcoding.upstream import GrpcUpstream, Upstream

log = logging.getLogger(__name__)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """The gateway, from its first connection to its last goodbye; yields its port."""
    async with AsyncExitStack() as stack:
        opened = {
            owner: await stack.enter_async_context(raw_channel(address, SERVICES[owner]))
            for owner, address in _addresses(settings).items()
        }
        trusted = await stack.enter_async_context(
            channels.channel(settings.storage_address, SERVICES["storage"], suite_token=settings.suite_token)
        )
        health = Health(GrpcCheckup(opened), StorageHealthProbe(trusted))
        system = SystemServicer(health, authenticates=settings.auth != "none")
        upstreams = _upstreams(opened, system)
        rest = transcoder(settings, upstreams)
        doors = _Doors(Probes(health), Files(upstreams["storage"], rest), rest)
        app = RequestMiddleware(doors, rest, open_to_all=settings.auth == "none")
        port = await stack.enter_async_context(
            listening(
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
            rest.drain()


class _Doors:
    """What leads where, before the routes of the protos."""

    def __init__(self, health: Probes, downloads: Files, rest: Transcoder) -> None:
        self._probes, self._files, self._rest = health, downloads, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] in probes.PATHS:
                return await self._probes(scope, receive, send)
            if scope["method"] in ("GET", "HEAD") and files.PATH.fullmatch(scope["raw_path"]):
                return await self._files(scope, receive, send)
        await self._rest(scope, receive, send)
        return None


def _addresses(settings: Settings) -> dict[str, str]:
    return {
        "jobs": settings.jobs_address,
        "storage": settings.storage_address,
        "fetcher": settings.fetcher_address,
    }


def _upstreams(opened: Mapping[str, aio.Channel], system: SystemServicer) -> dict[str, Upstream]:
    remote: dict[str, Upstream] = {
        owner: ReasonedUpstream(owner, GrpcUpstream(channel)) for owner, channel in opened.items()
    }
    return remote | {"gateway": system.upstream()}


@asynccontextmanager
async def _running_from_env() -> AsyncIterator[None]:
    async with running(Settings()):
        yield


service = Service("gateway", running=_running_from_env)
