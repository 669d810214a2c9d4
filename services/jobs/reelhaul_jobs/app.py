"""Composition root of the jobs service: read `running` from top to bottom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from reelhaul.system.v1 import system_service_pb2, system_service_pb2_grpc
from reelhaul_jobs.api.system import SystemServicer
from reelhaul_jobs.backup import describe_data
from reelhaul_jobs.composition.access import open_access
from reelhaul_jobs.composition.backends import DATABASE_SETTING, Backends, open_backends, utc_now
from reelhaul_jobs.composition.jobs import open_jobs
from reelhaul_jobs.composition.process import open_process_report
from reelhaul_jobs.composition.webhooks import open_webhooks
from reelhaul_jobs.model.api_key import KeyString
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.service.first_key import full_access_key, write_key_file
from reelhaul_jobs.service.gauges import (
    GAUGES_MAX_AGE_SECONDS,
    GAUGES_TIMEOUT_SECONDS,
    QueueGauges,
    WorkItemGauges,
)
from reelhaul_jobs.service.loop_runner import Leadership, Loop, LoopRunner, SoleLeadership
from reelhaul_jobs.service.work_signal import WorkSignal
from reelhaul_jobs.settings import Settings
from reelhaul_jobs.store.api_keys import SqlApiKeyStore
from reelhaul_jobs.store.queue import SqlQueueStore
from reelhaul_jobs.store.quotas import ConcurrencyLimits
from reelhaul_runtime.auth.rate_limits import open_rate_limiter
from reelhaul_runtime.doctor.check import Check
from reelhaul_runtime.metrics.collectors import collecting
from reelhaul_runtime.private_files import KEY_FILE, RUN_FOLDER
from reelhaul_runtime.rpc.server import Servicer, serving
from reelhaul_runtime.service import Service
from reelhaul_runtime.sql import migrations
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.system.service import open_reports

_SYSTEM_SERVICE = system_service_pb2.DESCRIPTOR.services_by_name["SystemService"].full_name


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """Run the jobs service until the block exits; yield its port."""
    async with AsyncExitStack() as stack:
        backends = await stack.enter_async_context(open_backends(settings))
        ledger = backends.ledger
        queue = SqlQueueStore(backends.database, ConcurrencyLimits(ledger) if ledger.counts_jobs else None)
        access = await open_access(stack, backends)
        webhooks = await open_webhooks(stack, backends)
        jobs = open_jobs(stack, backends, queue, access)
        _collect_gauges(stack, backends, queue)
        loops = [*jobs.loops, *webhooks.loops, *access.loops]
        await stack.enter_async_context(_running_loops(loops, queue, backends))
        targets = {
            "jobs": settings.jobs_target,
            "storage": settings.storage_target,
            "fetcher": settings.fetcher_target,
        }
        reports = await stack.enter_async_context(open_reports(targets, settings, settings.suite_token))
        system: Servicer = (
            system_service_pb2_grpc.add_SystemServiceServicer_to_server,
            SystemServicer(reports),
            _SYSTEM_SERVICE,
        )

        process = open_process_report(backends, queue)

        async def drain() -> None:
            backends.hub.close()

        yield await stack.enter_async_context(
            serving(
                settings.jobs_address,
                [*jobs.servicers, *webhooks.servicers, *access.servicers, system, process.servicer],
                authenticator=access.authenticator,
                audit_log=access.audit_recorder,
                rate_limiter=await stack.enter_async_context(open_rate_limiter(settings)),
                checks={"jobs.database": backends.database.ping},
                # Not needed for readiness: rows are what clients create and read.
                informational_checks={"jobs.nats": backends.bus.check},
                health=process.states,
                drain_seconds=settings.drain_seconds,
                reuse_port=settings.reuse_port,
                tls=settings.tls,
                health_address=settings.jobs_health_address,
                on_drain=drain,
            )
        )


@asynccontextmanager
async def running_from_env() -> AsyncIterator[None]:
    """Run the jobs service with settings from ``REELHAUL_*``."""
    settings = Settings()
    async with running(settings):
        yield


def _collect_gauges(stack: AsyncExitStack, backends: Backends, queue: QueueStore) -> None:
    """Let scrapes show the gauges of rows and of the broker, until *stack* closes."""
    limits, workers = backends.settings.site_limits, backends.hub.workers
    age, timeout = GAUGES_MAX_AGE_SECONDS, GAUGES_TIMEOUT_SECONDS
    for name, read in {
        "queue": QueueGauges(queue, workers, limits, backends.now).read,
        "work_items": WorkItemGauges(backends.bus).read,
    }.items():
        stack.enter_context(collecting(name, read, max_age_seconds=age, timeout_seconds=timeout))


@asynccontextmanager
async def _running_loops(loops: Sequence[Loop], queue: QueueStore, backends: Backends) -> AsyncIterator[None]:
    """Run *loops*, each while this replica leads it, until the block exits."""
    tasks = []
    if backends.alone:
        signal = WorkSignal(queue, utc_now)
        runners = [LoopRunner(loop, SoleLeadership(loop.name), signal) for loop in loops]
        tasks.append(asyncio.create_task(signal.run()))
    else:
        runners = [
            LoopRunner(loop, Leadership(queue, loop.name, backends.replica, utc_now)) for loop in loops
        ]
    tasks += [asyncio.create_task(runner.run()) for runner in runners]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def migrate() -> None:
    """Migrate the database that ``REELHAUL_*`` names to this build's schema."""
    migrations.migrate(Settings().database_url, "reelhaul_jobs", DATABASE_SETTING)


async def create_full_access_key(*, store: bool) -> str:
    """Create a FULL_ACCESS key in the database that ``REELHAUL_*`` names; return its string.

    With *store* it is written into the data folder too. Raises InvalidSetting, OSError.
    """
    settings, string = Settings(), KeyString()
    await asyncio.to_thread(
        migrations.migrate_if_behind, settings.database_url, "reelhaul_jobs", DATABASE_SETTING
    )
    if store:
        write_key_file(settings.data_dir / RUN_FOLDER / KEY_FILE, string)
    async with Database.open(settings.database_url, name="jobs.database") as database:
        key = full_access_key(string, "created with `reelhaul first-key`", utc_now)
        await SqlApiKeyStore(database).add(key)
    return string.text


def _checks() -> Sequence[Check]:
    from reelhaul_jobs import doctor

    return doctor.checks()


service = Service(
    "jobs", running=running_from_env, migrate=migrate, describe_data=describe_data, checks=_checks
)
