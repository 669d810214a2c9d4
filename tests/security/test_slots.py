"""Slots of downloads: no site, and no tenant, holds all of them for good while others wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.fetcher.worker_harness import WorkerHarness
from tests.job_stores import NOW, SqlStore, job, postgresql_store, sqlite_store

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul.work.v1 import lease_pb2
from reelhaul_fetcher.model.progress import PaceMonitor
from reelhaul_fetcher.service.direct_fetch import DirectFetches
from reelhaul_fetcher.service.download import Limits
from reelhaul_jobs.model import fair_scheduling
from reelhaul_jobs.model.states import Priority
from reelhaul_jobs.ports.queue import BacklogQuery
from reelhaul_runtime.errors import ReelhaulError, from_status

HOSTILE, HONEST, THIRD = "https://hostile.example/", "https://honest.example/", "https://third.example/"

# --- how long a site may take: the stage and the total bytes at each second, and whether that is a fault

_STAGES = {
    "a page that drips": (lambda t: (Progress.PROBING, 2000 * t), True),
    "a page without an end": (lambda t: (Progress.PROBING, 10_000_000 * t), True),
    "a page that never begins": (lambda t: (Progress.STAGE_UNSPECIFIED, 0), True),
    "a page of four minutes": (
        lambda t: (Progress.PROBING if t < 240 else Progress.POSTPROCESSING, 0),
        False,
    ),
    "media that drips": (lambda t: (Progress.DOWNLOADING, 2000 * t), True),
    "media that drips after a fast start": (lambda t: (Progress.DOWNLOADING, 10**9 + 2000 * t), True),
    "media in rare bursts": (lambda t: (Progress.DOWNLOADING, t // 250 * 1_000_000), True),
    "subtitles that drip": (lambda t: (Progress.FETCHING_EXTRAS, 2000 * t), True),
    "extras and media in turn": (
        lambda t: (Progress.DOWNLOADING if t // 20 % 2 else Progress.FETCHING_EXTRAS, 2000 * t),
        True,
    ),
    "slow media": (lambda t: (Progress.DOWNLOADING, 10_000 * t), False),
    "media with pauses": (lambda t: (Progress.DOWNLOADING, t // 50 * 1_000_000), False),
    "a recording of low quality": (lambda t: (Progress.RECORDING, 1500 * t), False),
    "a long list": (lambda t: (Progress.EXPANDING, 1500 * t), False),
    "a long conversion": (lambda t: (Progress.POSTPROCESSING, 0), False),
    "a long upload": (lambda t: (Progress.UPLOADING, 0), False),
    "a long wait for a translator": (lambda t: (Progress.WAITING, 0), False),
}
Behaviour = Callable[[int], tuple[Progress.Stage.ValueType, int]]


@pytest.mark.parametrize(("behaviour", "is_fault"), _STAGES.values(), ids=_STAGES)
def test_pace(behaviour: Behaviour, is_fault: bool) -> None:
    """A site that is too slow without stalling is detected within ten minutes; a faster one never is."""
    pace = PaceMonitor(extraction_seconds=300, min_rate=8192, now=0)
    times = range(0, 620 if is_fault else 3600, 10)
    faults = [fault for time in times if (fault := pace.find_fault(time, *behaviour(time)))]
    assert bool(faults) is is_fault


def test_no_minimum_rate() -> None:
    """Operators may turn the minimum rate off."""
    pace = PaceMonitor(extraction_seconds=300, min_rate=0, now=0)
    assert not any(pace.find_fault(t, Progress.DOWNLOADING, t) for t in range(0, 3600, 10))


@pytest.mark.parametrize("stage", [Progress.PROBING, Progress.DOWNLOADING])
async def test_slow_site_gives_its_slot_back(tmp_path: Path, stage: Progress.Stage.ValueType) -> None:
    """An attempt at a slow site fails with UPSTREAM_STALLED, and its slot serves the next job."""
    limits = Limits(0, 60, 60, extraction_seconds=0.2, min_bytes_per_second=8192, pace_window_seconds=0.2)
    harness = WorkerHarness(tmp_path, limits=limits)
    harness.engine.stage = stage
    harness.engine.go.clear()
    async with harness.running(), asyncio.timeout(10):
        harness.enqueue()
        await harness.wait_logged("ack")
        assert from_status(harness.outcome.failed.status).reason == ErrorReason.UPSTREAM_STALLED
        assert harness.engine.stopped
        harness.leases.finishes.clear()
        harness.engine.go.set()
        harness.enqueue()
        await harness.wait_logged("ack", 2)
    assert harness.outcome.HasField("succeeded")


# --- which job gets the next slot


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """The stores of jobs, on a new database."""
    async with sqlite_store(tmp_path) if request.param == "sqlite" else postgresql_store() as opened:
        yield opened


async def select_next(store: SqlStore, count: int = 1) -> list[str]:
    """Mark the next *count* jobs as published, as the dispatcher does; return their sites."""
    backlog = await store.get_backlog(BacklogQuery(limit=max(1, count)), NOW)
    selected = fair_scheduling.select_fairly(backlog.ready, count, in_flight=backlog.in_flight)
    await store.mark_published(selected, NOW + timedelta(minutes=1), None)
    return [each.site for each in selected]


async def test_last_slot_goes_to_another_site(store: SqlStore) -> None:
    """Of one tenant's jobs, those of a site that holds all slots but one wait for those of other sites."""
    await store.record_worker_heartbeat("w1", 3, NOW)
    hostile = [job(number, url=HOSTILE, priority=Priority.HIGH) for number in range(1, 50)]
    await store.add([*hostile, job(100, url=HONEST), job(101, url=THIRD)])
    assert await select_next(store, 2) == ["hostile.example"] * 2
    assert await select_next(store) == ["honest.example"]
    assert await select_next(store) == ["third.example"]
    # Nobody else waits any more: a slot that would stay free is the site's.
    assert await select_next(store) == ["hostile.example"]


