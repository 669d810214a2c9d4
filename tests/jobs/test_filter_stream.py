"""Watches of many jobs on SQLite and a fake bus: what a follower of a filter is told."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.jobs.conftest import TIMEOUT
from tests.jobs.test_job_stream import move

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.filters.fields import JOB_FIELDS
from reelhaul_jobs.filters.parser import parse
from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.watch import WatchQuery
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_jobs.service.watch import conflating_queue, limits
from reelhaul_jobs.service.watch.change_feed import ChangeFeed
from reelhaul_jobs.service.watch.filter_stream import FilterStreams
from reelhaul_jobs.service.watch.resume_tokens import ResumeTokens
from reelhaul_runtime.errors import ReelhaulError


@pytest.fixture
def followings(replica) -> FilterStreams:
    feed = ChangeFeed(replica.store, replica.hub, replica.now)
    return FilterStreams(feed, replica.store, replica.hub, ResumeTokens(b"k" * 32), replica.now)


def asked(text: str = "", owner: str | None = "acme", heartbeat: float = 60) -> WatchQuery:
    return WatchQuery(owner=owner, where=parse(text, JOB_FIELDS), text=text, heartbeat=heartbeat)


async def claimed(replica, job_id):
    attempt = (await replica.store.get(job_id)).attempt
    claim = leases.Claim(
        attempt=attempt, worker="w", request_id="r", engine_version="", lease=timedelta(seconds=30)
    )
    return await move(replica, job_id, lambda job: leases.claim(job, claim, replica.time))


async def cancelled(replica, job_id):
    return await move(replica, job_id, lambda job: queue_transitions.cancel(job, replica.time))


async def told(stream, count: int = 1) -> list:
    """The next *count* messages that are of a job or a reset."""
    found = []
    async with asyncio.timeout(TIMEOUT):
        while len(found) < count:
            message = await anext(stream)
            if message.change or message.reset:
                found.append(message)
    return found


def jobs(messages) -> list:
    return [(message.change.job.id, message.change.job.state) for message in messages]


async def test_changes_of_a_batch(replica, followings):
    """Each change of the jobs of a batch is told, and of no other job; the sequence grows."""
    mine = [await replica.add(batch_id="b1") for _ in range(3)]
    other = await replica.add(batch_id="b2")
    stream = followings.watch(asked('batch_id = "b1"'), "")
    first = await anext(stream)
    assert first.change is None
    seen = [first]
    for job in [other, *mine]:
        await claimed(replica, job.id)
    seen += await told(stream, 3)
    await cancelled(replica, mine[1].id)
    seen += await told(stream)
    assert sorted(jobs(seen[1:4])) == [(job.id, State.RUNNING) for job in mine]
    assert jobs(seen[4:]) == [(mine[1].id, State.CANCELLING)]
    sequences = [message.sequence for message in seen]
    assert sequences == sorted(set(sequences))
    await stream.aclose()


async def test_leaving_the_filter(replica, followings):
    """A job that leaves the filter by a state change is told once more, as it is then."""
    job = await replica.add()
    stream = followings.watch(asked("state = QUEUED"), "")
    await anext(stream)
    await claimed(replica, job.id)
    assert jobs(await told(stream)) == [(job.id, State.RUNNING)]
    await stream.aclose()


async def test_other_tenants(replica, followings):
    """Nobody hears of another tenant's jobs; a service of ours hears of all."""
    mine, others = await replica.add(), await replica.add("other")
    stream, all_ = followings.watch(asked(), ""), followings.watch(asked(owner=None), "")
    await anext(stream)
    await anext(all_)
    await cancelled(replica, others.id)
    await cancelled(replica, mine.id)
    assert jobs(await told(stream)) == [(mine.id, State.CANCELLED)]
    assert len(await told(all_, 2)) == 2
    await stream.aclose()
    await all_.aclose()


async def test_new_job(replica, followings):
    """A job that is created is told."""
    stream = followings.watch(asked(), "")
    await anext(stream)
    job = await replica.add()
    await ChangeNotifier(replica.hub, replica.bus).notify_job(job)
    assert jobs(await told(stream)) == [(job.id, State.QUEUED)]
    await stream.aclose()


async def test_deleted_job(replica, followings):
    """A deletion is told as one."""
    job = await replica.add()
    stream = followings.watch(asked(), "")
    await anext(stream)
    await move(replica, job.id, lambda j: queue_transitions.delete(j, replica.time))
    (message,) = await told(stream)
    assert message.change.job.delete_time is not None
    await stream.aclose()


async def test_resume(replica, followings):
    """Who comes back is told what changed meanwhile, at any server that shares the key."""
    job, ended = await replica.add(), await replica.add()
    stream = followings.watch(asked(), "")
    first = await anext(stream)
    await stream.aclose()
    replica.time += timedelta(minutes=5)
    await claimed(replica, job.id)
    await cancelled(replica, ended.id)
    elsewhere = FilterStreams(
        ChangeFeed(replica.store, replica.hub, replica.now),
        replica.store,
        replica.hub,
        ResumeTokens(b"k" * 32),
        replica.now,
    )
    again = elsewhere.watch(asked(), first.resume_token)
    missed = await told(again, 2)
    assert sorted(jobs(missed)) == [(job.id, State.RUNNING), (ended.id, State.CANCELLED)]
    assert missed[0].sequence > first.sequence
    await again.aclose()
    # Cut off between the two: the second is told again.
    halfway = elsewhere.watch(asked(), missed[0].resume_token)
    assert missed[1].change.job.id in [job_id for job_id, _ in jobs(await told(halfway, 2))]
    await halfway.aclose()


