"""Composition root of the jobs service: read `running` from top to bottom."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

from nats.aio.client import Client

from reelhaul.admin.v1 import (
    api_key_service_pb2,
    api_key_service_pb2_grpc,
    audit_service_pb2,
    audit_service_pb2_grpc,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
)
from reelhaul.downloads.v1 import download_service_pb2, download_service_pb2_grpc
from reelhaul.jobs.v1 import (
    job_service_pb2,
    job_service_pb2_grpc,
    schedule_service_pb2,
    schedule_service_pb2_grpc,
    webhook_service_pb2,
    webhook_service_pb2_grpc,
)
from reelhaul.system.v1 import system_service_pb2, system_service_pb2_grpc
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_jobs.api.api_keys.servicer import ApiKeyServicer
from reelhaul_jobs.api.audit.servicer import AuditServicer
from reelhaul_jobs.api.caller_limits import limits_of_caller
from reelhaul_jobs.api.downloads.servicer import DownloadServicer
from reelhaul_jobs.api.jobs.creation import JobCreation
from reelhaul_jobs.api.jobs.servicer import JobServicer
from reelhaul_jobs.api.leases.servicer import LeaseServicer
from reelhaul_jobs.api.schedules.servicer import ScheduleServicer
from reelhaul_jobs.api.schedules.validation import check_url
from reelhaul_jobs.api.system import SystemServicer
from reelhaul_jobs.api.tenants.servicer import TenantServicer
from reelhaul_jobs.api.webhooks import messages as webhook_messages
from reelhaul_jobs.api.webhooks.servicer import WebhookServicer
from reelhaul_jobs.backup import describe_data
from reelhaul_jobs.clients import FETCHER_SERVICE, STORAGE_SERVICE, RemoteProbe, RemoteStorage
from reelhaul_jobs.model.api_key import KeyString
from reelhaul_jobs.nats.bus import NatsJobBus
from reelhaul_jobs.oidc.tokens import OidcTokens
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.service.access_changes import AccessChanges
from reelhaul_jobs.service.api_keys import ApiKeys, DeletedKeyPurger
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.batches import Batches
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.credentials import Credentials
from reelhaul_jobs.service.deliveries import Deliverer
from reelhaul_jobs.service.dispatcher import Dispatcher
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.first_key import create_first_key, full_access_key, write_key_file
from reelhaul_jobs.service.housekeeping import (
    AuditPurger,
    CascadeCanceller,
    ExpiredJobDeleter,
    RetentionPurger,
    WebhookEventPurger,
)
from reelhaul_jobs.service.job_admission import JobAdmission
from reelhaul_jobs.service.job_views import JobViews
from reelhaul_jobs.service.jobs import Jobs
from reelhaul_jobs.service.leases import Leases
from reelhaul_jobs.service.loop_runner import Leadership, Loop, LoopRunner
from reelhaul_jobs.service.quotas import Quotas
from reelhaul_jobs.service.reaper import Reaper
from reelhaul_jobs.service.schedules import Scheduler, Schedules
from reelhaul_jobs.service.tenants import TenantDeleter, Tenants
from reelhaul_jobs.service.watch.change_feed import ChangeFeed
from reelhaul_jobs.service.watch.filter_stream import FilterStreams
from reelhaul_jobs.service.watch.job_stream import JobStreams
from reelhaul_jobs.service.watch.resume_tokens import ResumeTokens
from reelhaul_jobs.service.watch.watched_jobs import WatchedJobs
from reelhaul_jobs.service.webhook_events import WebhookOutboxRelay
from reelhaul_jobs.service.webhook_secrets import WebhookSecrets
from reelhaul_jobs.service.webhook_sender import WebhookSender, WebhookTries
from reelhaul_jobs.service.webhooks import Webhooks
from reelhaul_jobs.settings import Settings
from reelhaul_jobs.store.api_keys import SqlApiKeyStore
from reelhaul_jobs.store.audit import SqlAuditStore
from reelhaul_jobs.store.jobs import SqlJobStore
from reelhaul_jobs.store.queue import SqlQueueStore
from reelhaul_jobs.store.quotas import ConcurrencyLimits, QuotaLedger, SqlQuotaStore
from reelhaul_jobs.store.schedules import SqlScheduleStore
from reelhaul_jobs.store.state_events import SqlStateEventStore
from reelhaul_jobs.store.tenants import SqlTenantStore
from reelhaul_jobs.store.webhook_deliveries import SqlWebhookDeliveryStore
from reelhaul_jobs.store.webhooks import SqlWebhookStore
from reelhaul_jobs.webhook_endpoints import HttpWebhookEndpoints
from reelhaul_runtime import logs
from reelhaul_runtime import nats_client as broker
from reelhaul_runtime.addresses import Rules
from reelhaul_runtime.auth.audit_log import AuditRecorder
from reelhaul_runtime.auth.level_quotas import level_quotas
from reelhaul_runtime.auth.rate_limits import open_rate_limiter
from reelhaul_runtime.auth.site_rules import site_rules
from reelhaul_runtime.auth.verification import open_authenticator
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.private_files import KEY_FILE, RUN_FOLDER
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.rpc.server import Servicer, serving
from reelhaul_runtime.service import Service
from reelhaul_runtime.sql import migrations
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.engines import is_sqlite
from reelhaul_runtime.system.checks import GrpcHealthChecker, StorageHealthProbe
from reelhaul_runtime.system.health import Health
from reelhaul_runtime.system.service import SystemReports

log = logging.getLogger(__name__)

_DATABASE_SETTING = "REELHAUL_JOBS_DATABASE_URL"
_JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
_JOB_SERVICE = _JOBS.full_name
_DOWNLOAD_SERVICE = download_service_pb2.DESCRIPTOR.services_by_name["DownloadService"].full_name
_SCHEDULE_SERVICE = schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"].full_name
_WEBHOOK_SERVICE = webhook_service_pb2.DESCRIPTOR.services_by_name["WebhookService"].full_name
_API_KEY_SERVICE = api_key_service_pb2.DESCRIPTOR.services_by_name["ApiKeyService"].full_name
_TENANT_SERVICE = tenant_service_pb2.DESCRIPTOR.services_by_name["TenantService"].full_name
_AUDIT_SERVICE = audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name
_SYSTEM_SERVICE = system_service_pb2.DESCRIPTOR.services_by_name["SystemService"].full_name
_LEASE_SERVICE = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"].full_name


def utc_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(UTC)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """Run the jobs service until the block exits; yield its port."""
    lease, now = timedelta(seconds=settings.jobs_lease_seconds), utc_now
    retention, limits = timedelta(days=settings.jobs_retention_days), settings.site_limits
    rules = Rules(settings.fetcher_allow_networks)
    check_job_url = partial(check_url, rules=rules)
    audit_retention = timedelta(days=settings.jobs_audit_days)
    server_sites = site_rules("this server", settings.allowed_sites, settings.denied_sites)
    caller_limits = partial(limits_of_caller, server_sites)
    await asyncio.to_thread(
        migrations.migrate_if_behind, settings.database_url, "reelhaul_jobs", _DATABASE_SETTING
    )
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(settings.database_url, name="jobs.database"))
        client = await stack.enter_async_context(_broker(settings))
        storage, probe = await _clients(stack, settings)
        ledger = QuotaLedger(settings.auth == "keys", level_quotas(settings.level_quotas))
        store, queue, schedule_store = (
            SqlJobStore(database, ledger),
            SqlQueueStore(database, ConcurrencyLimits(ledger) if ledger.counts_jobs else None),
            SqlScheduleStore(database, ledger),
        )
        hub, events = EventHub(), SqlStateEventStore(database)
        alone = is_sqlite(settings.database_url)
        bus = await stack.enter_async_context(NatsJobBus.open(client, hub, lease, alone=alone))
        notifier = ChangeNotifier(hub, bus)
        tokens = await stack.enter_async_context(OidcTokens.open(settings))
        key_store, access_changes = SqlApiKeyStore(database), AccessChanges(bus)
        api_keys, credentials = ApiKeys(key_store, access_changes, now), Credentials(key_store, now, tokens)
        await stack.enter_async_context(credentials.writing_uses())
        if settings.auth == "keys" and settings.jobs_first_key_file is not None:
            await create_first_key(key_store, settings.jobs_first_key_file, now)

        tenant_store, audit_store = SqlTenantStore(database), SqlAuditStore(database)
        tenants = Tenants(tenant_store, storage, access_changes, now)
        tenant_deleter = TenantDeleter(tenant_store, store, storage, notifier, access_changes, now)

        quota_store = SqlQuotaStore(database, ledger)
        quotas = Quotas(quota_store, now)
        views = JobViews(store, queue, hub, now, lease, limits, quota_store)
        jobs = Jobs(store, views, notifier, probe, now)
        batches = Batches(store, notifier, now)
        admission = JobAdmission(tenant_store, key_store, server_sites)
        schedules = Schedules(schedule_store, notifier, now, check_job_url, admission)
        leases = Leases(store, queue, notifier, now, lease, limits, admission)

        replica = _replica_id(settings)
        webhook_store, webhook_deliveries = SqlWebhookStore(database), SqlWebhookDeliveryStore(database)
        endpoints = await stack.enter_async_context(
            HttpWebhookEndpoints.open(settings.jobs_webhook_networks, settings.jobs_webhook_ca_file)
        )
        secrets = WebhookSecrets(settings.load_seal_keys)
        tries = WebhookTries(webhook_deliveries, endpoints, secrets, webhook_messages.event_to_json, now)
        webhooks = Webhooks(webhook_store, webhook_deliveries, endpoints, secrets, tries, now)
        relay = WebhookOutboxRelay(webhook_deliveries, webhook_messages.encode_subject, now)
        sender = WebhookSender(webhook_deliveries, tries, now, replica)
        stack.push_async_callback(sender.close)

        token_key = await store.get_or_create_key("tokens")
        resume_tokens, page_tokens = ResumeTokens(token_key), PageTokens(token_key, now)
        watched = WatchedJobs(store, views, bus, hub, resume_tokens, now)
        job_streams = JobStreams(watched, hub, resume_tokens, now)
        filter_streams = FilterStreams(ChangeFeed(events, views, hub, now), events, hub, resume_tokens, now)

        weights = settings.jobs_tenant_weights
        dispatcher = Dispatcher(queue, bus, now, lease, limits, weights, leader=replica, hub=hub)
        deliverer = Deliverer(store, queue, storage, notifier, now)
        stack.push_async_callback(deliverer.close)
        # The names are those of the rows that the loops are led through.
        loops = [
            Loop("dispatcher", dispatcher.step, 1.0, hub.dispatch_wakeup, dispatcher.republish_outstanding),
            Loop("sweeper", Reaper(store, queue, bus, notifier, now, lease).step, 1.0),
            Loop("confirmer", ArtifactExpirySync(queue, storage, now).step, 1.0),
            Loop("deliverer", deliverer.step, 1.0),
            Loop("scheduler", Scheduler(schedule_store, notifier, now, check_job_url, admission).step, 1.0),
            Loop("cascader", CascadeCanceller(store, queue, notifier, now).step, 0.5),
            Loop("retirer", ExpiredJobDeleter(store, queue, now).step, 5.0),
            Loop("forgetter", RetentionPurger(queue, now).step, 600.0),
            Loop("webhook-relay", relay.step, 0.25),
            Loop("webhook-sender", sender.step, 0.25, on_leadership_gained=sender.release_claims),
            Loop("webhook-purger", WebhookEventPurger(webhook_deliveries, now).step, 600.0),
            Loop("key-purger", DeletedKeyPurger(key_store, now).step, 600.0),
            Loop("tenant-deleter", tenant_deleter.step, 2.0),
            Loop("audit-purger", AuditPurger(audit_store, now, audit_retention).step, 600.0),
        ]
        await stack.enter_async_context(_running_loops(loops, queue, replica))

        api_key_servicer = ApiKeyServicer(api_keys, credentials, quotas, page_tokens, now)
        # Keys are verified here without a call of this service by itself.
        authenticator = await stack.enter_async_context(
            open_authenticator(settings, "jobs", api_key_servicer)
        )
        access_changes.subscribe(authenticator.forget)

        creation = JobCreation(jobs, batches, storage, now, retention, rules, caller_limits)
        servicers: list[Servicer] = [
            (
                job_service_pb2_grpc.add_JobServiceServicer_to_server,
                JobServicer(
                    creation,
                    jobs,
                    batches,
                    job_streams,
                    filter_streams,
                    page_tokens,
                    now,
                    retention,
                    caller_limits,
                ),
                _JOB_SERVICE,
            ),
            (
                download_service_pb2_grpc.add_DownloadServiceServicer_to_server,
                DownloadServicer(creation, jobs, job_streams, probe, page_tokens, now, caller_limits),
                _DOWNLOAD_SERVICE,
            ),
            (
                schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server,
                ScheduleServicer(schedules, storage, page_tokens, now, retention, rules, caller_limits),
                _SCHEDULE_SERVICE,
            ),
            (
                webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server,
                WebhookServicer(webhooks, page_tokens, now),
                _WEBHOOK_SERVICE,
            ),
            (
                api_key_service_pb2_grpc.add_ApiKeyServiceServicer_to_server,
                api_key_servicer,
                _API_KEY_SERVICE,
            ),
            (
                tenant_service_pb2_grpc.add_TenantServiceServicer_to_server,
                TenantServicer(tenants, quotas, page_tokens, now),
                _TENANT_SERVICE,
            ),
            (
                audit_service_pb2_grpc.add_AuditServiceServicer_to_server,
                AuditServicer(audit_store, page_tokens),
                _AUDIT_SERVICE,
            ),
            (
                system_service_pb2_grpc.add_SystemServiceServicer_to_server,
                SystemServicer(await _system_reports(stack, settings)),
                _SYSTEM_SERVICE,
            ),
            (
                lease_service_pb2_grpc.add_LeaseServiceServicer_to_server,
                LeaseServicer(leases),
                _LEASE_SERVICE,
            ),
        ]

        async def drain() -> None:
            hub.close()

        yield await stack.enter_async_context(
            serving(
                settings.jobs_address,
                servicers,
                authenticator=authenticator,
                audit_log=AuditRecorder(audit_store.add),
                rate_limiter=await stack.enter_async_context(open_rate_limiter(settings)),
                checks={"jobs.database": database.ping, "jobs.nats": bus.check},
                drain_seconds=settings.drain_seconds,
                reuse_port=settings.reuse_port,
                tls=settings.tls,
                on_drain=drain,
            )
        )


@asynccontextmanager
async def running_from_env() -> AsyncIterator[None]:
    """Run the jobs service with settings from ``REELHAUL_*``."""
    settings = Settings()
    logs.configure("jobs", settings.log_format, settings.log_level)
    async with running(settings):
        yield


@asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[Client]:
    """Yield the connection to the broker. The process terminates itself if it is lost for good."""
    closed = asyncio.Event()

    async def terminate_when_closed() -> None:
        await closed.wait()
        log.critical("the connection to the broker is closed for good; terminating")
        signal.raise_signal(signal.SIGTERM)

    # No echo: this replica has told its own watchers what it changed.
    async with broker.connect(
        settings.nats_url, "jobs", closed=closed, echo=False, security=settings.nats_security
    ) as client:
        terminating = asyncio.create_task(terminate_when_closed())
        try:
            yield client
        finally:
            terminating.cancel()


async def _clients(stack: AsyncExitStack, settings: Settings) -> tuple[RemoteStorage, RemoteProbe]:
    # Without those of DestinationService: Deliverer repeats a failed delivery, the channel must not.
    storage = open_channel(
        settings.storage_target, [STORAGE_SERVICE], suite_token=settings.suite_token, tls=settings.tls
    )
    fetcher = open_channel(
        settings.fetcher_target, [FETCHER_SERVICE], suite_token=settings.suite_token, tls=settings.tls
    )
    return (
        RemoteStorage(await stack.enter_async_context(storage)),
        RemoteProbe(await stack.enter_async_context(fetcher)),
    )


async def _system_reports(stack: AsyncExitStack, settings: Settings) -> SystemReports:
    """Return the reports on the suite, whose services are asked over channels of their own."""
    targets = {
        "jobs": settings.jobs_target,
        "storage": settings.storage_target,
        "fetcher": settings.fetcher_target,
    }
    opened = {
        name: await stack.enter_async_context(
            open_channel(target, [service], suite_token=settings.suite_token, tls=settings.tls)
        )
        for (name, target), service in zip(
            targets.items(), (_JOBS, STORAGE_SERVICE, FETCHER_SERVICE), strict=True
        )
    }
    return SystemReports(Health(GrpcHealthChecker(opened), StorageHealthProbe(opened["storage"])), settings)


@asynccontextmanager
async def _running_loops(loops: Sequence[Loop], queue: QueueStore, replica: str) -> AsyncIterator[None]:
    """Run *loops*, each while *replica* leads it, until the block exits."""
    runners = [LoopRunner(loop, Leadership(queue, loop.name, replica, utc_now)) for loop in loops]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _replica_id(settings: Settings) -> str:
    """Return what distinguishes this replica from others, and stays the same after a crash.

    A leader that restarts continues at once; under a new id it would wait for its own lease.
    """
    if settings.jobs_address.endswith(":0"):
        return str(uuid.uuid4())
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"grpc://{socket.gethostname()}/{settings.jobs_address}"))


def migrate() -> None:
    """Migrate the database that ``REELHAUL_*`` names to this build's schema."""
    migrations.migrate(Settings().database_url, "reelhaul_jobs", _DATABASE_SETTING)


async def create_full_access_key(*, store: bool) -> str:
    """Create a FULL_ACCESS key in the database that ``REELHAUL_*`` names; return its string.

    With *store* it is written into the data folder too. Raises InvalidSetting, OSError.
    """
    settings, string = Settings(), KeyString()
    await asyncio.to_thread(
        migrations.migrate_if_behind, settings.database_url, "reelhaul_jobs", _DATABASE_SETTING
    )
    if store:
        write_key_file(settings.data_dir / RUN_FOLDER / KEY_FILE, string)
    async with Database.open(settings.database_url, name="jobs.database") as database:
        key = full_access_key(string, "created with `reelhaul first-key`", utc_now)
        await SqlApiKeyStore(database).add(key)
    return string.text


service = Service("jobs", running=running_from_env, migrate=migrate, describe_data=describe_data)
