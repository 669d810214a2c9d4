"""The jobs service, put together: read `running` top to bottom."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

from nats.aio.client import Client

from reelhaul.downloads.v1 import download_service_pb2, download_service_pb2_grpc
from reelhaul.jobs.v1 import (
    job_service_pb2,
    job_service_pb2_grpc,
    schedule_service_pb2,
    schedule_service_pb2_grpc,
)
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_jobs.api.downloads.servicer import DownloadServicer
from reelhaul_jobs.api.jobs.servicer import JobServicer
from reelhaul_jobs.api.leases import LeaseServicer
from reelhaul_jobs.api.schedule_validation import check_again
from reelhaul_jobs.api.schedules import ScheduleServicer
from reelhaul_jobs.clients import FETCHER_SERVICE, STORAGE_SERVICE, RemoteProbe, RemoteStorage
from reelhaul_jobs.nats.bus import NatsJobBus
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.batches import Batches
from reelhaul_jobs.service.cascade_canceller import CascadeCanceller
from reelhaul_jobs.service.dispatcher import Dispatcher
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.expired_job_deleter import ExpiredJobDeleter
from reelhaul_jobs.service.jobs import Jobs
from reelhaul_jobs.service.leases import Leases
from reelhaul_jobs.service.loop_runner import Leader, Loop, run
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_jobs.service.reaper import Reaper
from reelhaul_jobs.service.retention_purger import RetentionPurger
from reelhaul_jobs.service.schedules import Scheduler, Schedules
from reelhaul_jobs.service.tokens import Tokens
from reelhaul_jobs.service.watch.change_feed import Feed
from reelhaul_jobs.service.watch.filter_stream import FilterStreams
from reelhaul_jobs.service.watch.job_stream import JobStreams
from reelhaul_jobs.service.watch.watched_jobs import WatchedJobs
from reelhaul_jobs.settings import Settings
from reelhaul_jobs.store.jobs import SqlJobStore
from reelhaul_jobs.store.queue import SqlQueueStore
from reelhaul_jobs.store.schedules import SqlScheduleStore
from reelhaul_jobs.store.state_events import SqlStateEventStore
from reelhaul_runtime import logs
from reelhaul_runtime import nats_client as broker
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.rpc.server import Servicer, serving
from reelhaul_runtime.service import Service
from reelhaul_runtime.sql import migrations
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.engines import is_sqlite

log = logging.getLogger(__name__)

_JOB_SERVICE = job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name
_DOWNLOAD_SERVICE = download_service_pb2.DESCRIPTOR.services_by_name["DownloadService"].full_name
_SCHEDULE_SERVICE = schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"].full_name
_LEASE_SERVICE = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"].full_name


def utc_now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """The jobs service, from its first connection to its last goodbye; yields its port."""
    lease, now = timedelta(seconds=settings.jobs_lease_seconds), utc_now
    retention = timedelta(days=settings.jobs_retention_days)
    await asyncio.to_thread(migrations.migrate_if_behind, settings.database_url, "reelhaul_jobs")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(settings.database_url, name="jobs.database"))
        client = await stack.enter_async_context(_broker(settings))
        storage, probe = await _neighbours(stack, settings)
        store, queue, hub = SqlJobStore(database), SqlQueueStore(database), EventHub()
        alone = is_sqlite(settings.database_url)
        bus = await stack.enter_async_context(NatsJobBus.open(client, hub, lease, alone=alone))
        token_key = await store.get_or_create_key("tokens")
        news, tokens, page_tokens = ChangeNotifier(hub, bus), Tokens(token_key), PageTokens(token_key, now)
        limits, holder = settings.site_limits, _replica(settings)
        jobs = Jobs(store, queue, hub, news, probe, now, limits)
        watches = JobStreams(WatchedJobs(store, bus, hub, tokens, now), hub, tokens, now)
        moves = SqlStateEventStore(database)
        followings = FilterStreams(Feed(moves, hub, now), moves, hub, tokens, now)
        batches = Batches(store, news, now)
        job_servicer = JobServicer(jobs, batches, watches, followings, page_tokens, now, retention)
        downloads = DownloadServicer(job_servicer, probe)
        lease_servicer = LeaseServicer(Leases(store, queue, news, now, lease, limits))
        scheduled = SqlScheduleStore(database)
        schedules = Schedules(scheduled, news, now, check_again)
        schedule_servicer = ScheduleServicer(schedules, page_tokens, now, retention)
        weights = settings.jobs_tenant_weights
        dispatcher = Dispatcher(queue, bus, now, lease, limits, weights, leader=holder, hub=hub)
        loops = [
            Loop("dispatcher", dispatcher.step, 1.0, hub.dispatch, dispatcher.taken_over),
            Loop("sweeper", Reaper(store, queue, bus, news, now, lease).step, 1.0),
            Loop("confirmer", ArtifactExpirySync(queue, storage, now).step, 1.0),
            Loop("scheduler", Scheduler(scheduled, news, now, check_again).step, 1.0),
            Loop("cascader", CascadeCanceller(store, queue, news, now).step, 0.5),
            Loop("retirer", ExpiredJobDeleter(store, queue, now).step, 5.0),
            Loop("forgetter", RetentionPurger(queue, now).step, 600.0),
        ]
        await stack.enter_async_context(_turning(loops, queue, holder))
        servicers: list[Servicer] = [
            (job_service_pb2_grpc.add_JobServiceServicer_to_server, job_servicer, _JOB_SERVICE),
            (
                download_service_pb2_grpc.add_DownloadServiceServicer_to_server,
                downloads,
                _DOWNLOAD_SERVICE,
            ),
            (
                schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server,
                schedule_servicer,
                _SCHEDULE_SERVICE,
            ),
            (lease_service_pb2_grpc.add_LeaseServiceServicer_to_server, lease_servicer, _LEASE_SERVICE),
        ]

        async def drain() -> None:
            hub.close()

        yield await stack.enter_async_context(
            serving(
                settings.jobs_address,
                servicers,
                authenticator=NoAuthentication(settings.suite_token),
                checks={"jobs.database": database.ping, "jobs.nats": bus.check},
                drain_seconds=settings.drain_seconds,
                draining=drain,
            )
        )


@asynccontextmanager
async def running_from_env() -> AsyncIterator[None]:
    """The jobs service with settings from ``REELHAUL_*``."""
    settings = Settings()
    logs.configure("jobs", settings.log_format, settings.log_level)
    async with running(settings):
        yield


@asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[Client]:
    """The connection to the broker. This process ends itself if it is lost for good."""
    if not settings.nats_url:
        raise ValueError("REELHAUL_NATS_URL is not set: jobs hands out its work over NATS")
    closed = asyncio.Event()

    async def leave() -> None:
        await closed.wait()
        log.critical("the broker's connection is closed for good; leaving")
        signal.raise_signal(signal.SIGTERM)

    # No echo: what this replica changed, it has told its own watchers of.
    async with broker.connect(settings.nats_url, "jobs", closed=closed, echo=False) as client:
        leaving = asyncio.create_task(leave())
        try:
            yield client
        finally:
            leaving.cancel()


async def _neighbours(stack: AsyncExitStack, settings: Settings) -> tuple[RemoteStorage, RemoteProbe]:
    storage = open_channel(settings.storage_address, [STORAGE_SERVICE], suite_token=settings.suite_token)
    fetcher = open_channel(settings.fetcher_address, [FETCHER_SERVICE], suite_token=settings.suite_token)
    return (
        RemoteStorage(await stack.enter_async_context(storage)),
        RemoteProbe(await stack.enter_async_context(fetcher)),
    )


@asynccontextmanager
async def _turning(loops: Sequence[Loop], queue: QueueStore, holder: str) -> AsyncIterator[None]:
    """Runs *loops*, in the name of *holder*, until the block ends."""
    tasks = [asyncio.create_task(run(loop, Leader(queue, loop.name, holder, utc_now))) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _replica(settings: Settings) -> str:
    """What tells this replica from others, and not from what it was before it crashed.

    A leader that is back leads on at once; under another name it would wait for its own lease.
    """
    if settings.jobs_address.endswith(":0"):
        return str(uuid.uuid4())
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"grpc://{socket.gethostname()}/{settings.jobs_address}"))


def migrate() -> None:
    """Bring the database named by ``REELHAUL_*`` to this build's schema."""
    migrations.migrate(Settings().database_url, "reelhaul_jobs")


service = Service("jobs", running=running_from_env, migrate=migrate)
