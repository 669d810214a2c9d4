"""Watching one job, on SQLite and a fake bus: slow, offset and resuming watchers."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.jobs.conftest import TIMEOUT
from tests.jobs.replica import views_of

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import leases, queue_transitions, user_actions
from reelhaul_jobs.model.job import Event
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.model.watch import Heartbeat, Pace, Snapshot
from reelhaul_jobs.ports.bus import ProgressNotice
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.watch import limits
from reelhaul_jobs.service.watch.job_stream import JobStreams
from reelhaul_jobs.service.watch.resume_tokens import ResumeTokens
from reelhaul_jobs.service.watch.watched_jobs import WatchedJobs
from reelhaul_runtime.errors import NotFound, ReelhaulError, Unavailable

FAST = Pace(progress=0.001, heartbeat=60)


@pytest.fixture
def job_streams(replica) -> JobStreams:
    tokens = ResumeTokens(b"k" * 32)
    return JobStreams(
        WatchedJobs(replica.store, views_of(replica), replica.bus, replica.hub, tokens, replica.now),
        replica.hub,
        tokens,
        replica.now,
    )


async def change_job(replica, job_id, rule):
    change = await replica.store.change(job_id, rule)
    await ChangeNotifier(replica.hub, replica.bus).notify(change)
    return change.job


async def first_message(stream):
    """Return the first message of a watch, and close the watch."""
    message = await anext(stream)
    await stream.aclose()
    return message


def notice(job_id: str, sequence: int, epoch: int = 1) -> ProgressNotice:
    return ProgressNotice(job_id, epoch, sequence, media_pb2.Progress(percent=sequence))


async def test_slow_watcher_receives_the_latest_progress(replica, job_streams):
    """A watcher that reads offset receives only the latest progress, and how many updates it missed."""
    job = await replica.add()
    await replica.claim(job.id)
    stream = aiter(job_streams.watch(job.id, None, "", FAST))
    await anext(stream)
    for sequence in range(1, 31):
        replica.hub.publish_progress(notice(job.id, sequence))
    message = await anext(stream)
    assert (message.body.percent, message.conflated) == (30, 29)
    replica.hub.publish_progress(notice(job.id, 12))
    replica.hub.publish_progress(notice(job.id, 31))
    assert (await anext(stream)).body.percent == 31
    await stream.aclose()


async def test_first_snapshot_has_the_latest_progress(replica, job_streams):
    """The first snapshot contains the latest progress that the bus has, if it is of this lease."""
    job = await replica.add()
    await replica.claim(job.id)
    replica.bus.notices[job.id] = notice(job.id, 44)
    first = await first_message(job_streams.watch(job.id, None, "", FAST))
    assert first.body.job.progress.percent == 44
    replica.bus.notices[job.id] = notice(job.id, 55, epoch=9)
    first = await first_message(job_streams.watch(job.id, None, "", FAST))
    assert first.body.job.progress is None


async def test_states_are_never_dropped(replica, job_streams):
    """A watcher that reads nothing for a while still receives every state."""
    job = await replica.add()
    stream = aiter(job_streams.watch(job.id, None, "", FAST))
    await anext(stream)
    released = leases.Outcome(result=leases.Released())
    for epoch in range(1, 11):
        await replica.claim(job.id)
        await change_job(replica, job.id, lambda j, e=epoch: leases.finish(j, e, released, replica.time))
    await change_job(replica, job.id, lambda j: queue_transitions.cancel(j, replica.time))
    messages = [message async for message in stream]
    states = [message.body.state for message in messages if isinstance(message.body, Event)]
    assert states == [State.RUNNING, State.QUEUED] * 10 + [State.CANCELLED]
    assert messages[-1].body.terminal


async def test_too_far_behind_is_a_reset(replica, job_streams):
    """More state changes than are kept for watchers become one snapshot with reset."""
    job = await replica.add()
    stream = aiter(job_streams.watch(job.id, None, "", FAST))
    await anext(stream)
    released = leases.Outcome(result=leases.Released())
    for epoch in range(1, 40):
        await replica.claim(job.id)
        await change_job(replica, job.id, lambda j, e=epoch: leases.finish(j, e, released, replica.time))
    message = await anext(stream)
    assert message.body.reset
    assert message.body.job.state is State.QUEUED
    await stream.aclose()


async def test_old_position_is_a_reset(replica, job_streams):
    """A watcher that resumes after its events were purged starts with a snapshot with reset."""
    job = await replica.add()
    first = await first_message(job_streams.watch(job.id, None, "", FAST))
    replica.time += timedelta(hours=25)
    again = await first_message(job_streams.watch(job.id, None, first.resume_token, FAST))
    assert isinstance(again.body, Snapshot)
    assert again.body.reset


async def test_lost_notification(replica, job_streams, monkeypatch):
    """A change without a notification is found by reading the rows again."""
    monkeypatch.setattr(limits, "REREAD_SECONDS", 0.05)
    job = await replica.add()
    stream = aiter(job_streams.watch(job.id, None, "", FAST))
    await anext(stream)
    await replica.store.change(job.id, lambda j: queue_transitions.cancel(j, replica.time))
    async with asyncio.timeout(TIMEOUT):
        rest = [message.body async for message in stream]
    assert [body.state for body in rest if isinstance(body, Event)] == [State.CANCELLED]


async def test_deleted_job_ends_with_a_terminal_snapshot(replica, job_streams):
    """Watchers of a deleted job receive a terminal snapshot."""
    job = await replica.add()
    stream = aiter(job_streams.watch(job.id, None, "", FAST))
    await anext(stream)
    await change_job(replica, job.id, lambda j: queue_transitions.delete(j, replica.time))
    async with asyncio.timeout(TIMEOUT):
        rest = [message async for message in stream]
    assert rest[-1].body.terminal
    assert rest[-1].body.job.state is State.CANCELLED


async def cancelled_job(replica, job_streams):
    """Return a cancelled job and the messages that its watcher received."""
    job = await replica.add()
    stream = aiter(job_streams.watch(job.id, None, "", FAST))
    messages = [await anext(stream)]
    await change_job(replica, job.id, lambda j: queue_transitions.cancel(j, replica.time))
    return job.id, messages + [message async for message in stream]


def keep(job, now):
    return Transition(before=job, job=job)


def relabel(job, now):
    return user_actions.update(job, user_actions.Update(paths=frozenset({"labels"}), labels={"a": "b"}), now)


def retry(job, now):
    return queue_transitions.retry(job, now)


@pytest.mark.parametrize(
    ("position", "change", "kinds"),
    [
        (-1, keep, []),
        (-1, relabel, []),
        (-2, keep, ["terminal"]),
        (-2, relabel, ["terminal"]),
        (0, keep, ["CANCELLED", "terminal"]),
        (-1, retry, ["QUEUED"]),
        (-2, retry, ["QUEUED"]),
    ],
)
async def test_watcher_returns_after_the_end(replica, job_streams, position, change, kinds):
    """A watcher that has received the last message receives nothing more, unless the job was retried."""
    job_id, messages = await cancelled_job(replica, job_streams)
    await change_job(replica, job_id, lambda job: change(job, replica.time))
    received = []
    async with asyncio.timeout(TIMEOUT):
        async for message in job_streams.watch(job_id, None, messages[position].resume_token, FAST):
            received.append("terminal" if isinstance(message.body, Snapshot) else message.body.state.name)
            if change is retry:
                break
    assert received == kinds


async def test_terminal_snapshot_of_a_new_watch_is_the_end(replica, job_streams):
    """The token of the only message of a watch of an ended job ends the next watch at once."""
    job_id, _ = await cancelled_job(replica, job_streams)
    (only,) = [message async for message in job_streams.watch(job_id, None, "", FAST)]
    assert only.body.terminal
    assert not [message async for message in job_streams.watch(job_id, None, only.resume_token, FAST)]
    replica.time += timedelta(hours=25)
    (again,) = [message async for message in job_streams.watch(job_id, None, only.resume_token, FAST)]
    assert again.body.reset
    assert again.body.terminal


async def test_job_of_another_tenant(replica, job_streams):
    """Another tenant's job is not found."""
    job = await replica.add()
    with pytest.raises(NotFound):
        await first_message(job_streams.watch(job.id, "other", "", FAST))


