"""What server, tenant and key allow of a job, where callers create it and where schedules and lists do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import duration_pb2
from tests.callers import Callers
from tests.contracts.test_schedule_store import schedule
from tests.job_stores import NOW, SqlStore, claim, job
from tests.jobs.calls import error_of
from tests.jobs.conftest import JobsService, with_settings
from tests.jobs.replica import Replica

from reelhaul.admin.v1.api_key_pb2 import ApiKey, Quota
from reelhaul.admin.v1.tenant_pb2 import Tenant as TenantMessage
from reelhaul.downloads.v1 import download_service_pb2, download_service_pb2_grpc
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import BatchCreateJobsRequest, CreateJobRequest
from reelhaul.jobs.v1.schedule_service_pb2 import CreateScheduleRequest
from reelhaul.jobs.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.model.job import Expansion
from reelhaul_jobs.model.job_limits import JobLimits
from reelhaul_jobs.model.states import Kind
from reelhaul_jobs.model.tenant import Tenant
from reelhaul_jobs.model.user_actions import Update
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.job_admission import JobAdmission
from reelhaul_jobs.service.leases import Leases
from reelhaul_jobs.service.schedules import Scheduler
from reelhaul_runtime.auth.site_rules import site_rules
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.rpc.channels import open_channel

GOOD, BAD, DENIED = "https://good.example/1", "https://bad.example/1", "https://denied.example/1"
DAY = timedelta(days=1)


def caller(**quota: int) -> Caller:
    """Return a caller whose key allows good.example only, and whose tenant keeps jobs for a day."""
    return Caller(
        "acme",
        PermissionLevel.PERMISSION_LEVEL_DOWNLOAD,
        api_key=ApiKey(name="apiKeys/k", allowed_sites=["good.example"], quota=Quota(**quota)),
        tenant_resource=TenantMessage(
            name="tenants/acme",
            retention=duration_pb2.Duration(seconds=86_400),
            quota=Quota(bytes_per_job=1000),
        ),
    )


@with_settings(denied_sites=("denied.example",))
async def test_forbidden_sites(service: JobsService, monkeypatch: pytest.MonkeyPatch):
    """Jobs, batches, schedules and probes of a site that is not allowed are SITE_FORBIDDEN, by field."""
    key = Callers(monkeypatch).metadata(caller())
    async with open_channel(f"127.0.0.1:{service.port}", []) as channel:
        downloads = download_service_pb2_grpc.DownloadServiceStub(channel)
        create_schedule = ScheduleServiceStub(channel).CreateSchedule

        def calls(url: str, metadata: Any) -> dict[str, Any]:
            one = CreateJobRequest(job=Job(url=url))
            nightly = {"cron": "0 4 * * *", "job_template": one.job}
            request = CreateScheduleRequest(schedule=nightly)
            flat = download_service_pb2.CreateDownloadRequest(url=url)
            probe = download_service_pb2.GetInfoRequest(url=url)
            return {
                "job.url": service.jobs.CreateJob(one, metadata=metadata),
                "requests[0].job.url": service.jobs.BatchCreateJobs(
                    BatchCreateJobsRequest(requests=[one]), metadata=metadata
                ),
                "schedule.job_template.url": create_schedule(request, metadata=metadata),
                "url": downloads.CreateDownload(flat, metadata=metadata),
                "url ": downloads.GetInfo(probe, metadata=metadata),
            }

        for url, metadata in ((BAD, key), (DENIED, ())):
            for field, call in calls(url, metadata).items():
                error = await error_of(call)
                assert error.reason == ErrorReason.SITE_FORBIDDEN, field
                assert error.violations[0].field == field.strip()
        for field, call in calls(GOOD, key).items():
            if field == "url ":
                # No fetcher runs: the probe passed the check.
                assert (await error_of(call)).reason == ErrorReason.SERVICE_UNAVAILABLE
            else:
                await call


async def test_smallest_limit_applies(service: JobsService, monkeypatch: pytest.MonkeyPatch):
    """Bytes and seconds of a job are the smallest of request, key and tenant."""
    key = Callers(monkeypatch).metadata(caller(bytes_per_job=5000, seconds_per_job=60))

    async def limits(metadata: Any = key, **requested: Any) -> tuple[int, int]:
        request = CreateJobRequest(job=Job(url=GOOD, format=requested))
        spec = (await service.jobs.CreateJob(request, metadata=metadata)).format
        return spec.max_size_bytes, spec.max_duration.seconds

    assert await limits() == (1000, 60)
    assert await limits(max_size_bytes=10, max_duration={"seconds": 5}) == (10, 5)
    assert await limits(max_size_bytes=9000, max_duration={"seconds": 90}) == (1000, 60)
    assert await limits(()) == (0, 0)
    huge = Callers(monkeypatch).metadata(caller(seconds_per_job=10**15))
    assert await limits(huge) == (1000, 0)


def test_retention():
    """A job is kept for the tenant's retention at most, whether it or an update asks for more."""
    limits, now = JobLimits(retention=DAY), NOW
    hour = timedelta(hours=1)
    for asked, kept in ((hour, hour), (DAY, DAY), (3 * DAY, DAY)):
        assert limits.admit(job(1, ttl=asked), now).ttl == kept
        assert limits.limit_update(Update(paths=frozenset({"ttl"}), ttl=asked), now).ttl == kept
    at = job(1, expire_time=now + hour)
    assert limits.admit(at, now).expire_time == now + hour
    late = limits.admit(job(1, expire_time=now + 2 * DAY), now)
    assert (late.expire_time, late.ttl) == (None, DAY)
    update = Update(paths=frozenset({"expire_time", "labels"}), labels={}, expire_time=now + 2 * DAY)
    changed = limits.limit_update(update, now)
    assert (changed.paths, changed.ttl) == (frozenset({"ttl", "labels"}), DAY)
    update = replace(update, expire_time=now + hour)
    assert limits.limit_update(update, now).expire_time == now + hour
    assert JobLimits().limit_update(update, now) is update


