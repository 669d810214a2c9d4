"""The background loops, one step at a time, on SQLite and a fake bus."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import pytest
from tests.jobs.conftest import TIMEOUT
from tests.jobs.replica import LEASE, START, Replica

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import fair_scheduling, leases, queue_transitions
from reelhaul_jobs.model.job import Job, RetryPolicy
from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_jobs.model.states import Priority, QueueStage, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.dispatcher import Dispatcher
from reelhaul_jobs.service.loop_runner import LEADERSHIP, Leadership, Loop, LoopRunner
from reelhaul_jobs.service.reaper import Reaper
from reelhaul_jobs.store import dispatch_queries
from reelhaul_runtime.errors import NotFound, Unavailable


async def test_window_is_bounded(replica):
    """However long the backlog, the broker holds only the window; the rest follows."""
    jobs = [await replica.add() for _ in range(30)]
    await replica.dispatcher.step()
    await replica.dispatcher.step()
    assert len(replica.bus.items) == 4
    for item in replica.bus.items[:3]:
        await replica.claim(item.id)
    await replica.dispatcher.step()
    assert [item.id for item in replica.bus.items] == [job.id for job in jobs[:7]]


async def test_window_follows_slots(replica):
    """The window grows with the slots of the live workers."""
    await replica.store.record_worker_heartbeat("w1", 10, replica.time)
    for _ in range(50):
        await replica.add()
    while await replica.dispatcher.step():
        pass
    assert len(replica.bus.items) == 5


async def test_first_job_of_another_tenant(replica):
    """A tenant's first job is published next, however many jobs another tenant queued before."""
    for _ in range(100):
        await replica.add("big")
    await replica.dispatcher.step()
    first = await replica.add("small")
    for item in list(replica.bus.items):
        await replica.claim(item.id)
    await replica.dispatcher.step()
    assert replica.bus.items[4].id == first.id


async def test_later_sites_of_many_tenants(replica: Replica, monkeypatch: pytest.MonkeyPatch):
    """Jobs behind a full site are published, also where one step reads neither all tenants nor all sites."""
    monkeypatch.setattr(dispatch_queries, "_MAX_WAITING", 2)
    monkeypatch.setattr(dispatch_queries, "_MAX_SITES", 1)
    monkeypatch.setattr(dispatch_queries, "_MIN_SITES_PER_TENANT", 1)
    await replica.store.record_worker_heartbeat("w1", 100, replica.time)
    limits = SiteLimits(max_running_by_site={"a.example": 1})
    dispatcher = Dispatcher(replica.store, replica.bus, replica.now, LEASE, limits)
    # One of them gets the slot of the full site; two steps read the others.
    tenants = ("t0", "t1", "t2", "t3", "t4")
    for tenant in tenants:
        await replica.add(tenant, url="https://a.example/1")
    later = [await replica.add(tenant, url="https://z.example/1") for tenant in tenants]
    for _ in range(20):
        await dispatcher.step()
    published = {item.id for item in replica.bus.items}
    assert {job.id for job in later} < published
    assert len(published) == len(later) + 1


async def test_more_tenants_than_one_step_reads(replica: Replica, monkeypatch: pytest.MonkeyPatch):
    """Tenants that have no job at a free site leave their turn to others, however many they are."""
    monkeypatch.setattr(fair_scheduling, "_MIN_TENANTS_READ", 2)
    monkeypatch.setattr(fair_scheduling, "_MAX_TENANTS_READ", 2)
    limits = SiteLimits(max_running_by_site={"full.example": 1})
    weights = {"t8": 3.0}
    dispatcher = Dispatcher(replica.store, replica.bus, replica.now, LEASE, limits, weights)
    await replica.store.record_worker_heartbeat("w1", 16, replica.time)
    for number in range(10):
        site = "full" if number < 6 else f"free{number}"
        for video in range(9):
            await replica.add(f"t{number}", url=f"https://{site}.example/{video}")
    steps = 1
    while await dispatcher.step():
        steps += 1
    published = Counter(item.tenant for item in replica.bus.items)
    assert published.total() == 8
    assert sum(published[f"t{number}"] for number in range(6)) == 1
    assert published["t8"] >= 3
    assert min(published["t6"], published["t7"], published["t9"]) >= 1
    # All tenants are read two at a time, and those with free sites until nothing more fits.
    assert steps <= 12


