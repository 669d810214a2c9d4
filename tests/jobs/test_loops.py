"""The loops, a step at a time, on SQLite and a fake bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import pytest
from tests.jobs.conftest import TIMEOUT
from tests.jobs.replica import LEASE, START, Replica

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import Priority, QueueStage, State
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.dispatcher import Dispatcher
from reelhaul_jobs.service.loop_runner import LEADERSHIP, Leadership, Loop, LoopRunner
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_jobs.service.reaper import Reaper
from reelhaul_runtime.errors import NotFound, Unavailable


async def test_window_is_bounded(replica):
    """However long the backlog, the broker holds no more than the window; the rest follows."""
    jobs = [await replica.add() for _ in range(30)]
    await replica.dispatcher.step()
    await replica.dispatcher.step()
    assert len(replica.bus.items) == 4
    for item in replica.bus.items[:3]:
        await replica.claim(item.id)
    await replica.dispatcher.step()
    assert [item.id for item in replica.bus.items] == [job.id for job in jobs[:7]]


async def test_window_follows_slots(replica):
    """More live slots, more items in the broker."""
    await replica.store.record_worker_heartbeat("w1", 10, replica.time)
    for _ in range(50):
        await replica.add()
    while await replica.dispatcher.step():
        pass
    assert len(replica.bus.items) == 5


async def test_other_tenants_first_job(replica):
    """A tenant's first job is among the next, whatever another has queued before."""
    for _ in range(100):
        await replica.add("big")
    await replica.dispatcher.step()
    first = await replica.add("small")
    for item in list(replica.bus.items):
        await replica.claim(item.id)
    await replica.dispatcher.step()
    assert replica.bus.items[4].id == first.id


async def test_priority_within_a_tenant(replica):
    """HIGH goes first among a tenant's own jobs, not before other tenants'."""
    await replica.add(priority=Priority.LOW)
    await replica.add("other")
    high = await replica.add(priority=Priority.HIGH)
    await replica.dispatcher.step()
    assert replica.bus.items[0].id == high.id
    assert {item.tenant for item in replica.bus.items[:2]} == {"acme", "other"}


async def test_broker_away_keeps_jobs_ready(replica):
    """What the broker did not take is offered again."""
    job = await replica.add()
    replica.bus.away = True
    assert not await replica.dispatcher.step()
    replica.bus.away = False
    await replica.dispatcher.step()
    assert [item.id for item in replica.bus.items] == [job.id]


async def test_scheduled_job_waits(replica):
    """A job is not published before its schedule_time, and is when that has come."""
    job = await replica.add(schedule_time=START + timedelta(hours=1))
    await replica.sweeper.step()
    await replica.dispatcher.step()
    assert not replica.bus.items
    replica.time += timedelta(hours=1)
    await replica.sweeper.step()
    await replica.dispatcher.step()
    assert [item.id for item in replica.bus.items] == [job.id]


async def test_lapsed_lease(replica):
    """A job whose worker went silent is queued as its next attempt; watchers are told."""
    job = await replica.add()
    await replica.claim(job.id)
    replica.time += LEASE
    await replica.sweeper.step()
    assert (await replica.store.get(job.id)).state is State.RUNNING
    replica.time += LEASE
    await replica.sweeper.step()
    after = await replica.store.get(job.id)
    assert (after.state, after.attempt, after.queue_stage) == (State.QUEUED, 2, QueueStage.READY)
    assert replica.bus.changes[-1] == after


async def test_patience_after_a_restart(replica):
    """Right after a start no lease lapses: workers could not renew while nobody answered."""
    job = await replica.add()
    await replica.claim(job.id)
    replica.time += timedelta(minutes=5)
    news = ChangeNotifier(replica.hub, replica.bus)
    restarted = Reaper(replica.store, replica.store, replica.bus, news, replica.now, LEASE)
    await restarted.step()
    assert (await replica.store.get(job.id)).state is State.RUNNING


async def test_patience_after_an_absence(replica):
    """Nor where the service was stopped meanwhile, or its database away; but not for ever."""
    job = await replica.add()
    await replica.claim(job.id)
    await replica.sweeper.step()
    replica.time += timedelta(minutes=5)
    await replica.sweeper.step()
    assert (await replica.store.get(job.id)).state is State.RUNNING
    await replica.let_pass(LEASE / 2)
    assert (await replica.store.get(job.id)).state is State.QUEUED


