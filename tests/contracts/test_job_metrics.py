"""Counters of jobs equal what happened to the rows, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.contracts.test_job_expansions import entries, expansion
from tests.contracts.test_schedule_store import schedule
from tests.job_stores import LEASE, NOW, SqlStore, claim, job, postgresql_store, request, sqlite_store
from tests.jobs.fake_bus import FakeBus
from tests.jobs.quota_ledgers import MB, add_tenant
from tests.metric_values import MetricChanges

from reelhaul.admin.v1.api_key_pb2 import Quota
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import leases, playlist_expansion, queue_transitions, user_actions
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.lists import Batch, CountQuery
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import State
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.leases import Leases
from reelhaul_jobs.service.schedules import Scheduler
from reelhaul_jobs.store.quotas import QuotaLedger
from reelhaul_runtime.errors import ReelhaulError, from_status

SITE = "videos.example"
GONE = error_status(ErrorReason.MEDIA_NOT_FOUND, "gone")
LATER = error_status(ErrorReason.UPSTREAM_UNAVAILABLE, "later")


@pytest.fixture(params=["sqlite", "postgresql"])
async def counted_store(request, tmp_path):
    """The stores of a database whose jobs are counted against quotas."""
    ledger = QuotaLedger(counts_jobs=True)
    opening = sqlite_store(tmp_path, ledger) if request.param == "sqlite" else postgresql_store(ledger)
    async with opening as opened:
        yield opened


async def start(store: SqlStore, job_id: str, seconds: float = 0) -> Job:
    """Claim the job *seconds* after NOW."""
    attempt = (await store.get(job_id)).attempt
    now = NOW + timedelta(seconds=seconds)
    return (await store.change(job_id, lambda each: leases.claim(each, claim(attempt), now))).job


async def finish(store: SqlStore, job: Job, result: object, seconds: float = 0) -> Job:
    """Report *result* of the present lease *seconds* after NOW."""
    outcome, now = leases.Outcome(result=result), NOW + timedelta(seconds=seconds)  # type: ignore[arg-type]
    return (
        await store.change(job.id, lambda each: leases.finish(each, job.epoch, outcome, now, lambda: 0.0))
    ).job


def succeeded(size: int) -> leases.Succeeded:
    artifact = media_pb2.ArtifactInfo(name="artifacts/1", size_bytes=size)
    return leases.Succeeded(media=media_pb2.MediaInfo(), artifacts=(artifact,))


async def test_ends_by_state_reason_and_site(store):
    """A job that ended counts once, by how it ended, with its duration and the bytes that it stored."""
    changes = MetricChanges()
    await store.add([job(0), job(1), job(2)])
    await finish(store, await start(store, job(0).id, 5), succeeded(700), 40)
    await finish(store, await start(store, job(1).id, 5), leases.Failed(error=GONE), 11)
    await store.change(job(2).id, lambda each: queue_transitions.cancel(each, NOW + timedelta(seconds=3)))
    assert changes.of("reelhaul_jobs_created_total") == {("api",): 3}
    assert changes.of("reelhaul_jobs_ended_total") == {
        ("", SITE, "SUCCEEDED"): 1,
        ("MEDIA_NOT_FOUND", SITE, "FAILED"): 1,
        ("JOB_CANCELLED", SITE, "CANCELLED"): 1,
    }
    assert changes.of("reelhaul_attempts_ended_total") == {
        ("SUCCEEDED", ""): 1,
        ("FAILED", "MEDIA_NOT_FOUND"): 1,
    }
    assert changes.of("reelhaul_job_stored_bytes_total") == {(SITE,): 700}
    assert changes.of("reelhaul_job_duration_seconds_sum") == {
        ("SUCCEEDED",): 40,
        ("FAILED",): 10,
        ("CANCELLED",): 1,
    }
    assert not changes.of("reelhaul_job_retries_total")


async def test_retries_and_a_lost_worker(store):
    """An attempt that failed for now, and one whose worker was lost, are retried; the job ends once."""
    changes = MetricChanges()
    await store.add([job(0)])
    await finish(store, await start(store, job(0).id), leases.Failed(error=LATER), 1)
    due = NOW + timedelta(hours=1)
    await store.change(job(0).id, lambda each: queue_transitions.make_ready(each, due))
    lost = await start(store, job(0).id, 3600)
    later = due + 2 * LEASE
    await store.change(lost.id, lambda each: leases.expire(each, later))
    await store.change(lost.id, lambda each: leases.expire(each, later))
    await finish(store, await start(store, job(0).id, 3700), succeeded(1), 3701)
    assert changes.of("reelhaul_job_retries_total") == {("UPSTREAM_UNAVAILABLE",): 1, ("WORKER_LOST",): 1}
    assert changes.total("reelhaul_leases_expired_total") == 1
    assert changes.of("reelhaul_attempts_ended_total") == {
        ("FAILED", "UPSTREAM_UNAVAILABLE"): 1,
        ("LOST", "WORKER_LOST"): 1,
        ("SUCCEEDED", ""): 1,
    }
    assert changes.total("reelhaul_jobs_ended_total") == 1
    assert changes.total("reelhaul_job_start_seconds_count") == 3


async def test_time_to_start(store):
    """The wait before a claim counts from when the job could start: a delayed one from its time."""
    changes = MetricChanges()
    delayed = job(0, schedule_time=NOW + timedelta(hours=2))
    await store.add([delayed, job(10)])
    due = NOW + timedelta(hours=2, seconds=1)
    await store.change(delayed.id, lambda each: queue_transitions.make_ready(each, due))
    await start(store, delayed.id, 7205)
    await start(store, job(10).id, 13)
    assert changes.of("reelhaul_job_start_seconds_sum") == {("NORMAL",): 5 + 3}
    retried = MetricChanges()
    await finish(store, await store.get(job(10).id), leases.Failed(error=LATER), 20)
    due = NOW + timedelta(seconds=100)
    await store.change(job(10).id, lambda each: queue_transitions.make_ready(each, due))
    await start(store, job(10).id, 104)
    assert retried.of("reelhaul_job_start_seconds_sum") == {("NORMAL",): 4}


async def test_what_changes_nothing_counts_nothing(store):
    """Repeated requests and outcomes, stale epochs and writes that are rolled back count nothing again."""
    changes = MetricChanges()
    for _ in range(3):
        await store.add([job(0)], request(1))
        await store.add_batch(Batch({0: job(1), 1: job(2)}), request(2))
    # One of these shares its transaction with the others, and fails.
    results = await asyncio.gather(
        *(store.add([job(number)]) for number in (3, 4, 0, 5)), return_exceptions=True
    )
    assert [isinstance(result, ReelhaulError) for result in results] == [False, False, True, False]
    missing = store.change("00000000-0000-7000-8000-00000000ffff", lambda each: each)
    results = await asyncio.gather(store.add([job(6)], request(6)), missing, return_exceptions=True)
    assert isinstance(results[1], ReelhaulError)
    running = await start(store, job(0).id)
    for _ in range(2):
        await finish(store, running, succeeded(1), 2)
    await finish(store, replace(running, epoch=0), succeeded(1), 2)
    with pytest.raises(ReelhaulError):
        await store.change(job(0).id, lambda each: queue_transitions.cancel(each, NOW))
    assert changes.total("reelhaul_jobs_created_total") == 7
    assert changes.total("reelhaul_jobs_ended_total") == 1


async def test_sources_of_jobs(store):
    """Created jobs count by where they came from; one that its user queued again counts as a retry."""
    changes = MetricChanges()
    await store.add([job(0), expansion(1)])
    await store.add([job(2, batch_id="b"), job(3, batch_id="b")], request(1))
    parent = await start(store, expansion(1).id)

    def rule(each: Job, seen: object):
        renewed = leases.renew(each, parent.epoch, NOW, LEASE)
        return playlist_expansion.add_children(renewed, entries(1, 2, 3, 4), frozenset(), NOW)

    for _ in range(2):
        await store.expand(parent.id, [], rule)
    await store.change(job(0).id, lambda each: queue_transitions.cancel(each, NOW))
    await store.change(job(0).id, lambda each: queue_transitions.retry(each, NOW))
    assert changes.of("reelhaul_jobs_created_total") == {
        ("api",): 2,
        ("batch",): 2,
        ("playlist",): 4,
        ("retry",): 1,
    }


async def test_runs_of_schedules(store):
    """A run counts by whether it created a job, was skipped or failed; where none is due, nothing does."""
    changes, time = MetricChanges(), [NOW + timedelta(hours=6)]
    refused = [False]

    def admit(_: Job) -> None:
        if refused[0]:
            raise from_status(GONE)

    scheduler = Scheduler(store.schedules, ChangeNotifier(EventHub(), FakeBus()), lambda: time[0], admit)
    await store.schedules.add(schedule(skip_overlapping=True))
    await scheduler.step()
    await scheduler.step()
    time[0] += timedelta(hours=6)
    await scheduler.step()
    live = (await store.schedules.get("acme", "nightly")).last_job
    await store.change(live, lambda each: queue_transitions.cancel(each, time[0]))
    refused[0] = True
    time[0] += timedelta(hours=6)
    await scheduler.step()
    assert changes.of("reelhaul_schedule_runs_total") == {("created",): 1, ("skipped",): 1, ("failed",): 1}
    assert changes.of("reelhaul_jobs_created_total") == {("schedule",): 1}


async def test_quotas(counted_store):
    """Jobs that a quota refuses, and one that it stops, count by the quota."""
    store, changes = counted_store, MetricChanges()
    await add_tenant(store, "acme", Quota(jobs_per_day=3, bytes_per_day=300 * MB))
    await store.add([job(0)])
    with pytest.raises(ReelhaulError):
        await store.add([job(1), job(2), job(3)])
    await store.add_batch(Batch({number: job(number) for number in (4, 5, 6)}))
    with pytest.raises(ReelhaulError):
        await store.add([job(7)], request(7))
    assert changes.of("reelhaul_quota_refusals_total") == {("jobs_per_day",): 3}
    running = await start(store, job(0).id)
    progress = media_pb2.Progress(downloaded_bytes=900 * MB)
    await store.change_lease(
        running.id,
        lambda each: (each.site, ""),
        lambda each, site: leases.renew(each, running.epoch, NOW, LEASE, progress=progress),
        NOW,
        counted=False,
    )
    assert changes.of("reelhaul_quota_refusals_total") == {("jobs_per_day",): 3, ("bytes_per_day",): 1}
    assert changes.of("reelhaul_jobs_ended_total") == {("QUOTA_EXCEEDED", SITE, "FAILED"): 1}
    assert changes.total("reelhaul_jobs_created_total") == 3


async def test_refused_workers(store):
    """A worker's call that is refused counts by the call and the reason; a repeated Finish is not refused."""
    changes = MetricChanges()
    notifier = ChangeNotifier(EventHub(), FakeBus())
    service = Leases(store, store, notifier, lambda: NOW, LEASE)
    await store.add([job(0)])
    granted = await service.claim(job(0).id, claim(), 1)
    await service.claim(job(0).id, claim(worker="w2", request_id="r2"), 1)
    await service.claim("00000000-0000-7000-8000-00000000ffff", claim(), 1)
    await service.renew(job(0).id, 7, None, None)
    outcome = leases.Outcome(result=succeeded(1))
    for epoch in (granted.job.epoch, granted.job.epoch, 7):
        await service.finish(job(0).id, epoch, outcome)
    assert changes.of("reelhaul_leases_refused_total") == {
        ("claim", "LEASED"): 1,
        ("claim", "UNKNOWN"): 1,
        ("renew", "LOST"): 1,
        ("finish", "LOST"): 1,
    }


