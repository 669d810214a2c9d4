"""The loops, a step at a time, over the twins in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.jobs.conftest import PATIENCE

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.memory.bus import MemoryBus
from reelhaul_jobs.memory.store import MemoryStore
from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import Priority, QueueStage, State
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.dispatcher import Dispatcher
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.loop_runner import LEADING, Leader, Loop, run
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_jobs.service.reaper import Reaper
from reelhaul_runtime.errors import NotFound, Unavailable

START = datetime(2030, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=30)


class House:
    """The loops of one replica, and a clock that the test turns."""

    def __init__(self) -> None:
        self.time = START
        self.store, self.bus, self.hub = MemoryStore(), MemoryBus(), EventHub()
        self.dispatcher = Dispatcher(self.store, self.bus, self.now, LEASE)
        news = ChangeNotifier(self.hub, self.bus)
        self.sweeper = Reaper(self.store, self.store, self.bus, news, self.now, LEASE)
        self.made = 0

    def now(self) -> datetime:
        return self.time

    async def add(self, tenant: str = "acme", **fields: object) -> Job:
        self.made += 1
        plain = Job(
            id=f"{tenant}-{self.made:04}",
            tenant=tenant,
            url="https://videos.example/1",
            format=media_pb2.FormatSpec(),
            create_time=self.time,
            update_time=self.time,
        )
        job = queue_transitions.admitted(replace(plain, **fields))  # type: ignore[arg-type]
        await self.store.add([job])
        return job

    async def claim(self, job_id: str) -> Job:
        attempt = (await self.store.get(job_id)).attempt
        asked = leases.Claim(attempt=attempt, worker="w", request_id="r", engine_version="", lease=LEASE)
        return (await self.store.change(job_id, lambda job: leases.claimed(job, asked, self.time))).job

    async def let_pass(self, span: timedelta) -> None:
        """Time, with the sweeper at work."""
        end = self.time + span
        while self.time < end:
            self.time = min(end, self.time + timedelta(seconds=5))
            await self.sweeper.step()


@pytest.fixture
def house() -> House:
    return House()


async def test_window_is_bounded(house):
    """However long the backlog, the broker holds no more than the window; the rest follows."""
    jobs = [await house.add() for _ in range(30)]
    await house.dispatcher.step()
    await house.dispatcher.step()
    assert len(house.bus.items) == 4
    for item in house.bus.items[:3]:
        await house.claim(item.id)
    await house.dispatcher.step()
    assert [item.id for item in house.bus.items] == [job.id for job in jobs[:7]]


async def test_window_follows_slots(house):
    """More live slots, more items in the broker."""
    await house.store.record_worker_heartbeat("w1", 10, house.time)
    for _ in range(50):
        await house.add()
    while await house.dispatcher.step():
        pass
    assert len(house.bus.items) == 5


async def test_other_tenants_first_job(house):
    """A tenant's first job is among the next, whatever another has queued before."""
    for _ in range(100):
        await house.add("big")
    await house.dispatcher.step()
    first = await house.add("small")
    for item in list(house.bus.items):
        await house.claim(item.id)
    await house.dispatcher.step()
    assert house.bus.items[4].id == first.id


async def test_priority_within_a_tenant(house):
    """HIGH goes first among a tenant's own jobs, not before other tenants'."""
    await house.add(priority=Priority.LOW)
    await house.add("other")
    high = await house.add(priority=Priority.HIGH)
    await house.dispatcher.step()
    assert house.bus.items[0].id == high.id
    assert {item.tenant for item in house.bus.items[:2]} == {"acme", "other"}


async def test_broker_away_keeps_jobs_ready(house):
    """What the broker did not take is offered again."""
    job = await house.add()
    house.bus.away = True
    assert not await house.dispatcher.step()
    house.bus.away = False
    await house.dispatcher.step()
    assert [item.id for item in house.bus.items] == [job.id]


async def test_scheduled_job_waits(house):
    """A job is not published before its schedule_time, and is when that has come."""
    job = await house.add(schedule_time=START + timedelta(hours=1))
    await house.sweeper.step()
    await house.dispatcher.step()
    assert not house.bus.items
    house.time += timedelta(hours=1)
    await house.sweeper.step()
    await house.dispatcher.step()
    assert [item.id for item in house.bus.items] == [job.id]


async def test_lapsed_lease(house):
    """A job whose worker went silent is queued as its next attempt; watchers are told."""
    job = await house.add()
    await house.claim(job.id)
    house.time += LEASE
    await house.sweeper.step()
    assert (await house.store.get(job.id)).state is State.RUNNING
    house.time += LEASE
    await house.sweeper.step()
    after = await house.store.get(job.id)
    assert (after.state, after.attempt, after.lane) == (State.QUEUED, 2, QueueStage.READY)
    assert house.bus.changes[-1] == after