async def test_slow_loop_is_no_absence(replica):
    """A sweeper whose every step comes late still takes jobs back from dead workers."""
    job = await replica.add()
    await replica.claim(job.id)
    for _ in range(2):
        replica.time += 2 * LEASE
        await replica.sweeper.step()
    assert (await replica.store.get(job.id)).state is State.QUEUED


async def test_worker_that_always_dies(replica):
    """A job that kills its workers ends FAILED with WORKER_LOST, not never."""
    job = await replica.add()
    for _ in range(3):
        await replica.claim(job.id)
        await replica.let_pass(2 * LEASE)
    after = await replica.store.get(job.id)
    assert after.state is State.FAILED
    assert "went silent" in after.error.message


async def test_lapsed_cancel(replica):
    """A job whose worker vanished while it was to stop is CANCELLED."""
    job = await replica.add()
    await replica.claim(job.id)
    await replica.store.change(job.id, lambda j: queue_transitions.cancel(j, replica.time))
    await replica.let_pass(2 * LEASE)
    assert (await replica.store.get(job.id)).state is State.CANCELLED


async def test_work_stream_made_anew(replica):
    """What was in a lost work stream is published again, as new attempts."""
    jobs = [await replica.add() for _ in range(3)]
    await replica.dispatcher.step()
    replica.bus.items.clear()
    replica.bus.fresh = True
    await replica.sweeper.step()
    await replica.dispatcher.step()
    assert sorted((item.id, item.attempt) for item in replica.bus.items) == [(job.id, 2) for job in jobs]


async def test_one_item_lost(replica):
    """An item that vanished is found missing by count and published again."""
    await replica.add()
    job = await replica.add()
    await replica.dispatcher.step()
    del replica.bus.items[1]
    replica.time += timedelta(minutes=2)
    await replica.sweeper.step()
    await replica.dispatcher.step()
    assert (job.id, 2) in [(item.id, item.attempt) for item in replica.bus.items]


async def test_busy_workers_lose_nothing(replica):
    """Items that wait long for busy workers are not published twice."""
    await replica.add()
    await replica.dispatcher.step()
    for _ in range(5):
        replica.time += timedelta(minutes=5)
        await replica.sweeper.step()
        await replica.dispatcher.step()
    assert len(replica.bus.items) == 1


class Shelf:
    """A Storage that remembers, and that can be away."""

    def __init__(self) -> None:
        self.kept: dict[str, datetime] = {}
        self.deleted: list[str] = []
        self.away = False
        self.asked = 0

    async def set_expire_time(self, artifact: str, expire_time: datetime) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("storage", "away")
        self.kept[artifact] = expire_time

    async def delete_artifacts(self, artifacts: Sequence[str]) -> None:
        if self.away:
            raise Unavailable("storage", "away")
        self.deleted += artifacts


async def succeed(replica: Replica, job: Job) -> Job:
    await replica.claim(job.id)
    result = leases.Succeeded(
        media=media_pb2.MediaInfo(), artifacts=(media_pb2.ArtifactInfo(name="artifacts/1"),)
    )
    outcome = leases.Outcome(result=result)
    return (await replica.store.change(job.id, lambda j: leases.finish(j, 1, outcome, replica.time))).job


async def test_storage_is_told_until_it_knows(replica):
    """Artifacts of a job that succeeded are kept as long as the job, even if storage was away."""
    shelf = Shelf()
    confirmer = ArtifactExpirySync(replica.store, shelf, replica.now)
    job = await succeed(replica, await replica.add(ttl=timedelta(days=2)))
    shelf.away = True
    await confirmer.step()
    shelf.away = False
    await confirmer.step()
    assert not shelf.kept
    replica.time += timedelta(minutes=1)
    await confirmer.step()
    assert shelf.kept == {"artifacts/1": START + timedelta(days=2)}
    assert (await replica.store.get(job.id)).confirm_time is None


async def test_one_job_finds_out_that_storage_is_away(replica):
    """While storage is away it is asked once a step, not once for each job that has ended."""
    shelf = Shelf()
    confirmer = ArtifactExpirySync(replica.store, shelf, replica.now)
    for _ in range(3):
        await succeed(replica, await replica.add())
    shelf.away = True
    assert not await confirmer.step()
    assert shelf.asked == 1
    shelf.away = False
    await confirmer.step()
    assert shelf.asked == 3