async def test_a_thousand_sites(store):
    """However many sites jobs are from, at most a hundred of them and one for the others are labels."""
    changes = MetricChanges()
    new = [job(number, url=f"https://site{number}.example/") for number in range(1000)]
    await store.add(new)
    cancelled = await store.change_many(
        [each.id for each in new], lambda each: queue_transitions.cancel(each, NOW)
    )
    assert len(cancelled) == 1000
    counted = changes.of("reelhaul_jobs_ended_total")
    assert sum(counted.values()) == 1000
    assert len(counted) <= 101


async def test_statistics_agree(store):
    """The statistics of jobs, which are read from rows, and the counters say the same of the same jobs."""
    changes = MetricChanges()
    await store.add([job(number) for number in range(6)])
    await finish(store, await start(store, job(0).id), succeeded(7), 30)
    await finish(store, await start(store, job(1).id), leases.Failed(error=GONE), 30)
    await finish(store, await start(store, job(2).id), leases.Failed(error=LATER), 30)
    await store.change(job(3).id, lambda each: queue_transitions.cancel(each, NOW))
    await store.change(job(4).id, lambda each: user_actions.pause(each, NOW))
    summary = await store.summarize(CountQuery(tenant="acme", start=NOW, end=NOW + timedelta(hours=1)))
    ended = changes.of("reelhaul_jobs_ended_total")
    by_state = {
        state: sum(count for (_, _, name), count in ended.items() if name == state.name)
        for state in State
        if state.is_terminal
    }
    assert {state: count for state, count in summary.total.states.items() if state.is_terminal} == by_state
    assert summary.total.errors == {
        reason: count for (reason, _, name), count in ended.items() if name == "FAILED"
    }
    live = {state: count for state, count in summary.total.states.items() if not state.is_terminal}
    counts = await store.count_queue(NOW)
    assert {state: count for state, count in counts.states.items() if count} == live
    assert changes.total("reelhaul_jobs_created_total") == sum(summary.total.states.values())
