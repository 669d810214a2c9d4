"""Composition root: builds the fetcher from its settings, top to bottom."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.storage.v1 import storage_service_pb2
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.api.fetcher import FetcherServicer
from reelhaul_fetcher.clients.jobs import BatchingLeaseClient
from reelhaul_fetcher.clients.libretranslate import LibreTranslate, NoTranslator
from reelhaul_fetcher.clients.part_upload import PartUploader
from reelhaul_fetcher.clients.storage import ArtifactUploader
from reelhaul_fetcher.disk.cookies import CookieFolder
from reelhaul_fetcher.disk.egress_usage_log import EgressUsageLog
from reelhaul_fetcher.disk.workdir import WorkDirs
from reelhaul_fetcher.gauges import (
    FILES_MAX_AGE_SECONDS,
    PROCESSES_MAX_AGE_SECONDS,
    FileGauges,
    ProcessGauges,
)
from reelhaul_fetcher.guard.supervisor import GuardConfig, running_guard
from reelhaul_fetcher.media import tools
from reelhaul_fetcher.model.egresses import Egresses
from reelhaul_fetcher.nats.queue import JetStreamQueue
from reelhaul_fetcher.ports import Translator
from reelhaul_fetcher.process import describe_components
from reelhaul_fetcher.service.attempt import AttemptContext
from reelhaul_fetcher.service.direct_fetch import DirectFetches
from reelhaul_fetcher.service.disk_space import DiskMonitor
from reelhaul_fetcher.service.download import Downloader, Limits
from reelhaul_fetcher.service.egress_metering import BudgetedQueue, MeteredGuard
from reelhaul_fetcher.service.extractors import ExtractorCatalog
from reelhaul_fetcher.service.probe_cache import ProbeCache
from reelhaul_fetcher.service.site_access import SiteAccess, SiteCookies
from reelhaul_fetcher.service.worker import Worker, WorkerHeartbeat
from reelhaul_fetcher.settings import Settings
from reelhaul_fetcher.ytdlp import version
from reelhaul_fetcher.ytdlp.process import namespace as namespaces
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_fetcher.ytdlp.process.environment import build_environment, write_ca_bundle
from reelhaul_runtime import nats_client
from reelhaul_runtime.auth.audit_log import open_audit_log
from reelhaul_runtime.auth.rate_limits import open_rate_limiter
from reelhaul_runtime.auth.site_rules import site_rules
from reelhaul_runtime.auth.verification import open_authenticator
from reelhaul_runtime.doctor.check import Check
from reelhaul_runtime.metrics.collectors import collecting
from reelhaul_runtime.metrics.process import collecting_disks
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.rpc.server import serving
from reelhaul_runtime.service import Service, ServiceData
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.system.process_report import ProcessReport
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

_NAME = fetcher_service_pb2.DESCRIPTOR.services_by_name["FetcherService"]
_LEASES = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]
_STORAGE = storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """Run the fetcher until the block exits; yield the port that it serves on."""
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    token = settings.suite_token
    async with AsyncExitStack() as stack:
        # The engine first: its zygote is forked before gRPC starts threads.
        translator = await stack.enter_async_context(_translator(settings))
        namespace = await stack.enter_async_context(_namespace(settings))
        engine = await stack.enter_async_context(
            YtDlpEngine.open(_environment(settings), name, settings.engine_options, translator, namespace)
        )

        usage_log = EgressUsageLog(settings.data_dir.absolute() / "run")
        egresses = Egresses(
            tuple(settings.egresses),
            settings.fetcher_egress_daily_bytes,
            carried=usage_log.read(_utc_now().date()),
        )
        listener = namespace.listener if namespace else None
        supervisor = await stack.enter_async_context(running_guard(_guard_config(settings), listener))
        guard = MeteredGuard(supervisor, egresses, usage_log.add)
        scratch = WorkDirs(
            settings.work_dir,
            settings.fetcher_disk_quota_bytes,
            kept_bytes=settings.fetcher_kept_bytes,
        )
        await scratch.sweep()
        stack.enter_context(collecting_disks({"work": settings.work_dir}))

        jobs = await stack.enter_async_context(
            open_channel(settings.jobs_target, [_LEASES], suite_token=token, tls=settings.tls)
        )
        storage = await stack.enter_async_context(
            open_channel(settings.storage_target, [_STORAGE], suite_token=token, tls=settings.tls)
        )
        client = await stack.enter_async_context(
            nats_client.connect(settings.nats_url, name, security=settings.nats_security)
        )
        queue = await stack.enter_async_context(JetStreamQueue.open(client, settings.fetcher_pool))

        disk = DiskMonitor(scratch, settings.disk_thresholds)
        cookies = _cookie_store(settings)
        access = SiteAccess(guard, egresses, SiteCookies(cookies))
        limits = Limits(
            settings.fetcher_max_duration_seconds,
            settings.fetcher_stall_seconds,
            settings.fetcher_cpu_seconds,
            settings.fetcher_memory_bytes,
            extraction_seconds=settings.fetcher_extraction_seconds,
            min_bytes_per_second=settings.fetcher_min_bytes_per_second,
        )
        parts = await stack.enter_async_context(PartUploader.open(settings.fetcher_ca_file))
        artifacts = ArtifactUploader(storage, parts, settings.adopt_dir)
        downloader = Downloader(engine, access, artifacts, scratch, limits)

        def describe_slot() -> lease_pb2.Slot:
            slot = worker.describe_slot(settings.fetcher_pool, engine.version, disk.free_bytes)
            slot.egress, *others = egresses.candidates()
            slot.other_egresses.extend(others)
            return slot

        context = AttemptContext(
            leases=BatchingLeaseClient(jobs),
            queue=BudgetedQueue(queue, egresses),
            downloader=downloader,
            disk=disk,
            worker=name,
            describe_slot=describe_slot,
            clock=time.monotonic,
        )
        worker = Worker(context, settings.fetcher_slots, settings.fetcher_recordings)
        servicer = FetcherServicer(
            ProbeCache(engine, access, _utc_now),
            ExtractorCatalog(engine),
            DirectFetches(worker, context, settings.direct_fetches_per_tenant),
            worker,
            PageTokens(token),
            site_rules("this server", settings.allowed_sites, settings.denied_sites),
        )
        processes = ProcessGauges(worker, supervisor, engine)
        files = FileGauges(scratch, cookies, settings.fetcher_cookies_file)
        stack.enter_context(
            collecting("processes", processes.read, max_age_seconds=PROCESSES_MAX_AGE_SECONDS)
        )
        stack.enter_context(collecting("files", files.read, max_age_seconds=FILES_MAX_AGE_SECONDS))
        heartbeat = WorkerHeartbeat(name, lambda: worker.slots, disk, egresses, _utc_now)
        beating = asyncio.create_task(heartbeat.run(queue))
        stack.push_async_callback(cancel_and_wait, beating)
        working = asyncio.create_task(_work(engine, worker))

        async def drain() -> None:
            await cancel_and_wait(working)
            await worker.drain(settings.drain_seconds)

        described = describe_components(engine, worker, disk, settings.work_dir, cookies)
        process = ProcessReport("fetcher", settings, described)
        authenticator = await stack.enter_async_context(open_authenticator(settings, "fetcher"))
        audit_log = await stack.enter_async_context(open_audit_log(settings))
        rate_limiter = await stack.enter_async_context(open_rate_limiter(settings))
        yield await stack.enter_async_context(
            serving(
                settings.fetcher_address,
                [
                    (
                        fetcher_service_pb2_grpc.add_FetcherServiceServicer_to_server,
                        servicer,
                        _NAME.full_name,
                    ),
                    process.servicer,
                ],
                authenticator=authenticator,
                audit_log=audit_log,
                rate_limiter=rate_limiter,
                checks={"fetcher.engine": engine.check, "fetcher.nats": queue.check},
                # Without disk space or drained it still answers probes; jobs wait or go elsewhere.
                informational_checks={"fetcher.disk": disk.check, "fetcher.work": worker.check},
                health=process.states,
                drain_seconds=settings.drain_seconds,
                reuse_port=settings.reuse_port,
                tls=settings.tls,
                health_address=settings.fetcher_health_address,
                on_drain=drain,
            )
        )


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def _work(engine: YtDlpEngine, worker: Worker) -> None:
    """Run the worker once the engine is warm."""
    await engine.wait_until_warm()
    _log_engine_age(engine.version)
    while True:
        try:
            await worker.run()
        except Exception:
            # Without this, a fetcher that takes no work would look healthy.
            log.exception("the worker failed; starting it again")
            await asyncio.sleep(1)


def _log_engine_age(engine: str) -> None:
    age = version.engine_age(engine)
    fields = {"engine": age.engine, "days": age.days, "floor": age.floor}
    if age.state == "ok":
        log.info("the engine's age", extra=fields)
    else:
        log.warning(f"the engine is {age.state}: sites change faster than that", extra=fields)


@asynccontextmanager
async def _translator(settings: Settings) -> AsyncIterator[Translator]:
    if not settings.fetcher_translator_url:
        yield NoTranslator()
        return
    async with LibreTranslate.open(
        settings.fetcher_translator_url, settings.fetcher_translator_key
    ) as translator:
        yield translator


@asynccontextmanager
async def _namespace(settings: Settings) -> AsyncIterator[namespaces.EngineNamespace | None]:
    async with AsyncExitStack() as stack:
        try:
            namespace = await stack.enter_async_context(namespaces.open_namespace(settings.namespace))
        except namespaces.NamespaceUnavailable as error:
            raise InvalidSetting(f"REELHAUL_FETCHER_NETWORK_NAMESPACE=on: {error}") from error
        yield namespace


def _environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables of the engine's processes."""
    data_dir = settings.data_dir.absolute()
    home = data_dir / "run" / "engine"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_bundle = write_ca_bundle(settings.fetcher_ca_file, home)
    return build_environment(
        tools.link(data_dir / "tools"), home, ca_bundle, plugins=bool(settings.fetcher_po_token_url)
    )


def _cookie_store(settings: Settings) -> CookieFolder | None:
    return CookieFolder(settings.cookies_dir, settings.cookie_keys) if settings.cookie_keys else None


def _guard_config(settings: Settings) -> GuardConfig:
    return GuardConfig(
        allow_networks=tuple(str(network) for network in settings.fetcher_allow_networks),
        denied_sites=settings.denied_sites,
        egresses=settings.egresses,
    )


@asynccontextmanager
async def _running_from_environment() -> AsyncIterator[None]:
    settings = Settings()
    async with running(settings):
        yield


def _describe_data(data_dir: Path) -> ServiceData:
    return ServiceData(private={"cookies": Settings(data_dir=data_dir).cookies_dir})


def _checks() -> Sequence[Check]:
    from reelhaul_fetcher import doctor

    return doctor.checks()


service = Service("fetcher", running=_running_from_environment, describe_data=_describe_data, checks=_checks)
