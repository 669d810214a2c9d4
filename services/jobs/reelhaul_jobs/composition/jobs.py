"""Jobs, downloads and schedules, and the leases of workers on them, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

from reelhaul.downloads.v1 import download_service_pb2, download_service_pb2_grpc
from reelhaul.jobs.v1 import (
    job_service_pb2,
    job_service_pb2_grpc,
    schedule_service_pb2,
    schedule_service_pb2_grpc,
)
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_jobs.api.caller_limits import limits_of_caller
from reelhaul_jobs.api.downloads.servicer import DownloadServicer
from reelhaul_jobs.api.jobs.creation import JobCreation
from reelhaul_jobs.api.jobs.servicer import JobServicer
from reelhaul_jobs.api.leases.servicer import LeaseServicer
from reelhaul_jobs.api.schedules.servicer import ScheduleServicer
from reelhaul_jobs.api.schedules.validation import check_url
from reelhaul_jobs.composition.access import Access
from reelhaul_jobs.composition.backends import Backends, Part
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.batches import Batches
from reelhaul_jobs.service.deliveries import Deliverer
from reelhaul_jobs.service.dispatcher import Dispatcher
from reelhaul_jobs.service.housekeeping import CascadeCanceller, ExpiredJobDeleter, RetentionPurger
from reelhaul_jobs.service.job_views import JobViews
from reelhaul_jobs.service.jobs import Jobs
from reelhaul_jobs.service.leases import Leases
from reelhaul_jobs.service.loop_runner import Loop
from reelhaul_jobs.service.reaper import Reaper
from reelhaul_jobs.service.schedules import Scheduler, Schedules
from reelhaul_jobs.service.watch.change_feed import ChangeFeed
from reelhaul_jobs.service.watch.filter_stream import FilterStreams
from reelhaul_jobs.service.watch.job_stream import JobStreams
from reelhaul_jobs.service.watch.resume_tokens import ResumeTokens
from reelhaul_jobs.service.watch.watched_jobs import WatchedJobs
from reelhaul_jobs.store.queue import SqlQueueStore
from reelhaul_jobs.store.schedules import SqlScheduleStore
from reelhaul_jobs.store.state_events import SqlStateEventStore
from reelhaul_runtime.addresses import Rules
from reelhaul_runtime.rpc.server import Servicer

_JOB_SERVICE = job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name
_DOWNLOAD_SERVICE = download_service_pb2.DESCRIPTOR.services_by_name["DownloadService"].full_name
_SCHEDULE_SERVICE = schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"].full_name
_LEASE_SERVICE = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"].full_name


def open_jobs(stack: AsyncExitStack, backends: Backends, queue: SqlQueueStore, access: Access) -> Part:
    """Put together what creates, dispatches and shows jobs; *stack* closes it."""
    settings, database, now = backends.settings, backends.database, backends.now
    store, hub, bus, notifier = backends.store, backends.hub, backends.bus, backends.notifier
    storage, probe, page_tokens = backends.storage, backends.probe, backends.page_tokens
    lease, limits = timedelta(seconds=settings.jobs_lease_seconds), settings.site_limits
    rules = Rules(settings.fetcher_allow_networks)
    check_job_url = partial(check_url, rules=rules)
    schedule_store = SqlScheduleStore(database, backends.ledger)

    views = JobViews(store, queue, hub, now, lease, limits, access.quota_store)
    jobs = Jobs(store, views, notifier, probe, now)
    batches = Batches(store, notifier, now)
    leases = Leases(store, queue, notifier, now, lease, limits, access.admission)
    schedules = Schedules(schedule_store, notifier, now, check_job_url, access.admission)
    scheduler = Scheduler(schedule_store, notifier, now, check_job_url, access.admission)
    leader = None if backends.alone else backends.replica
    dispatcher = Dispatcher(
        queue,
        bus,
        now,
        lease,
        limits,
        settings.jobs_tenant_weights,
        leader=leader,
        hub=hub,
    )
    deliverer = Deliverer(store, queue, storage, notifier, now)
    stack.push_async_callback(deliverer.close)
    reaper = Reaper(store, queue, bus, notifier, now, lease)
    loops = [
        Loop("dispatcher", dispatcher.step, 1.0, hub.dispatch_wakeup, dispatcher.republish_outstanding),
        Loop("sweeper", reaper.step, 1.0, on_leadership_gained=reaper.bring_forward_due_times),
        Loop("confirmer", ArtifactExpirySync(queue, storage, now).step, 1.0),
        Loop("deliverer", deliverer.step, 1.0),
        Loop("scheduler", scheduler.step, 1.0),
        Loop("cascader", CascadeCanceller(store, queue, notifier, now).step, 0.5),
        Loop("retirer", ExpiredJobDeleter(store, queue, now).step, 5.0),
        Loop("forgetter", RetentionPurger(queue, now).step, 600.0),
    ]

    job_streams, filter_streams = _streams(backends, views)
    retention = timedelta(days=settings.jobs_retention_days)
    caller_limits = partial(limits_of_caller, access.server_sites)
    creation = JobCreation(jobs, batches, storage, now, retention, rules, caller_limits)
    job_servicer = JobServicer(
        creation, jobs, batches, job_streams, filter_streams, page_tokens, now, retention, caller_limits
    )
    servicers: list[Servicer] = [
        (job_service_pb2_grpc.add_JobServiceServicer_to_server, job_servicer, _JOB_SERVICE),
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
        (lease_service_pb2_grpc.add_LeaseServiceServicer_to_server, LeaseServicer(leases), _LEASE_SERVICE),
    ]
    return Part(servicers, loops)


def _streams(backends: Backends, views: JobViews) -> tuple[JobStreams, FilterStreams]:
    store, bus, hub, now = backends.store, backends.bus, backends.hub, backends.now
    events, resume_tokens = SqlStateEventStore(backends.database), ResumeTokens(backends.token_key)
    watched = WatchedJobs(store, views, bus, hub, resume_tokens, now)
    return (
        JobStreams(watched, hub, resume_tokens, now),
        FilterStreams(ChangeFeed(events, views, hub, now), events, hub, resume_tokens, now),
    )