async def test_resume_with_another_filter(replica, followings):
    """A position is good for the filter and the tenant that it was given for."""
    stream = followings.watch(asked("state = QUEUED"), "")
    token = (await anext(stream)).resume_token
    await stream.aclose()
    for other in (asked("state = RUNNING"), asked("state = QUEUED", owner="other")):
        with pytest.raises(ReelhaulError) as failure:
            await anext(followings.watch(other, token))
        assert failure.value.reason == ErrorReason.RESUME_TOKEN_INVALID


async def test_old_position_is_a_reset(replica, followings):
    """Who comes back after a day is told to list again, and hears what is new."""
    job = await replica.add()
    stream = followings.watch(asked(), "")
    token = (await anext(stream)).resume_token
    await stream.aclose()
    replica.time += timedelta(hours=25)
    again = followings.watch(asked(), token)
    assert (await anext(again)).reset
    await cancelled(replica, job.id)
    assert jobs(await told(again)) == [(job.id, State.CANCELLED)]
    await again.aclose()


async def test_slow_follower(replica, followings, monkeypatch):
    """Who reads too slowly is told to list again; memory stays bounded, and others hear all."""
    monkeypatch.setattr(conflating_queue, "MAX_PENDING", 5)
    added = [await replica.add() for _ in range(10)]
    slow, quick = followings.watch(asked(), ""), followings.watch(asked(), "")
    await anext(slow)
    await anext(quick)
    heard = []
    for job in added:
        await cancelled(replica, job.id)
        heard += await told(quick)
    assert [job_id for job_id, _ in jobs(heard)] == [job.id for job in added]
    assert (await told(slow))[0].reset
    await slow.aclose()
    await quick.aclose()


async def test_lost_notice(replica, followings, monkeypatch):
    """A change that nobody told of is found by the next look."""
    monkeypatch.setattr(limits, "REREAD_SECONDS", 0.05)
    job = await replica.add()
    stream = followings.watch(asked(), "")
    await anext(stream)
    replica.time += timedelta(seconds=1)
    await replica.store.change(job.id, lambda j: queue_transitions.cancel(j, replica.time))
    assert jobs(await told(stream)) == [(job.id, State.CANCELLED)]
    await stream.aclose()


async def test_late_commit(replica, followings, monkeypatch):
    """A change that is committed after later ones were told is told too."""
    monkeypatch.setattr(limits, "REREAD_SECONDS", 0.05)
    slow, quick = await replica.add(), await replica.add()
    stream = followings.watch(asked(), "")
    await anext(stream)
    began = replica.time
    replica.time += timedelta(seconds=5)
    await cancelled(replica, quick.id)
    await told(stream)
    await replica.store.change(slow.id, lambda j: queue_transitions.cancel(j, began + timedelta(seconds=1)))
    assert jobs(await told(stream)) == [(slow.id, State.CANCELLED)]
    await stream.aclose()


async def test_heartbeat(replica, followings):
    """Silence is broken by a heartbeat that repeats the sequence."""
    stream = followings.watch(asked(heartbeat=0.05), "")
    first, second = await anext(stream), await anext(stream)
    assert (second.change, second.sequence) == (None, first.sequence)
    await stream.aclose()


async def test_drain(replica, followings):
    """A server that drains ends its streams with a failure that says to come back."""
    stream = followings.watch(asked(), "")
    await anext(stream)
    replica.hub.close()
    with pytest.raises(ReelhaulError) as failure:
        async with asyncio.timeout(TIMEOUT):
            await anext(stream)
    assert failure.value.reason == ErrorReason.OVERLOADED
    assert failure.value.retry_delay is not None


async def test_many_followers_leave_others_their_turn(replica, followings, monkeypatch):
    """What changes at once for many followers is offered in turns; each hears all that it asked for."""
    made = [await replica.add(batch_id=f"b{number % 2}") for number in range(20)]
    streams = [followings.watch(asked(f'batch_id = "b{number % 2}"'), "") for number in range(300)]
    for stream in streams:
        await anext(stream)
    turns, offer = [0], conflating_queue.ConflatingQueue.offer

    def counted(queue, changed):
        turns[-1] += 1
        offer(queue, changed)

    async def others():
        while True:
            await asyncio.sleep(0)
            turns.append(0)

    monkeypatch.setattr(conflating_queue.ConflatingQueue, "offer", counted)
    waiting = asyncio.create_task(others())
    for job in made:
        await claimed(replica, job.id)
    for number, stream in enumerate(streams):
        heard = jobs(await told(stream, 10))
        assert sorted(heard) == sorted((job.id, State.RUNNING) for job in made[number % 2 :: 2])
        await stream.aclose()
    waiting.cancel()
    # Each was offered its own ten; those of the other batch may come after it has closed.
    assert sum(turns) >= 300 * 10
    assert max(turns) < 2_000