async def test_priority_within_a_tenant(replica):
    """HIGH jobs come first among their tenant's jobs, not before those of other tenants."""
    await replica.add(priority=Priority.LOW)
    await replica.add("other")
    high = await replica.add(priority=Priority.HIGH)
    await replica.dispatcher.step()
    assert replica.bus.items[0].id == high.id
    assert {item.tenant for item in replica.bus.items[:2]} == {"acme", "other"}


async def test_broker_unavailable_keeps_jobs_ready(replica):
    """Jobs that the broker did not accept are published again later."""
    job = await replica.add()
    replica.bus.unavailable = True
    assert not await replica.dispatcher.step()
    replica.bus.unavailable = False
    await replica.dispatcher.step()
    assert [item.id for item in replica.bus.items] == [job.id]


async def test_scheduled_job_waits(replica):
    """A job is published at its schedule_time and not before."""
    job = await replica.add(schedule_time=START + timedelta(hours=1))
    await replica.reaper.step()
    await replica.dispatcher.step()
    assert not replica.bus.items
    replica.time += timedelta(hours=1)
    await replica.reaper.step()
    await replica.dispatcher.step()
    assert [item.id for item in replica.bus.items] == [job.id]


async def test_expired_lease(replica):
    """A job whose worker went silent is queued as its next attempt, and watchers are notified."""
    job = await replica.add()
    await replica.claim(job.id)
    replica.time += LEASE
    await replica.reaper.step()
    assert (await replica.store.get(job.id)).state is State.RUNNING
    replica.time += LEASE
    await replica.reaper.step()
    after = await replica.store.get(job.id)
    assert (after.state, after.attempt, after.queue_stage) == (State.QUEUED, 2, QueueStage.READY)
    assert replica.bus.changes[-1] == after


async def test_no_expiry_right_after_a_restart(replica):
    """No lease expires right after a start: workers could not renew while the service was down."""
    job = await replica.add()
    await replica.claim(job.id)
    replica.time += timedelta(minutes=5)
    notifier = ChangeNotifier(replica.hub, replica.bus)
    restarted = Reaper(replica.store, replica.store, replica.bus, notifier, replica.now, LEASE)
    await restarted.step()
    assert (await replica.store.get(job.id)).state is State.RUNNING


async def test_no_expiry_right_after_an_absence(replica):
    """No lease expires right after the service or its database was stopped; it does later."""
    job = await replica.add()
    await replica.claim(job.id)
    await replica.reaper.step()
    replica.time += timedelta(minutes=5)
    await replica.reaper.step()
    assert (await replica.store.get(job.id)).state is State.RUNNING
    await replica.advance(LEASE / 2)
    assert (await replica.store.get(job.id)).state is State.QUEUED


async def test_slow_loop_is_not_an_absence(replica):
    """A reaper whose every step is late still requeues the jobs of dead workers."""
    job = await replica.add()
    await replica.claim(job.id)
    for _ in range(2):
        replica.time += 2 * LEASE
        await replica.reaper.step()
    assert (await replica.store.get(job.id)).state is State.QUEUED


async def test_job_that_kills_its_workers(replica):
    """A job that kills its workers ends FAILED with WORKER_LOST."""
    job = await replica.add()
    for _ in range(3):
        await replica.claim(job.id)
        await replica.advance(2 * LEASE)
    after = await replica.store.get(job.id)
    assert after.state is State.FAILED
    assert "went silent" in after.error.message


async def test_expired_lease_of_a_cancelled_job(replica):
    """A job whose worker vanished instead of stopping it is CANCELLED."""
    job = await replica.add()
    await replica.claim(job.id)
    await replica.store.change(job.id, lambda j: queue_transitions.cancel(j, replica.time))
    await replica.advance(2 * LEASE)
    assert (await replica.store.get(job.id)).state is State.CANCELLED


async def test_work_stream_created_anew(replica):
    """Items of a lost work stream are published again, as new attempts."""
    jobs = [await replica.add() for _ in range(3)]
    await replica.dispatcher.step()
    replica.bus.items.clear()
    replica.bus.fresh = True
    await replica.reaper.step()
    await replica.dispatcher.step()
    assert sorted((item.id, item.attempt) for item in replica.bus.items) == [(job.id, 2) for job in jobs]