def admission_of(store: SqlStore) -> JobAdmission:
    """Return the admission of a server that denies denied.example."""
    return JobAdmission(store.tenants, store.api_keys, site_rules("this server", [], ["denied.example"]))


async def test_schedule_of_a_site_that_is_denied_now(replica: Replica, store: SqlStore):
    """A schedule whose site was denied since, or whose tenant is disabled, creates no jobs and says why."""
    await store.tenants.add(Tenant(id="acme", create_time=NOW, update_time=NOW))
    scheduler = Scheduler(
        store.schedules,
        ChangeNotifier(replica.hub, replica.bus),
        lambda: NOW + DAY,
        lambda job: None,
        admission_of(store),
    )
    for name, url in (("good", GOOD), ("denied", DENIED), ("later", BAD)):
        template = replace(schedule().template, url=url)
        await store.schedules.add(
            schedule(name, template=template, cron="@every 1h", next_run_time=NOW + DAY)
        )

    async def change(**fields: Any) -> None:
        await store.tenants.change("acme", lambda tenant: tenant.bump(NOW, **fields), NOW)

    async def outcome(name: str) -> str:
        error = (await store.schedules.get("acme", name)).last_error
        return error.message if error else ""

    await change(denied_sites=("bad.example",))
    await scheduler.step()
    assert await outcome("good") == ""
    assert "this server does not allow downloads from denied.example" in await outcome("denied")
    assert "the tenant does not allow downloads from bad.example" in await outcome("later")
    scheduler = Scheduler(
        store.schedules,
        ChangeNotifier(replica.hub, replica.bus),
        lambda: NOW + 2 * DAY,
        lambda job: None,
        admission_of(store),
    )
    await change(disabled=True)
    for name in ("good", "denied", "later"):
        await store.schedules.change(
            "acme", name, lambda each: replace(each, next_run_time=NOW + 2 * DAY, skip_overlapping=False)
        )
    await scheduler.step()
    assert "tenants/acme is DISABLED" in await outcome("good")


async def test_entries_of_a_list(replica: Replica, store: SqlStore):
    """Entries of a list that lead to a site that is not allowed become no jobs; the others do."""
    await store.tenants.add(
        Tenant(id="acme", create_time=NOW, update_time=NOW, allowed_sites=("good.example", "denied.example"))
    )
    parent = job(1, kind=Kind.EXPANSION, expansion=Expansion(max_entries=10), url=GOOD)
    await store.add([parent])
    now = parent.create_time
    leases = Leases(
        store,
        store,
        ChangeNotifier(replica.hub, replica.bus),
        lambda: now,
        timedelta(seconds=30),
        admission=admission_of(store),
    )
    grant: Any = await leases.claim(parent.id, claim(), 1)
    entries = [
        media_pb2.PlaylistEntry(url=url, media_id=url, position=position)
        for position, url in enumerate((GOOD, BAD, DENIED), 1)
    ]
    await leases.renew(parent.id, grant.job.epoch, None, None, entries)
    listed = await store.list_active_children(parent.id, 10)
    assert [(await store.get(each)).url for each in listed] == [GOOD]
    assert (await store.get(parent.id)).expansion.skipped_count == 2
