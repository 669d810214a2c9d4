"""Quotas of keys and tenants on both databases: what is refused, what a job gets, and what is shown of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.job_stores import LEASE, NOW, SqlStore, claim, job, postgresql_store, request, sqlite_store
from tests.jobs.fake_bus import FakeBus
from tests.jobs.quota_ledgers import MB, add_tenant, check_sums, read_ledger

from reelhaul.admin.v1.api_key_pb2 import Quota
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api.usage import usage_to_proto
from reelhaul_jobs.model import leases, playlist_expansion, queue_transitions
from reelhaul_jobs.model import schedule as schedule_model
from reelhaul_jobs.model.job import Expansion, Job
from reelhaul_jobs.model.lists import Batch
from reelhaul_jobs.model.retries import error_reason, error_status
from reelhaul_jobs.model.schedule import CheckJob, Run, Schedule
from reelhaul_jobs.model.states import Kind, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.model.wait_reason import WaitReason
from reelhaul_jobs.service.dispatcher import Dispatcher
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.housekeeping import USAGE_RETENTION
from reelhaul_jobs.service.job_views import JobViews
from reelhaul_jobs.service.quotas import Quotas
from reelhaul_jobs.store.queue import SqlQueueStore
from reelhaul_jobs.store.quotas import ConcurrencyLimits, QuotaLedger, SqlQuotaStore
from reelhaul_runtime.errors import QuotaExceeded, from_status

DAY = timedelta(days=1)
MIDNIGHT = "2030-01-02T00:00:00Z"
UNLIMITED, KEY, OTHER_KEY = Quota(), "key-1", "key-2"


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """All stores of a new database, whose jobs count."""
    ledger = QuotaLedger(counts_jobs=True)
    opening = sqlite_store(tmp_path, ledger) if request.param == "sqlite" else postgresql_store(ledger)
    async with opening as opened:
        yield opened


def jobs_of(api_key: str, *numbers: int, time: timedelta = timedelta(), **fields: object) -> list[Job]:
    times = {"create_time": NOW + time, "update_time": NOW + time}
    sizes = {"format": media_pb2.FormatSpec()}
    return [job(number, api_key=api_key, **{**times, **sizes, **fields}) for number in numbers]


async def change(store: SqlStore, job_id: str, rule) -> Transition:
    return await store.change_lease(
        job_id, lambda job: (job.site, ""), lambda job, site: rule(job), NOW, counted=False
    )


async def lease(store: SqlStore, job_id: str) -> Job:
    attempt = (await store.get(job_id)).attempt
    return (await change(store, job_id, lambda job: leases.claim(job, claim(attempt), NOW))).job


async def report(store: SqlStore, job_id: str, size: int, epoch: int = 1) -> Transition:
    progress = media_pb2.Progress(downloaded_bytes=size)
    return await change(store, job_id, lambda job: leases.renew(job, epoch, NOW, LEASE, progress=progress))


async def finish(store: SqlStore, job_id: str, received: int, *, epoch: int = 1, stored: int = 0) -> Job:
    result: leases.Succeeded | leases.Failed
    if stored:
        artifact = media_pb2.ArtifactInfo(name="artifacts/1", size_bytes=stored)
        result = leases.Succeeded(media=media_pb2.MediaInfo(), artifacts=(artifact,))
    else:
        result = leases.Failed(error=error_status(ErrorReason.MEDIA_NOT_FOUND, "gone"))
    outcome = leases.Outcome(result=result, received_bytes=received)
    return (await change(store, job_id, lambda job: leases.finish(job, epoch, outcome, NOW))).job


@pytest.mark.parametrize(
    ("tenant", "key", "subject"),
    [
        (Quota(jobs_per_day=2), UNLIMITED, "tenants/acme"),
        (UNLIMITED, Quota(jobs_per_day=2), f"apiKeys/{KEY}"),
        (Quota(jobs_per_day=2), Quota(jobs_per_day=9), "tenants/acme"),
        (Quota(jobs_per_day=9), Quota(jobs_per_day=2), f"apiKeys/{KEY}"),
    ],
)
async def test_jobs_per_day(store, tenant, key, subject):
    """The job beyond the limit of the key or the tenant is refused until midnight UTC, with the reason."""
    await add_tenant(store, "acme", tenant, **{KEY: key, OTHER_KEY: UNLIMITED})
    await store.add(jobs_of(KEY, 1, 2))
    with pytest.raises(QuotaExceeded) as refused:
        await store.add(jobs_of(KEY, 3))
    assert refused.value.metadata == {"quotaMetric": "jobs_per_day", "resetTime": MIDNIGHT}
    assert refused.value.quota_violation is not None
    assert refused.value.quota_violation.subject == subject
    assert refused.value.quota_violation.value == 2
    if subject == f"apiKeys/{KEY}":
        await store.add(jobs_of(OTHER_KEY, 4))
    await store.add(jobs_of(KEY, 5, time=DAY))
    await check_sums(store, "acme")


async def test_refused_calls_change_nothing(store):
    """A call that is refused in part creates none of its jobs and uses none of the quota."""
    await add_tenant(store, "acme", Quota(jobs_per_day=2))
    with pytest.raises(QuotaExceeded):
        await store.add(jobs_of("", 1, 2, 3))
    assert await store.get_many([job.id for job in jobs_of("", 1, 2, 3)]) == []
    await store.add(jobs_of("", 4, 5))
    assert (await read_ledger(store, "tenants/acme"))["jobs"] == 2


async def test_repeated_call_counts_once(store):
    """A call that is repeated with its request_id uses the quota once, also at the limit."""
    await add_tenant(store, "acme", Quota(jobs_per_day=1))
    first = await store.add(jobs_of("", 1), request())
    again = await store.add(jobs_of("", 2), request())
    assert [job.id for job in first] == [job.id for job in again]
    assert (await read_ledger(store, "tenants/acme"))["jobs"] == 1


async def test_partial_batch(store):
    """Of a partial batch those jobs are created that the quota admits; a taken id uses none of it."""
    await add_tenant(store, "acme", Quota(jobs_per_day=3))
    await store.add(jobs_of("", 1))
    batch = await store.add_batch(Batch(dict(enumerate(jobs_of("", 1, 2, 3, 4)))))
    failed = {index: from_status(status).reason for index, status in batch.failed.items()}
    # The taken id is known only after it was counted, and is not counted in the end.
    assert failed == {
        0: ErrorReason.RESOURCE_EXISTS,
        2: ErrorReason.QUOTA_EXCEEDED,
        3: ErrorReason.QUOTA_EXCEEDED,
    }
    assert (await read_ledger(store, "tenants/acme"))["jobs"] == 2
    await check_sums(store, "acme")


async def test_bytes_per_day(store):
    """A job reserves what is left; the next is refused until the first one returns what it did not use."""
    await add_tenant(store, "acme", Quota(bytes_per_day=120 * MB))
    first, second = await store.add(jobs_of("", 1, 2))
    assert (first.reserved_bytes, second.reserved_bytes) == (100 * MB, 20 * MB)
    with pytest.raises(QuotaExceeded) as refused:
        await store.add(jobs_of("", 3))
    assert refused.value.metadata == {"quotaMetric": "bytes_per_day", "resetTime": MIDNIGHT}
    await lease(store, first.id)
    await finish(store, first.id, 30 * MB)
    (third,) = await store.add(jobs_of("", 3))
    assert third.reserved_bytes == 70 * MB
    assert (await check_sums(store, "acme"))["tenants/acme"] == 30 * MB


async def test_small_jobs_reserve_their_size(store):
    """A job of at most so many bytes reserves only those; the expansion of a playlist reserves none."""
    await add_tenant(store, "acme", Quota(bytes_per_day=120 * MB))
    small = jobs_of("", 1, format=media_pb2.FormatSpec(max_size_bytes=5 * MB))
    playlist = jobs_of("", 2, kind=Kind.EXPANSION, expansion=Expansion())
    assert [job.reserved_bytes for job in await store.add(small)] == [5 * MB]
    assert [job.reserved_bytes for job in await store.add(playlist)] == [0]


async def test_running_job_extends_its_reservation_until_nothing_is_left(store):
    """A job that receives more than it reserved reserves more; it ends where its quota is used up."""
    await add_tenant(store, "acme", Quota(bytes_per_day=300 * MB))
    (stored,) = await store.add(jobs_of("", 1))
    await lease(store, stored.id)
    assert (await report(store, stored.id, 90 * MB)).job.reserved_bytes == 100 * MB
    assert (await report(store, stored.id, 150 * MB)).job.reserved_bytes == 250 * MB
    assert (await report(store, stored.id, 260 * MB)).job.reserved_bytes == 300 * MB
    ended = await report(store, stored.id, 301 * MB)
    assert ended.job.state is State.FAILED
    assert ended.refusal is not None
    assert error_reason(ended.job.error) == ErrorReason.QUOTA_EXCEEDED
    assert from_status(ended.job.error).metadata["quotaMetric"] == "bytes_per_day"
    assert (await check_sums(store, "acme"))["tenants/acme"] == 301 * MB
    attempt = await store.get_attempt(stored.id, 1)
    assert attempt.end_time is not None


async def test_stored_bytes(store):
    """Artifacts count at full size until they are deleted with their job; reservations count as well."""
    await add_tenant(store, "acme", Quota(stored_bytes=150 * MB), **{KEY: UNLIMITED})
    (first,) = await store.add(jobs_of(KEY, 1))
    await lease(store, first.id)
    await finish(store, first.id, 80 * MB, stored=120 * MB)
    (second,) = await store.add(jobs_of(KEY, 2))
    assert second.reserved_bytes == 30 * MB
    with pytest.raises(QuotaExceeded) as refused:
        await store.add(jobs_of(KEY, 3))
    assert refused.value.metadata == {"quotaMetric": "stored_bytes", "resetTime": ""}
    await store.change(first.id, lambda job: queue_transitions.delete(job, NOW))
    await check_sums(store, "acme")
    await store.purge(first.id)
    await store.purge(first.id)
    assert (await read_ledger(store, "tenants/acme"))["stored"] == 0
    assert (await read_ledger(store, f"apiKeys/{KEY}"))["stored"] == 0
    await store.add(jobs_of(KEY, 3))
    await check_sums(store, "acme")


async def test_retry_is_admitted_again(store):
    """RetryJob counts as a job of its day; without quota the job stays as it is."""
    await add_tenant(store, "acme", Quota(jobs_per_day=1))
    (failed,) = await store.add(jobs_of("", 1))
    await lease(store, failed.id)
    await finish(store, failed.id, MB)
    with pytest.raises(QuotaExceeded):
        await store.change(failed.id, lambda job: queue_transitions.retry(job, NOW))
    assert (await store.get(failed.id)).state is State.FAILED
    retried = await store.change(failed.id, lambda job: queue_transitions.retry(job, NOW + DAY))
    assert retried.job.state is State.QUEUED
    assert retried.job.reserved_bytes == 100 * MB
    await check_sums(store, "acme")


async def test_playlist_beyond_the_quota(store):
    """A playlist ends with QUOTA_EXCEEDED after the entries that are admitted; a retry continues there."""
    await add_tenant(store, "acme", Quota(jobs_per_day=3))
    (playlist,) = await store.add(jobs_of("", 1, kind=Kind.EXPANSION, expansion=Expansion()))
    entries = [
        media_pb2.PlaylistEntry(position=n, url=f"https://videos.example/watch?v={n}") for n in range(1, 6)
    ]

    async def expand(epoch: int, time: timedelta) -> Transition:
        def rule(job: Job, seen: object) -> Transition:
            renewed = leases.renew(job, epoch, NOW + time, LEASE)
            return playlist_expansion.add_children(renewed, entries, set(), NOW + time)

        await lease(store, playlist.id)
        return await store.expand(playlist.id, [], rule)

    first = await expand(1, timedelta())
    assert [child.position for child in first.children] == [1, 2]
    assert error_reason(first.job.error) == ErrorReason.QUOTA_EXCEEDED
    assert first.job.expansion is not None
    assert (first.job.expansion.job_count, first.job.expansion.last_position) == (2, 2)
    await check_sums(store, "acme")
    await store.change(playlist.id, lambda job: queue_transitions.retry(job, NOW + DAY))
    second = await expand(2, DAY)
    assert [child.position for child in second.children] == [3, 4]
    await check_sums(store, "acme")


async def test_schedule_beyond_the_quota(store):
    """A run of a schedule beyond the quota of its key is a failed run, and reported as one."""
    await add_tenant(store, "acme", UNLIMITED, **{KEY: Quota(jobs_per_day=1)})
    template = jobs_of("", 1)[0]
    nightly = Schedule(
        tenant="acme",
        id="nightly",
        api_key=KEY,
        cron="0 3 * * *",
        template=template,
        next_run_time=NOW,
        create_time=NOW,
        update_time=NOW,
    )
    await store.schedules.add(nightly)

    def rule(schedule: Schedule, live: bool, admit: CheckJob) -> Run:
        return schedule_model.run_if_due(schedule, schedule.next_run_time or NOW, live, admit)

    first = await store.schedules.run("acme", "nightly", rule)
    assert first.job is not None
    assert first.job.api_key == KEY
    await store.add(jobs_of(KEY, 2, time=DAY - timedelta(hours=10)))
    second = await store.schedules.run("acme", "nightly", rule)
    assert second.job is None
    assert from_status(second.after.last_error).reason == ErrorReason.QUOTA_EXCEEDED
    await check_sums(store, "acme")


async def test_usage(store):
    """The usage of a key and a tenant shows what is used and reserved of each limit, and when it resets."""
    await add_tenant(
        store, "acme", Quota(jobs_per_day=10), **{KEY: Quota(bytes_per_day=500 * MB), OTHER_KEY: UNLIMITED}
    )
    first, _ = await store.add(jobs_of(KEY, 1, 2))
    await store.add(jobs_of(OTHER_KEY, 3))
    await lease(store, first.id)
    quotas = Quotas(SqlQuotaStore(store.database, QuotaLedger()), lambda: NOW)
    of_key = {metric.name: metric for metric in await quotas.get_usage(f"apiKeys/{KEY}")}
    assert (of_key["jobs_per_day"].used, of_key["jobs_per_day"].limit) == (2, -1)
    assert (of_key["bytes_per_day"].used, of_key["bytes_per_day"].limit) == (200 * MB, 500 * MB)
    assert of_key["bytes_per_day"].reset_time == NOW.replace(hour=0) + DAY
    assert of_key["concurrent_jobs"].used == 1
    await finish(store, first.id, 7 * MB, stored=5 * MB)
    of_tenant = {metric.name: metric for metric in await quotas.get_usage("tenants/acme")}
    assert (of_tenant["jobs_per_day"].used, of_tenant["jobs_per_day"].limit) == (3, 10)
    assert of_tenant["bytes_per_day"].used == 207 * MB
    assert of_tenant["stored_bytes"].used == 205 * MB
    assert of_tenant["concurrent_jobs"].used == 0
    message = usage_to_proto("tenants/acme", list(of_tenant.values()))
    assert message.name == "tenants/acme/usage"
    assert {metric.quota_metric for metric in message.metrics} == {
        field.name for field in Quota.DESCRIPTOR.fields
    } - {"requests_per_minute"}


async def test_old_days_are_deleted(store):
    """The use of old days is deleted once no job can change it; the totals stay."""
    await add_tenant(store, "acme", UNLIMITED)
    (paused,) = await store.add(jobs_of("", 1))
    later = NOW + USAGE_RETENTION + 2 * DAY
    await store.delete_old_usage(later - USAGE_RETENTION)
    await check_sums(store, "acme")
    await store.change(paused.id, lambda job: queue_transitions.cancel(job, later))
    await check_sums(store, "acme")
    await store.delete_old_usage(later - USAGE_RETENTION)
    day = (NOW - NOW.replace(year=1970, day=1, month=1, hour=12)).days
    assert (await read_ledger(store, "tenants/acme", day))["jobs"] == 0
    assert (await read_ledger(store, "tenants/acme"))["jobs"] == 1


async def test_jobs_without_authentication_do_not_count(tmp_path):
    """While callers have no keys nothing is counted, and no limit applies."""
    async with sqlite_store(tmp_path) as opened:
        await add_tenant(opened, "acme", Quota(jobs_per_day=1))
        await opened.add(jobs_of("", 1, 2))
        await lease(opened, jobs_of("", 1)[0].id)
        await report(opened, jobs_of("", 1)[0].id, 900 * MB)
        await finish(opened, jobs_of("", 1)[0].id, 900 * MB)
        assert (await read_ledger(opened, "tenants/acme"))["jobs"] == 0


class ConcurrencyHarness:
    """A dispatcher over stores whose jobs count."""

    def __init__(self, store: SqlStore) -> None:
        ledger = QuotaLedger(counts_jobs=True)
        self.store, self.bus, self.hub = store, FakeBus(), EventHub()
        queue = SqlQueueStore(store.database, ConcurrencyLimits(ledger))
        self.dispatcher = Dispatcher(queue, self.bus, lambda: NOW, LEASE, hub=self.hub)
        quotas = SqlQuotaStore(store.database, ledger)
        self.views = JobViews(store, queue, self.hub, lambda: NOW, LEASE, quotas=quotas)

    async def running(self) -> list[str]:
        """Run steps of the dispatcher until one publishes nothing; return the keys of all jobs in flight."""
        found = -1
        while len(published := await self.store.list_published(100)) > found:
            found = len(published)
            await self.dispatcher.step()
        return sorted(job.api_key for job in published)


async def test_concurrent_jobs_wait(store):
    """Jobs beyond the limit of their key or tenant wait, those of other keys do not; each end admits one."""
    await add_tenant(
        store, "acme", Quota(concurrent_jobs=3), **{KEY: Quota(concurrent_jobs=1), OTHER_KEY: UNLIMITED}
    )
    await add_tenant(store, "other", UNLIMITED, **{"key-3": UNLIMITED})
    harness = ConcurrencyHarness(store)
    await store.record_worker_heartbeat("w1", 20, NOW)
    await store.add(jobs_of(KEY, *range(1, 6)))
    assert await harness.running() == [KEY]
    await store.add([*jobs_of(OTHER_KEY, 11, 12, 13), *jobs_of("key-3", 21, 22, tenant="other")])
    assert await harness.running() == [KEY, OTHER_KEY, OTHER_KEY, "key-3", "key-3"]
    assert harness.hub.dispatch_blocked
    waiting = (await harness.views.view_with_position(await store.get(jobs_of(KEY, 5)[0].id))).wait
    assert waiting is not None
    assert waiting.reason is WaitReason.QUOTA
    assert f"apiKeys/{KEY}" in waiting.message or "tenants/acme" in waiting.message
    first = jobs_of(KEY, 1)[0].id
    await lease(store, first)
    await finish(store, first, MB)
    assert [key for key in await harness.running() if key == KEY] == [KEY]
    assert (
        await harness.views.view_with_position(await store.get(jobs_of("key-3", 21)[0].id))
    ).wait is not None