async def test_one_item_lost(replica):
    """An item that vanished is missed by count and published again."""
    await replica.add()
    job = await replica.add()
    await replica.dispatcher.step()
    del replica.bus.items[1]
    replica.time += timedelta(minutes=2)
    await replica.reaper.step()
    await replica.dispatcher.step()
    assert (job.id, 2) in [(item.id, item.attempt) for item in replica.bus.items]


async def test_busy_workers_lose_nothing(replica):
    """Items that wait long for busy workers are not published again."""
    await replica.add()
    await replica.dispatcher.step()
    for _ in range(5):
        replica.time += timedelta(minutes=5)
        await replica.reaper.step()
        await replica.dispatcher.step()
    assert len(replica.bus.items) == 1


class FakeStorage:
    """A Storage that records its calls, and that can be unavailable."""

    def __init__(self) -> None:
        self.kept: dict[str, datetime] = {}
        self.deleted: list[str] = []
        self.unavailable = False
        self.calls = 0

    async def set_expire_time(self, artifact: str, expire_time: datetime) -> None:
        self.calls += 1
        if self.unavailable:
            raise Unavailable("storage", "unavailable")
        self.kept[artifact] = expire_time

    async def delete_artifacts(self, artifacts: Sequence[str]) -> None:
        if self.unavailable:
            raise Unavailable("storage", "unavailable")
        self.deleted += artifacts


async def succeed(replica: Replica, job: Job) -> Job:
    await replica.claim(job.id)
    result = leases.Succeeded(
        media=media_pb2.MediaInfo(), artifacts=(media_pb2.ArtifactInfo(name="artifacts/1"),)
    )
    outcome = leases.Outcome(result=result)
    return (await replica.store.change(job.id, lambda j: leases.finish(j, 1, outcome, replica.time))).job


async def test_expiry_is_sent_until_storage_confirms(replica):
    """Artifacts of a succeeded job are kept as long as the job, even if storage was unavailable."""
    storage = FakeStorage()
    sync = ArtifactExpirySync(replica.store, storage, replica.now)
    job = await succeed(replica, await replica.add(ttl=timedelta(days=2)))
    storage.unavailable = True
    await sync.step()
    storage.unavailable = False
    await sync.step()
    assert not storage.kept
    replica.time += timedelta(minutes=1)
    await sync.step()
    assert storage.kept == {"artifacts/1": START + timedelta(days=2)}
    assert (await replica.store.get(job.id)).confirm_time is None


async def test_one_call_finds_out_that_storage_is_unavailable(replica):
    """While storage is unavailable it is called once per step, not once per ended job."""
    storage = FakeStorage()
    sync = ArtifactExpirySync(replica.store, storage, replica.now)
    for _ in range(3):
        await succeed(replica, await replica.add())
    storage.unavailable = True
    assert not await sync.step()
    assert storage.calls == 1
    storage.unavailable = False
    await sync.step()
    assert storage.calls == 3


async def test_deleted_job_is_purged(replica):
    """A deleted job's artifacts and then its row are removed, once its worker has finished."""
    storage = FakeStorage()
    sync = ArtifactExpirySync(replica.store, storage, replica.now)
    done = await succeed(replica, await replica.add())
    running = await replica.claim((await replica.add()).id)
    for job in (done, running):
        await replica.store.change(job.id, lambda j: queue_transitions.delete(j, replica.time))
    await sync.step()
    assert storage.deleted == ["artifacts/1"]
    with pytest.raises(NotFound):
        await replica.store.change(done.id, lambda j: queue_transitions.delete(j, replica.time))
    cancelled = leases.Outcome(result=leases.Cancelled())
    await replica.store.change(running.id, lambda j: leases.finish(j, 1, cancelled, replica.time))
    replica.time += timedelta(minutes=1)
    await sync.step()
    with pytest.raises(NotFound):
        await replica.store.change(running.id, lambda j: queue_transitions.delete(j, replica.time))


async def test_swallowed_cancellation_still_ends_the_loop(replica):
    """A library that swallows a cancellation within a step does not keep the replica from exiting."""
    stepping = asyncio.Event()

    async def step() -> bool:
        stepping.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return False

    loop = Loop("dispatcher", step, interval=60)
    running = asyncio.create_task(
        LoopRunner(loop, Leadership(replica.store, loop.name, "replica", replica.now)).run()
    )
    await stepping.wait()
    running.cancel()
    async with asyncio.timeout(TIMEOUT):
        await asyncio.wait([running])
    assert await replica.store.acquire_leadership(loop.name, "another", replica.now(), LEADERSHIP)