async def test_heartbeat_repeats_the_position(replica, job_streams):
    """After silence a heartbeat comes, with a token to resume from."""
    job = await replica.add()
    stream = aiter(job_streams.watch(job.id, None, "", replace(FAST, heartbeat=0.05)))
    first, second = await anext(stream), await anext(stream)
    assert isinstance(second.body, Heartbeat)
    assert second.sequence == first.sequence
    await stream.aclose()
    resumed = aiter(job_streams.watch(job.id, None, second.resume_token, replace(FAST, heartbeat=0.05)))
    assert isinstance((await anext(resumed)).body, Heartbeat)
    await resumed.aclose()


async def test_draining_server_accepts_no_watchers(replica, job_streams):
    """A draining server accepts no new watchers."""
    job = await replica.add()
    replica.hub.close()
    with pytest.raises(ReelhaulError):
        await first_message(job_streams.watch(job.id, None, "", FAST))


async def test_many_watchers_in_bounded_memory(replica, job_streams):
    """500 watchers that do not read need hardly any memory, however much happens."""
    job = await replica.add()
    await replica.claim(job.id)
    streams = [job_streams.watch(job.id, None, "", FAST) for _ in range(500)]
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


async def test_watchers_share_one_read(replica, job_streams):
    """A change is read once for all watchers of a job."""
    job = await replica.add()
    streams = [job_streams.watch(job.id, None, "", FAST) for _ in range(50)]
    for stream in streams:
        await anext(stream)
    reads, get = [], replica.store.get

    async def counting_get(job_id):
        reads.append(job_id)
        return await get(job_id)

    replica.store.get = counting_get
    waiting = [asyncio.create_task(anext(stream)) for stream in streams]
    await asyncio.sleep(0)
    await change_job(replica, job.id, lambda j: queue_transitions.cancel(j, replica.time))
    changes = await asyncio.gather(*waiting)
    assert {message.body.state for message in changes} == {State.CANCELLED}
    assert len(reads) == 1
    for stream in streams:
        await stream.aclose()