async def test_patience_after_a_restart(house):
    """Right after a start no lease lapses: workers could not renew while nobody answered."""
    job = await house.add()
    await house.claim(job.id)
    house.time += timedelta(minutes=5)
    news = ChangeNotifier(house.hub, house.bus)
    restarted = Reaper(house.store, house.store, house.bus, news, house.now, LEASE)
    await restarted.step()
    assert (await house.store.get(job.id)).state is State.RUNNING


async def test_patience_after_an_absence(house):
    """Nor where the service was stopped meanwhile, or its database away; but not for ever."""
    job = await house.add()
    await house.claim(job.id)
    await house.sweeper.step()
    house.time += timedelta(minutes=5)
    await house.sweeper.step()
    assert (await house.store.get(job.id)).state is State.RUNNING
    await house.let_pass(LEASE / 2)
    assert (await house.store.get(job.id)).state is State.QUEUED


async def test_slow_loop_is_no_absence(house):
    """A sweeper whose every step comes late still takes jobs back from dead workers."""
    job = await house.add()
    await house.claim(job.id)
    for _ in range(2):
        house.time += 2 * LEASE
        await house.sweeper.step()
    assert (await house.store.get(job.id)).state is State.QUEUED


async def test_worker_that_always_dies(house):
    """A job that kills its workers ends FAILED with WORKER_LOST, not never."""
    job = await house.add()
    for _ in range(3):
        await house.claim(job.id)
        await house.let_pass(2 * LEASE)
    after = await house.store.get(job.id)
    assert after.state is State.FAILED
    assert "went silent" in after.error.message


async def test_lapsed_cancel(house):
    """A job whose worker vanished while it was to stop is CANCELLED."""
    job = await house.add()
    await house.claim(job.id)
    await house.store.change(job.id, lambda j: queue_transitions.cancelling(j, house.time))
    await house.let_pass(2 * LEASE)
    assert (await house.store.get(job.id)).state is State.CANCELLED


async def test_work_stream_made_anew(house):
    """What was in a lost work stream is published again, as new attempts."""
    jobs = [await house.add() for _ in range(3)]
    await house.dispatcher.step()
    house.bus.items.clear()
    house.bus.fresh = True
    await house.sweeper.step()
    await house.dispatcher.step()
    assert sorted((item.id, item.attempt) for item in house.bus.items) == [(job.id, 2) for job in jobs]


async def test_one_item_lost(house):
    """An item that vanished is found missing by count and published again."""
    await house.add()
    job = await house.add()
    await house.dispatcher.step()
    del house.bus.items[1]
    house.time += timedelta(minutes=2)
    await house.sweeper.step()
    await house.dispatcher.step()
    assert (job.id, 2) in [(item.id, item.attempt) for item in house.bus.items]


async def test_busy_workers_lose_nothing(house):
    """Items that wait long for busy workers are not published twice."""
    await house.add()
    await house.dispatcher.step()
    for _ in range(5):
        house.time += timedelta(minutes=5)
        await house.sweeper.step()
        await house.dispatcher.step()
    assert len(house.bus.items) == 1


class Shelf:
    """A Storage that remembers, and that can be away."""

    def __init__(self) -> None:
        self.kept: dict[str, datetime] = {}
        self.deleted: list[str] = []
        self.away = False
        self.asked = 0

    async def keep_until(self, artifact: str, expire_time: datetime) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("storage", "away")
        self.kept[artifact] = expire_time

    async def delete(self, artifacts: Sequence[str]) -> None:
        if self.away:
            raise Unavailable("storage", "away")
        self.deleted += artifacts


async def succeed(house: House, job: Job) -> Job:
    await house.claim(job.id)
    result = leases.Succeeded(
        media=media_pb2.MediaInfo(), artifacts=(media_pb2.ArtifactInfo(name="artifacts/1"),)
    )
    outcome = leases.Outcome(result=result)
    return (await house.store.change(job.id, lambda j: leases.finished(j, 1, outcome, house.time))).job


async def test_storage_is_told_until_it_knows(house):
    """Artifacts of a job that succeeded are kept as long as the job, even if storage was away."""
    shelf = Shelf()
    confirmer = ArtifactExpirySync(house.store, shelf, house.now)
    job = await succeed(house, await house.add(ttl=timedelta(days=2)))
    shelf.away = True
    await confirmer.step()
    shelf.away = False
    await confirmer.step()
    assert not shelf.kept
    house.time += timedelta(minutes=1)
    await confirmer.step()
    assert shelf.kept == {"artifacts/1": START + timedelta(days=2)}
    assert (await house.store.get(job.id)).confirm_time is None