async def test_single_job_is_dispatched_at_once(replica):
    """The first wakeups after an idle time each get a step at once."""
    async with _running_loop(replica) as (wakeup, steps):
        await asyncio.sleep(0.6)
        started = asyncio.get_running_loop().time()
        for _ in range(4):
            wakeup.set()
            async with asyncio.timeout(TIMEOUT):
                await steps.get()
        assert asyncio.get_running_loop().time() - started < 0.2


async def test_claims_wake_the_dispatcher_only_if_jobs_wait(replica):
    """A claim wakes the dispatcher only where jobs wait for a free place; a new job always does."""
    replica.dispatcher = Dispatcher(replica.store, replica.bus, replica.now, LEASE, hub=replica.hub)
    job = await replica.add()
    for blocked in (False, True):
        await replica.dispatcher.step()
        assert replica.hub.dispatch_blocked is blocked
        replica.hub.dispatch_wakeup.clear()
        replica.hub.publish_row_change(job.id, 2, ready=False)
        assert replica.hub.dispatch_wakeup.is_set() is blocked
        for _ in range(30):
            await replica.add()
    replica.hub.dispatch_blocked = False
    replica.hub.dispatch_wakeup.clear()
    replica.hub.publish_row_change(job.id, 3)
    assert replica.hub.dispatch_wakeup.is_set()


async def test_steps_under_load_share_wakeups(replica):
    """Wakeups that never pause share one step every tenth of a second."""
    async with _running_loop(replica) as (wakeup, steps):
        end = asyncio.get_running_loop().time() + 1
        while asyncio.get_running_loop().time() < end:
            wakeup.set()
            await asyncio.sleep(0.002)
        assert steps.qsize() <= 17


async def test_long_backlog_does_not_delay_the_next_wakeup(replica):
    """After many steps in a row because there was more to do, the next wakeup gets its step as usual."""
    async with _running_loop(replica, more=30) as (wakeup, steps):
        for _ in range(30):
            await steps.get()
        wakeup.set()
        async with asyncio.timeout(20):
            await steps.get()


@asynccontextmanager
async def _running_loop(
    replica: Replica, more: int = 0
) -> AsyncIterator[tuple[asyncio.Event, asyncio.Queue[None]]]:
    """Run a loop; yield its wakeup, and a queue that gets an item for each step after the first.

    *more*: how many further steps ask for another one.
    """
    wakeup, steps = asyncio.Event(), asyncio.Queue[None]()
    left = more

    async def step() -> bool:
        nonlocal left
        left -= 1
        steps.put_nowait(None)
        return left >= 0

    loop = Loop("dispatcher", step, 60, wakeup)
    running = asyncio.create_task(
        LoopRunner(loop, Leadership(replica.store, loop.name, "replica", replica.now)).run()
    )
    try:
        await steps.get()
        yield wakeup, steps
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_clock_is_put_back(replica: Replica):
    """When a clock that was ahead is put back, no lease, item or retry waits until it is there again."""
    retry = RetryPolicy(max_backoff=timedelta(seconds=60))
    published, leased, waiting = await replica.add(), await replica.add(), await replica.add(retry=retry)
    scheduled = await replica.add(schedule_time=START + timedelta(days=1))
    replica.time = START + timedelta(hours=1)
    await replica.dispatcher.step()
    await replica.claim(leased.id)
    await replica.store.change(
        waiting.id,
        lambda job: Transition(
            before=job,
            job=job.replace_fields(
                revision=job.revision + 1,
                state=State.RETRYING,
                queue_stage=QueueStage.LATER,
                due=replica.time + timedelta(seconds=50),
            ),
        ),
    )
    await replica.reaper.step()
    replica.time = START
    await replica.reaper.step()
    due = {job.id: (await replica.store.get(job.id)).due for job in (published, leased, waiting)}
    assert due == {
        published.id: START + 2 * LEASE,
        leased.id: START + LEASE,
        waiting.id: START + timedelta(seconds=60),
    }
    assert (await replica.store.get(scheduled.id)).due == START + timedelta(days=1), "its caller chose it"
    await replica.advance(2 * LEASE)
    assert (await replica.store.get(leased.id)).attempt == 2, "its worker did not renew"
