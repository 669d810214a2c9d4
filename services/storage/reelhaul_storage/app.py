"""Composition root of the storage service: builds its real objects."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from reelhaul.storage.v1 import (
    destination_service_pb2,
    destination_service_pb2_grpc,
    storage_service_pb2,
    storage_service_pb2_grpc,
)
from reelhaul_runtime.auth.audit_log import open_audit_log
from reelhaul_runtime.auth.rate_limits import open_rate_limiter
from reelhaul_runtime.auth.verification import open_authenticator
from reelhaul_runtime.doctor.check import Check
from reelhaul_runtime.listeners import AddressUnavailable
from reelhaul_runtime.metrics.collectors import collecting
from reelhaul_runtime.metrics.process import collecting_disks
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.rpc.server import serving
from reelhaul_runtime.service import Service
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.sql import migrations
from reelhaul_runtime.tasks import cancel_and_wait
from reelhaul_storage.api.destinations import DestinationServicer
from reelhaul_storage.api.storage import StorageServicer
from reelhaul_storage.backup import describe_data
from reelhaul_storage.catalog.store import COMPONENT, SqlCatalog
from reelhaul_storage.disk.blobs import DiskBlobStore
from reelhaul_storage.http_server import serving_links
from reelhaul_storage.local_links import LinkKeys, LocalLinkSigner
from reelhaul_storage.metered_blobs import MeteredBlobStore
from reelhaul_storage.ports import BlobStore, LinkSigner
from reelhaul_storage.process import open_process_report
from reelhaul_storage.s3.destinations import S3DestinationBuckets
from reelhaul_storage.s3.location import parse_location
from reelhaul_storage.service.archives import Archives
from reelhaul_storage.service.artifacts import Artifacts
from reelhaul_storage.service.backend_health import BackendHealth
from reelhaul_storage.service.destinations import Destinations
from reelhaul_storage.service.garbage_collector import GarbageCollector, collect_garbage_forever
from reelhaul_storage.service.links import LinkedArtifacts, Links
from reelhaul_storage.service.movable_blobs import MovableBlobStore
from reelhaul_storage.service.scrubber import Scrubber, scrub_forever
from reelhaul_storage.service.tenant_resources import TenantResources
from reelhaul_storage.service.uploads import Uploads
from reelhaul_storage.settings import Settings, is_same_location

_DATABASE_SETTING = "REELHAUL_STORAGE_DATABASE_URL"
_DESTINATION_SERVICE = destination_service_pb2.DESCRIPTOR.services_by_name["DestinationService"].full_name
_SERVICE = storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"].full_name


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


@asynccontextmanager
async def running(settings: Settings, *, now: Callable[[], datetime] = utc_now) -> AsyncIterator[int]:
    """Run the storage service until the block exits; yield its port."""
    await asyncio.to_thread(
        migrations.migrate_if_behind, settings.database_url, "reelhaul_storage", _DATABASE_SETTING
    )
    async with AsyncExitStack() as stack:
        catalog = await stack.enter_async_context(SqlCatalog.open(settings.database_url))
        blobs = await stack.enter_async_context(_open_blobs(settings, catalog))
        grace = timedelta(seconds=settings.storage_grace_seconds)
        stack.enter_context(collecting("catalog", partial(_read_catalog, catalog), max_age_seconds=60))
        if not settings.url.startswith("s3:"):
            stack.enter_context(collecting_disks({"artifacts": _folder(settings.url)}))
        garbage_collector = GarbageCollector(catalog, blobs, now, grace)
        health = BackendHealth(catalog, blobs)
        process = open_process_report(settings, catalog, health)
        artifacts = Artifacts(catalog, blobs, garbage_collector, now)
        page_tokens = PageTokens(settings.suite_token, now)
        keys = LinkKeys(settings.link_keys or [settings.suite_token or secrets.token_hex()])
        linked = LinkedArtifacts(catalog, blobs, artifacts, keys, now)
        signer = await stack.enter_async_context(_open_link_signer(settings, keys, linked, now))
        uploads = Uploads(
            catalog,
            blobs,
            now,
            max_bytes=settings.storage_max_artifact_bytes,
            generation=lambda: blobs.generation,
        )
        servicer = StorageServicer(
            uploads,
            artifacts,
            Links(catalog, artifacts, signer, now),
            Archives(catalog, artifacts, now),
            TenantResources(catalog, catalog.destinations, artifacts, uploads),
            health,
            page_tokens,
            now,
            backend=lambda: blobs.backend,
            default_ttl=timedelta(days=settings.storage_default_ttl_days),
            max_artifact_bytes=settings.storage_max_artifact_bytes,
        )
        buckets = stack.enter_context(
            S3DestinationBuckets.open(settings.load_seal_keys, settings.storage_destination_networks)
        )
        destinations = DestinationServicer(
            Destinations(catalog.destinations, buckets, artifacts, now), page_tokens
        )
        collecting_garbage = collect_garbage_forever(garbage_collector, settings.storage_sweep_seconds)
        await stack.enter_async_context(_in_background(collecting_garbage))
        await stack.enter_async_context(_in_background(blobs.refresh_forever()))
        if rate := settings.storage_scrub_bytes_per_second:
            scrubbing = scrub_forever(Scrubber(catalog, blobs, now, rate))
            await stack.enter_async_context(_in_background(scrubbing))
        authenticator = await stack.enter_async_context(open_authenticator(settings, "storage"))
        audit_log = await stack.enter_async_context(open_audit_log(settings))
        rate_limiter = await stack.enter_async_context(open_rate_limiter(settings))
        yield await stack.enter_async_context(
            serving(
                settings.storage_address,
                [
                    (storage_service_pb2_grpc.add_StorageServiceServicer_to_server, servicer, _SERVICE),
                    (
                        destination_service_pb2_grpc.add_DestinationServiceServicer_to_server,
                        destinations,
                        _DESTINATION_SERVICE,
                    ),
                    process.servicer,
                ],
                authenticator=authenticator,
                audit_log=audit_log,
                rate_limiter=rate_limiter,
                checks={COMPONENT: catalog.ping, "storage.backend": health.check},
                health=process.states,
                drain_seconds=settings.drain_seconds,
                reuse_port=settings.reuse_port,
                tls=settings.tls,
                health_address=settings.storage_health_address,
            )
        )


@asynccontextmanager
async def _open_link_signer(
    settings: Settings, keys: LinkKeys, linked: LinkedArtifacts, now: Callable[[], datetime]
) -> AsyncIterator[LinkSigner]:
    """Open the signer of the backend's links; those of the disk are served until the block exits."""
    if not settings.url.startswith("s3:"):
        async with _serving_links(linked, settings) as address:
            yield LocalLinkSigner(keys, settings.storage_public_url or f"http://{address}")
        return
    from reelhaul_storage.s3.links import CloudFrontLinkSigner, S3LinkSigner, load_private_key

    location, key_file = parse_location(settings.url), settings.storage_cloudfront_key_file
    if key_file is not None:
        yield CloudFrontLinkSigner(
            settings.storage_cloudfront_url,
            settings.storage_cloudfront_key_pair_id,
            load_private_key(key_file),
            location,
        )
        return
    async with S3LinkSigner.open(location, now) as signer:
        yield signer