async def test_slots_of_one_step(store: SqlStore) -> None:
    """The share holds within one step of the dispatcher too."""
    await store.record_worker_heartbeat("w1", 4, NOW)
    await store.add([*(job(number, url=HOSTILE) for number in range(1, 50)), job(100, url=HONEST)])
    assert await select_next(store, 4) == ["hostile.example"] * 3 + ["honest.example"]


@pytest.mark.parametrize("slots", [0, 1, 4])
async def test_order_without_competition_for_the_last_slot(store: SqlStore, slots: int) -> None:
    """With no worker, one slot, or enough of them, jobs are in order of their age, whatever their site."""
    if slots:
        await store.record_worker_heartbeat("w1", slots, NOW)
    await store.add([job(1, url=HOSTILE), job(2, url=HOSTILE), job(3, url=HONEST)])
    assert await select_next(store) == ["hostile.example"]
    assert await select_next(store) == ["hostile.example"]
    assert await select_next(store) == ["honest.example"]


async def test_another_tenant_goes_first(store: SqlStore) -> None:
    """A tenant with jobs in flight waits for one that has none, however many sites it names."""
    await store.record_worker_heartbeat("w1", 2, NOW)
    many = [job(number, url=f"https://s{number}.example/") for number in range(1, 50)]
    await store.add([*many, replace(job(100, url=HONEST), tenant="other")])
    assert "honest.example" not in await select_next(store)
    assert await select_next(store) == ["honest.example"]


# --- direct fetches


async def test_direct_fetches_of_a_tenant(tmp_path: Path) -> None:
    """A tenant's direct fetches leave a slot to others; the error names the limit; an end frees a slot."""
    harness = WorkerHarness(tmp_path, slots=3)
    fetches = DirectFetches(harness.worker, harness.context, 2)
    harness.engine.go.clear()

    def spec(tenant: str) -> lease_pb2.FetchSpec:
        return lease_pb2.FetchSpec(url=HOSTILE, tenant=tenant)

    started = [fetches.execute(spec("acme")), fetches.execute(spec("acme"))]
    with pytest.raises(ReelhaulError) as refused:
        fetches.execute(spec("acme"))
    assert refused.value.reason == ErrorReason.QUOTA_EXCEEDED
    assert refused.value.metadata["quotaMetric"] == "direct_fetches"
    other = fetches.execute(spec("other"))
    with pytest.raises(ReelhaulError) as busy:
        fetches.execute(spec("third"))
    assert busy.value.reason == ErrorReason.OVERLOADED
    harness.engine.go.set()
    async with asyncio.timeout(10):
        for fetch in (*started, other):
            await fetch.wait_ended()
        await fetches.execute(spec("acme")).wait_ended()
