"""Watches on SQLite and a fake bus: what a slow, late or returning watcher sees."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.jobs.conftest import TIMEOUT

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.job import Event
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.watch import Heartbeat, Pace, Snapshot
from reelhaul_jobs.ports.bus import ProgressNotice
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_jobs.service.watch import limits
from reelhaul_jobs.service.watch.job_stream import JobStreams
from reelhaul_jobs.service.watch.resume_tokens import ResumeTokens
from reelhaul_jobs.service.watch.watched_jobs import WatchedJobs
from reelhaul_runtime.errors import NotFound, ReelhaulError, Unavailable

FAST = Pace(progress=0.001, heartbeat=60)


@pytest.fixture
def watches(replica) -> JobStreams:
    tokens = ResumeTokens(b"k" * 32)
    return JobStreams(
        WatchedJobs(replica.store, replica.bus, replica.hub, tokens, replica.now),
        replica.hub,
        tokens,
        replica.now,
    )


async def move(replica, job_id, rule):
    change = await replica.store.change(job_id, rule)
    await ChangeNotifier(replica.hub, replica.bus).notify(change)
    return change.job


async def first_of(stream):
    """The first message of a watch that is left then."""
    message = await anext(stream)
    await stream.aclose()
    return message


def notice(job_id: str, sequence: int, epoch: int = 1) -> ProgressNotice:
    return ProgressNotice(job_id, epoch, sequence, media_pb2.Progress(percent=sequence))


async def test_slow_watcher_sees_the_newest_progress(replica, watches):
    """A watcher that reads late gets the newest progress only, and how much it missed."""
    job = await replica.add()
    await replica.claim(job.id)
    stream = aiter(watches.watch(job.id, None, "", FAST))
    await anext(stream)
    for sequence in range(1, 31):
        replica.hub.publish_progress(notice(job.id, sequence))
    message = await anext(stream)
    assert (message.body.percent, message.conflated) == (30, 29)
    replica.hub.publish_progress(notice(job.id, 12))
    replica.hub.publish_progress(notice(job.id, 31))
    assert (await anext(stream)).body.percent == 31
    await stream.aclose()


async def test_late_watcher_is_told_how_far_it_is(replica, watches):
    """The first snapshot holds the newest progress that the bus has, if it is of this lease."""
    job = await replica.add()
    await replica.claim(job.id)
    replica.bus.notices[job.id] = notice(job.id, 44)
    first = await first_of(watches.watch(job.id, None, "", FAST))
    assert first.body.job.progress.percent == 44
    replica.bus.notices[job.id] = notice(job.id, 55, epoch=9)
    first = await first_of(watches.watch(job.id, None, "", FAST))
    assert first.body.job.progress is None


async def test_states_are_never_dropped(replica, watches):
    """A watcher that reads nothing for a while gets every state all the same."""
    job = await replica.add()
    stream = aiter(watches.watch(job.id, None, "", FAST))
    await anext(stream)
    released = leases.Outcome(result=leases.Released())
    for epoch in range(1, 11):
        await replica.claim(job.id)
        await move(replica, job.id, lambda j, e=epoch: leases.finish(j, e, released, replica.time))
    await move(replica, job.id, lambda j: queue_transitions.cancel(j, replica.time))
    messages = [message async for message in stream]
    states = [message.body.state for message in messages if isinstance(message.body, Event)]
    assert states == [State.RUNNING, State.QUEUED] * 10 + [State.CANCELLED]
    assert messages[-1].body.terminal


async def test_too_far_behind_is_a_reset(replica, watches):
    """More changes than a watcher may have waiting become one snapshot that says reset."""
    job = await replica.add()
    stream = aiter(watches.watch(job.id, None, "", FAST))
    await anext(stream)
    released = leases.Outcome(result=leases.Released())
    for epoch in range(1, 40):
        await replica.claim(job.id)
        await move(replica, job.id, lambda j, e=epoch: leases.finish(j, e, released, replica.time))
    message = await anext(stream)
    assert message.body.reset
    assert message.body.job.state is State.QUEUED
    await stream.aclose()


async def test_old_position_is_a_reset(replica, watches):
    """Who comes back after the events are gone starts anew, with a snapshot that says so."""
    job = await replica.add()
    first = await first_of(watches.watch(job.id, None, "", FAST))
    replica.time += timedelta(hours=25)
    again = await first_of(watches.watch(job.id, None, first.resume_token, FAST))
    assert isinstance(again.body, Snapshot)
    assert again.body.reset


async def test_lost_notice(replica, watches, monkeypatch):
    """A change that nobody told of is found by reading again."""
    monkeypatch.setattr(limits, "REREAD_SECONDS", 0.05)
    job = await replica.add()
    stream = aiter(watches.watch(job.id, None, "", FAST))
    await anext(stream)
    await replica.store.change(job.id, lambda j: queue_transitions.cancel(j, replica.time))
    async with asyncio.timeout(TIMEOUT):
        rest = [message.body async for message in stream]
    assert [body.state for body in rest if isinstance(body, Event)] == [State.CANCELLED]


async def test_deleted_job_says_a_last_word(replica, watches):
    """Watchers of a deleted job get a terminal snapshot."""
    job = await replica.add()
    stream = aiter(watches.watch(job.id, None, "", FAST))
    await anext(stream)
    await move(replica, job.id, lambda j: queue_transitions.delete(j, replica.time))
    async with asyncio.timeout(TIMEOUT):
        rest = [message async for message in stream]
    assert rest[-1].body.terminal
    assert rest[-1].body.job.state is State.CANCELLED


async def test_other_tenants_job(replica, watches):
    """Another tenant's job cannot be watched: it is not there."""
    job = await replica.add()
    with pytest.raises(NotFound):
        await first_of(watches.watch(job.id, "other", "", FAST))