@asynccontextmanager
async def _serving_links(linked: LinkedArtifacts, settings: Settings) -> AsyncIterator[str]:
    """Serve links until the block exits; yield the address. Raises InvalidSetting."""
    serving = serving_links(
        linked,
        settings.storage_http_address,
        drain_seconds=settings.drain_seconds,
        reuse_port=settings.reuse_port,
    )
    async with AsyncExitStack() as stack:
        try:
            address = await stack.enter_async_context(serving)
        except AddressUnavailable as error:
            raise InvalidSetting(f"REELHAUL_STORAGE_HTTP_ADDRESS: {error}") from error
        yield address


@asynccontextmanager
async def _open_blobs(settings: Settings, catalog: SqlCatalog) -> AsyncIterator[MovableBlobStore]:
    """Open the store of the blobs. Raises InvalidSetting if they were moved, and the setting was not."""
    location = await catalog.location.get_location()
    if location.url and not is_same_location(location.url, settings.url):
        raise InvalidSetting(
            f"REELHAUL_STORAGE_URL: the artifacts were moved: set it to {location.url}, or move them with"
            " `reelhaul storage migrate`"
        )
    # A catalog with blobs and no folder of them: its disk is not mounted.
    has_blobs = await catalog.has_blobs()

    @asynccontextmanager
    async def open_store(url: str) -> AsyncIterator[BlobStore]:
        must_exist = has_blobs and url == settings.url
        async with open_blob_store(url, settings, must_exist=must_exist) as blobs:
            yield MeteredBlobStore(blobs)

    async with MovableBlobStore.open(catalog.location, open_store, settings.url) as blobs:
        yield blobs


def open_blob_store(
    url: str, settings: Settings, *, must_exist: bool = False, setting: str = "REELHAUL_STORAGE_URL"
) -> AbstractAsyncContextManager[BlobStore]:
    """Open the store at *url*, the value of *setting*; a folder that is missing is created by default.

    Raises InvalidSetting.
    """
    if url.startswith("s3:"):
        # boto3 takes longer to import than everything else, and a store on disk does not need it.
        from reelhaul_storage.s3.blobs import S3BlobStore

        return S3BlobStore.open(parse_location(url), setting)
    return DiskBlobStore.open(
        _folder(url),
        adopt_from=settings.adopt_dir,
        reserve=settings.storage_reserve_bytes,
        must_exist=must_exist,
    )


def _folder(url: str) -> Path:
    """Return the folder of the blobs at *url*, a file URL."""
    return Path(unquote(urlsplit(url).path))


async def _read_catalog(catalog: SqlCatalog) -> list[Metric]:
    """Return the metrics of rows. All replicas report the same."""
    count, size, damaged = await catalog.count()
    return [
        GaugeMetricFamily("reelhaul_artifacts", "artifacts in the catalog", value=count),
        GaugeMetricFamily("reelhaul_artifact_bytes", "bytes of the blobs in the catalog", value=size),
        GaugeMetricFamily("reelhaul_damaged_blobs", "blobs whose bytes are damaged", value=damaged),
    ]


@asynccontextmanager
async def _in_background(coroutine: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        await cancel_and_wait(task)


@asynccontextmanager
async def _running_from_env() -> AsyncIterator[None]:
    async with running(Settings()):
        yield


def _migrate() -> None:
    migrations.migrate(Settings().database_url, "reelhaul_storage", _DATABASE_SETTING)


def _checks() -> Sequence[Check]:
    from reelhaul_storage import doctor

    return doctor.checks()


service = Service(
    "storage", running=_running_from_env, migrate=_migrate, describe_data=describe_data, checks=_checks
)