async def test_deleted_job_is_purged(replica):
    """A deleted job's artifacts go, then its row; not before its worker let go."""
    shelf = Shelf()
    confirmer = ArtifactExpirySync(replica.store, shelf, replica.now)
    done = await succeed(replica, await replica.add())
    running = await replica.claim((await replica.add()).id)
    for job in (done, running):
        await replica.store.change(job.id, lambda j: queue_transitions.delete(j, replica.time))
    await confirmer.step()
    assert shelf.deleted == ["artifacts/1"]
    with pytest.raises(NotFound):
        await replica.store.change(done.id, lambda j: queue_transitions.delete(j, replica.time))
    cancelled = leases.Outcome(result=leases.Cancelled())
    await replica.store.change(running.id, lambda j: leases.finish(j, 1, cancelled, replica.time))
    replica.time += timedelta(minutes=1)
    await confirmer.step()
    with pytest.raises(NotFound):
        await replica.store.change(running.id, lambda j: queue_transitions.delete(j, replica.time))


async def test_a_swallowed_cancellation_still_ends_the_loop(replica):
    """A library that swallows a cancellation in the midst of a step keeps no replica from leaving."""
    stepping = asyncio.Event()

    async def step() -> bool:
        stepping.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return False

    loop = Loop("dispatcher", step, interval=60)
    turning = asyncio.create_task(
        LoopRunner(loop, Leadership(replica.store, loop.name, "replica", replica.now)).run()
    )
    await stepping.wait()
    turning.cancel()
    async with asyncio.timeout(TIMEOUT):
        await asyncio.wait([turning])
    assert await replica.store.acquire_leadership(loop.name, "another", replica.now(), LEADERSHIP)


async def test_a_lone_job_waits_for_no_company(replica):
    """Who rings after a quiet while is served at once, and so are those who ring right after him."""
    async with _rung(replica) as (bell, steps):
        await asyncio.sleep(0.6)
        begun = asyncio.get_running_loop().time()
        for _ in range(4):
            bell.set()
            async with asyncio.timeout(TIMEOUT):
                await steps.get()
        assert asyncio.get_running_loop().time() - begun < 0.2


async def test_what_makes_room_rings_only_if_room_is_wanted(replica):
    """A claim asks for the next dispatch where jobs wait for room; a new job asks for it always."""
    replica.dispatcher = Dispatcher(replica.store, replica.bus, replica.now, LEASE, hub=replica.hub)
    job = await replica.add()
    for crowded in (False, True):
        await replica.dispatcher.step()
        assert replica.hub.dispatch_blocked is crowded
        replica.hub.dispatch_wakeup.clear()
        replica.hub.publish_row_change(job.id, 2, ready=False)
        assert replica.hub.dispatch_wakeup.is_set() is crowded
        for _ in range(30):
            await replica.add()
    replica.hub.dispatch_blocked = False
    replica.hub.dispatch_wakeup.clear()
    replica.hub.publish_row_change(job.id, 3)
    assert replica.hub.dispatch_wakeup.is_set()


async def test_steps_under_load_are_few(replica):
    """While the bell never stops, what it rings for shares a step every tenth of a second."""
    async with _rung(replica) as (bell, steps):
        end = asyncio.get_running_loop().time() + 1
        while asyncio.get_running_loop().time() < end:
            bell.set()
            await asyncio.sleep(0.002)
        assert steps.qsize() <= 17


async def test_a_long_backlog_leaves_no_debt(replica):
    """Steps that had more to do follow fast; who rings after the last of them is served as ever."""
    async with _rung(replica, more=30) as (bell, steps):
        for _ in range(30):
            await steps.get()
        bell.set()
        async with asyncio.timeout(1):
            await steps.get()


@asynccontextmanager
async def _rung(replica: Replica, more: int = 0) -> AsyncIterator[tuple[asyncio.Event, asyncio.Queue[None]]]:
    """A loop that has done its first step, its bell, and a queue that gets an item for each further step.

    So many steps after the first one follow by themselves, as there is *more* to do.
    """
    bell, steps = asyncio.Event(), asyncio.Queue[None]()
    left = more

    async def step() -> bool:
        nonlocal left
        left -= 1
        steps.put_nowait(None)
        return left >= 0

    loop = Loop("dispatcher", step, 60, bell)
    turning = asyncio.create_task(
        LoopRunner(loop, Leadership(replica.store, loop.name, "replica", replica.now)).run()
    )
    try:
        await steps.get()
        yield bell, steps
    finally:
        turning.cancel()
        await asyncio.wait([turning])