async def test_heartbeat_repeats_the_position(replica, watches):
    """In silence a heartbeat comes, with a token to resume from."""
    job = await replica.add()
    stream = aiter(watches.watch(job.id, None, "", replace(FAST, heartbeat=0.05)))
    first, second = await anext(stream), await anext(stream)
    assert isinstance(second.body, Heartbeat)
    assert second.sequence == first.sequence
    await stream.aclose()
    resumed = aiter(watches.watch(job.id, None, second.resume_token, replace(FAST, heartbeat=0.05)))
    assert isinstance((await anext(resumed)).body, Heartbeat)
    await resumed.aclose()


async def test_closed_hub_takes_nobody(replica, watches):
    """A draining server takes no new watchers."""
    job = await replica.add()
    replica.hub.close()
    with pytest.raises(ReelhaulError):
        await first_of(watches.watch(job.id, None, "", FAST))


async def test_many_watchers_in_bounded_memory(replica, watches):
    """500 watchers that do not read hold next to nothing, however much happens."""
    job = await replica.add()
    await replica.claim(job.id)
    streams = [watches.watch(job.id, None, "", FAST) for _ in range(500)]
    for stream in streams:
        await anext(stream)
    tracemalloc.start()
    try:
        for sequence in range(1, 3001):
            replica.hub.publish_progress(notice(job.id, sequence))
            if sequence % 100 == 0:
                await asyncio.sleep(0)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 500 * 1024
    for stream in streams:
        assert (await anext(stream)).body.percent == 3000
        await stream.aclose()


async def test_watchers_share_one_reading(replica, watches):
    """However many watch a job, a change is read once for all of them."""
    job = await replica.add()
    streams = [watches.watch(job.id, None, "", FAST) for _ in range(50)]
    for stream in streams:
        await anext(stream)
    reads, get = [], replica.store.get

    async def counted(job_id):
        reads.append(job_id)
        return await get(job_id)

    replica.store.get = counted
    waiting = [asyncio.create_task(anext(stream)) for stream in streams]
    await asyncio.sleep(0)
    await move(replica, job.id, lambda j: queue_transitions.cancel(j, replica.time))
    changes = await asyncio.gather(*waiting)
    assert {message.body.state for message in changes} == {State.CANCELLED}
    assert len(reads) == 1
    for stream in streams:
        await stream.aclose()