async def test_database_unavailable(replica, job_streams, monkeypatch):
    """A watch survives an unavailable database, and then sends what happened meanwhile."""
    monkeypatch.setattr(limits, "REREAD_SECONDS", 0.05)
    job = await replica.add()
    stream = job_streams.watch(job.id, None, "", FAST)
    await anext(stream)
    get, failed = replica.store.get, asyncio.Event()

    async def failing(job_id):
        failed.set()
        raise Unavailable("jobs.database", "unavailable")

    replica.store.get = failing
    waiting = asyncio.create_task(anext(stream))
    await change_job(replica, job.id, lambda j: queue_transitions.cancel(j, replica.time))
    await failed.wait()
    replica.store.get = get
    async with asyncio.timeout(TIMEOUT):
        assert (await waiting).body.state is State.CANCELLED
    await stream.aclose()


async def test_retried_before_the_watcher_read(replica, job_streams):
    """The watch of a job that ended and was retried before its watcher read on does not end."""
    job = await replica.add()
    stream = job_streams.watch(job.id, None, "", FAST)
    await anext(stream)
    # Notify only after both changes, so that the first read finds both.
    changes = [
        await replica.store.change(job.id, lambda j: queue_transitions.cancel(j, replica.time)),
        await replica.store.change(job.id, lambda j: queue_transitions.retry(j, replica.time)),
    ]
    for change in changes:
        await ChangeNotifier(replica.hub, replica.bus).notify(change)
    states = [(await anext(stream)).body.state for _ in range(2)]
    assert states == [State.CANCELLED, State.QUEUED]
    await stream.aclose()


async def test_early_progress_does_not_wait(replica, job_streams, monkeypatch):
    """Progress that arrives at the watcher's pace is sent on arrival despite jitter; more is conflated."""
    loop, offset = asyncio.get_running_loop(), [0.0]
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + offset[0], raising=False)
    job = await replica.add()
    await replica.claim(job.id)
    stream = job_streams.watch(job.id, None, "", Pace(progress=100, heartbeat=600))
    await anext(stream)
    sequences = []
    for sequence, seconds in enumerate((0, 85, 115, 85, 100), start=1):
        offset[0] += seconds
        replica.hub.publish_progress(notice(job.id, sequence))
        async with asyncio.timeout(5):
            sequences.append((await anext(stream)).sequence & 0xFFFF)
    assert sequences == [1, 2, 3, 4, 5]
    waiting = asyncio.create_task(anext(stream))
    offset[0] += 70
    replica.hub.publish_progress(notice(job.id, 6))
    assert not (await asyncio.wait([waiting], timeout=0.05))[0]
    offset[0] += 30
    replica.hub.publish_progress(notice(job.id, 7))
    async with asyncio.timeout(5):
        assert (await waiting).sequence & 0xFFFF == 7
    await stream.aclose()


async def test_late_scheduled_watcher(replica, job_streams, monkeypatch):
    """A watcher that was scheduled offset receives the next progress when it arrives, as all others do."""
    loop, offset = asyncio.get_running_loop(), [0.0]
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + offset[0], raising=False)
    job = await replica.add()
    await replica.claim(job.id)
    stream = job_streams.watch(job.id, None, "", Pace(progress=100, heartbeat=600))
    await anext(stream)
    replica.hub.publish_progress(notice(job.id, 1))
    offset[0] += 60
    assert (await anext(stream)).sequence & 0xFFFF == 1
    offset[0] += 40
    replica.hub.publish_progress(notice(job.id, 2))
    async with asyncio.timeout(5):
        assert (await anext(stream)).sequence & 0xFFFF == 2
    await stream.aclose()


async def test_many_watchers_of_one_job_do_not_block_the_loop(replica, job_streams):
    """Watchers of one job are woken a few at a time, and a change meanwhile reaches all of them."""
    job = await replica.add()
    await replica.claim(job.id)
    streams = [job_streams.watch(job.id, None, "", FAST) for _ in range(500)]
    for stream in streams:
        await anext(stream)
    received = list[int]()

    async def listen(stream):
        async for message in stream:
            received.append(message.sequence)
            if isinstance(message.body, Event):
                return

    listening = [asyncio.create_task(listen(stream)) for stream in streams]
    await asyncio.sleep(0)
    replica.hub.publish_progress(notice(job.id, 1))
    for _ in range(3):
        await asyncio.sleep(0)
    assert 0 < len(received) < 250
    await change_job(replica, job.id, lambda j: queue_transitions.cancel(j, replica.time))
    async with asyncio.timeout(10):
        await asyncio.gather(*listening)
    for stream in streams:
        await stream.aclose()