async def test_one_job_finds_out_that_storage_is_away(house):
    """While storage is away it is asked once a step, not once for each job that has ended."""
    shelf = Shelf()
    confirmer = ArtifactExpirySync(house.store, shelf, house.now)
    for _ in range(3):
        await succeed(house, await house.add())
    shelf.away = True
    assert not await confirmer.step()
    assert shelf.asked == 1
    shelf.away = False
    await confirmer.step()
    assert shelf.asked == 3


async def test_deleted_job_is_purged(house):
    """A deleted job's artifacts go, then its row; not before its worker let go."""
    shelf = Shelf()
    confirmer = ArtifactExpirySync(house.store, shelf, house.now)
    done = await succeed(house, await house.add())
    running = await house.claim((await house.add()).id)
    for job in (done, running):
        await house.store.change(job.id, lambda j: queue_transitions.deleted(j, house.time))
    await confirmer.step()
    assert shelf.deleted == ["artifacts/1"]
    with pytest.raises(NotFound):
        await house.store.change(done.id, lambda j: queue_transitions.deleted(j, house.time))
    cancelled = leases.Outcome(result=leases.Cancelled())
    await house.store.change(running.id, lambda j: leases.finished(j, 1, cancelled, house.time))
    house.time += timedelta(minutes=1)
    await confirmer.step()
    with pytest.raises(NotFound):
        await house.store.change(running.id, lambda j: queue_transitions.deleted(j, house.time))


async def test_a_swallowed_cancellation_still_ends_the_loop(house):
    """A library that swallows a cancellation in the midst of a step keeps no replica from leaving."""
    stepping = asyncio.Event()

    async def step() -> bool:
        stepping.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return False

    loop = Loop("dispatcher", step, rest=60)
    turning = asyncio.create_task(run(loop, Leader(house.store, loop.name, "replica", house.now)))
    await stepping.wait()
    turning.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([turning])
    assert await house.store.acquire_leadership(loop.name, "another", house.now(), LEADING)


async def test_a_lone_job_waits_for_no_company(house):
    """Who rings after a quiet while is served at once, and so are those who ring right after him."""
    async with _rung(house) as (bell, steps):
        await asyncio.sleep(0.6)
        begun = asyncio.get_running_loop().time()
        for _ in range(4):
            bell.set()
            async with asyncio.timeout(PATIENCE):
                await steps.get()
        assert asyncio.get_running_loop().time() - begun < 0.2


async def test_what_makes_room_rings_only_if_room_is_wanted(house):
    """A claim asks for the next dispatch where jobs wait for room; a new job asks for it always."""
    house.dispatcher = Dispatcher(house.store, house.bus, house.now, LEASE, hub=house.hub)
    job = await house.add()
    for crowded in (False, True):
        await house.dispatcher.step()
        assert house.hub.dispatch_blocked is crowded
        house.hub.dispatch.clear()
        house.hub.row_changed(job.id, 2, ready=False)
        assert house.hub.dispatch.is_set() is crowded
        for _ in range(30):
            await house.add()
    house.hub.dispatch_blocked = False
    house.hub.dispatch.clear()
    house.hub.row_changed(job.id, 3)
    assert house.hub.dispatch.is_set()


async def test_steps_under_load_are_few(house):
    """While the bell never stops, what it rings for shares a step every tenth of a second."""
    async with _rung(house) as (bell, steps):
        end = asyncio.get_running_loop().time() + 1
        while asyncio.get_running_loop().time() < end:
            bell.set()
            await asyncio.sleep(0.002)
        assert steps.qsize() <= 17


async def test_a_long_backlog_leaves_no_debt(house):
    """Steps that had more to do follow fast; who rings after the last of them is served as ever."""
    async with _rung(house, more=30) as (bell, steps):
        for _ in range(30):
            await steps.get()
        bell.set()
        async with asyncio.timeout(1):
            await steps.get()


@asynccontextmanager
async def _rung(house: House, more: int = 0) -> AsyncIterator[tuple[asyncio.Event, asyncio.Queue[None]]]:
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
    turning = asyncio.create_task(run(loop, Leader(house.store, loop.name, "replica", house.now)))
    try:
        await steps.get()
        yield bell, steps
    finally:
        turning.cancel()
        await asyncio.wait([turning])