async def test_database_away(replica, watches, monkeypatch):
    """A watch lives through a database that is away: what happened is told when it is back."""
    monkeypatch.setattr(limits, "REREAD_SECONDS", 0.05)
    job = await replica.add()
    stream = watches.watch(job.id, None, "", FAST)
    await anext(stream)
    get, away = replica.store.get, asyncio.Event()

    async def failing(job_id):
        away.set()
        raise Unavailable("jobs.database", "away")

    replica.store.get = failing
    waiting = asyncio.create_task(anext(stream))
    await move(replica, job.id, lambda j: queue_transitions.cancel(j, replica.time))
    await away.wait()
    replica.store.get = get
    async with asyncio.timeout(TIMEOUT):
        assert (await waiting).body.state is State.CANCELLED
    await stream.aclose()


async def test_retried_while_nobody_looked(replica, watches):
    """A job that ended and was retried before its watcher read on goes on: the end was none."""
    job = await replica.add()
    stream = watches.watch(job.id, None, "", FAST)
    await anext(stream)
    # Notices follow both changes, so that the first reading finds both.
    changes = [
        await replica.store.change(job.id, lambda j: queue_transitions.cancel(j, replica.time)),
        await replica.store.change(job.id, lambda j: queue_transitions.retry(j, replica.time)),
    ]
    for change in changes:
        await ChangeNotifier(replica.hub, replica.bus).notify(change)
    states = [(await anext(stream)).body.state for _ in range(2)]
    assert states == [State.CANCELLED, State.QUEUED]
    await stream.aclose()


async def test_early_progress_does_not_wait(replica, watches, monkeypatch):
    """What comes at a watcher's very pace is told as it comes, jitter and all; more than that is not told."""
    loop, late = asyncio.get_running_loop(), [0.0]
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + late[0], raising=False)
    job = await replica.add()
    await replica.claim(job.id)
    stream = watches.watch(job.id, None, "", Pace(progress=100, heartbeat=600))
    await anext(stream)
    told = []
    for sequence, seconds in enumerate((0, 85, 115, 85, 100), start=1):
        late[0] += seconds
        replica.hub.publish_progress(notice(job.id, sequence))
        async with asyncio.timeout(5):
            told.append((await anext(stream)).sequence & 0xFFFF)
    assert told == [1, 2, 3, 4, 5]
    waiting = asyncio.create_task(anext(stream))
    late[0] += 70
    replica.hub.publish_progress(notice(job.id, 6))
    assert not (await asyncio.wait([waiting], timeout=0.05))[0]
    late[0] += 30
    replica.hub.publish_progress(notice(job.id, 7))
    async with asyncio.timeout(5):
        assert (await waiting).sequence & 0xFFFF == 7
    await stream.aclose()


async def test_watchers_late_turn(replica, watches, monkeypatch):
    """A watcher whose turn came late is told the next progress when that comes, as all others are."""
    loop, late = asyncio.get_running_loop(), [0.0]
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + late[0], raising=False)
    job = await replica.add()
    await replica.claim(job.id)
    stream = watches.watch(job.id, None, "", Pace(progress=100, heartbeat=600))
    await anext(stream)
    replica.hub.publish_progress(notice(job.id, 1))
    late[0] += 60
    assert (await anext(stream)).sequence & 0xFFFF == 1
    late[0] += 40
    replica.hub.publish_progress(notice(job.id, 2))
    async with asyncio.timeout(5):
        assert (await anext(stream)).sequence & 0xFFFF == 2
    await stream.aclose()


async def test_crowd_leaves_others_their_turn(replica, watches):
    """Who watches the same job is told a few at a time, and a change amid that reaches all of them too."""
    job = await replica.add()
    await replica.claim(job.id)
    streams = [watches.watch(job.id, None, "", FAST) for _ in range(500)]
    for stream in streams:
        await anext(stream)
    told = list[int]()

    async def listen(stream):
        async for message in stream:
            told.append(message.sequence)
            if isinstance(message.body, Event):
                return

    listening = [asyncio.create_task(listen(stream)) for stream in streams]
    await asyncio.sleep(0)
    replica.hub.publish_progress(notice(job.id, 1))
    for _ in range(3):
        await asyncio.sleep(0)
    assert 0 < len(told) < 250
    await move(replica, job.id, lambda j: queue_transitions.cancel(j, replica.time))
    async with asyncio.timeout(10):
        await asyncio.gather(*listening)
    for stream in streams:
        await stream.aclose()
