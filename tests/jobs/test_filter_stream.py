"""Watching many jobs by a filter, on SQLite and a fake bus."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.jobs.conftest import TIMEOUT
from tests.jobs.replica import views_of
from tests.jobs.test_job_stream import change_job

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.filters import JOB_FIELDS
from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.watch import WatchQuery
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.watch import conflating_queue, limits
from reelhaul_jobs.service.watch.change_feed import ChangeFeed
from reelhaul_jobs.service.watch.filter_stream import FilterStreams
from reelhaul_jobs.service.watch.resume_tokens import ResumeTokens
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.filters.parser import parse


@pytest.fixture
def filter_streams(replica) -> FilterStreams:
    feed = ChangeFeed(replica.store, views_of(replica), replica.hub, replica.now)
    return FilterStreams(feed, replica.store, replica.hub, ResumeTokens(b"k" * 32), replica.now)


def query(text: str = "", owner: str | None = "acme", heartbeat: float = 60) -> WatchQuery:
    return WatchQuery(owner=owner, where=parse(text, JOB_FIELDS), text=text, heartbeat=heartbeat)


async def claim_job(replica, job_id):
    attempt = (await replica.store.get(job_id)).attempt
    claim = leases.Claim(
        attempt=attempt, worker="w", request_id="r", engine_version="", lease=timedelta(seconds=30)
    )
    return await change_job(replica, job_id, lambda job: leases.claim(job, claim, replica.time))


async def cancel_job(replica, job_id):
    return await change_job(replica, job_id, lambda job: queue_transitions.cancel(job, replica.time))


async def receive(stream, count: int = 1) -> list:
    """Return the next *count* messages that are of a job or a reset."""
    messages = []
    async with asyncio.timeout(TIMEOUT):
        while len(messages) < count:
            message = await anext(stream)
            if message.change or message.reset:
                messages.append(message)
    return messages


def jobs(messages) -> list:
    return [(message.change.job.id, message.change.job.state) for message in messages]


async def test_changes_of_a_batch(replica, filter_streams):
    """Each change of the jobs of a batch is sent, and of no other job; the sequence grows."""
    mine = [await replica.add(batch_id="b1") for _ in range(3)]
    other = await replica.add(batch_id="b2")
    stream = filter_streams.watch(query('batch_id = "b1"'), "")
    first = await anext(stream)
    assert first.change is None
    messages = [first]
    for job in [other, *mine]:
        await claim_job(replica, job.id)
    messages += await receive(stream, 3)
    await cancel_job(replica, mine[1].id)
    messages += await receive(stream)
    assert sorted(jobs(messages[1:4])) == [(job.id, State.RUNNING) for job in mine]
    assert jobs(messages[4:]) == [(mine[1].id, State.CANCELLING)]
    sequences = [message.sequence for message in messages]
    assert sequences == sorted(set(sequences))
    await stream.aclose()


async def test_leaving_the_filter(replica, filter_streams):
    """A job that leaves the filter by a state change is sent once more, as it is then."""
    job = await replica.add()
    stream = filter_streams.watch(query("state = QUEUED"), "")
    await anext(stream)
    await claim_job(replica, job.id)
    assert jobs(await receive(stream)) == [(job.id, State.RUNNING)]
    await stream.aclose()


async def test_jobs_of_other_tenants(replica, filter_streams):
    """A caller receives only its own tenant's jobs; a service of the suite receives all."""
    mine, others = await replica.add(), await replica.add("other")
    stream, all_ = filter_streams.watch(query(), ""), filter_streams.watch(query(owner=None), "")
    await anext(stream)
    await anext(all_)
    await cancel_job(replica, others.id)
    await cancel_job(replica, mine.id)
    assert jobs(await receive(stream)) == [(mine.id, State.CANCELLED)]
    assert len(await receive(all_, 2)) == 2
    await stream.aclose()
    await all_.aclose()


async def test_new_job(replica, filter_streams):
    """A new job is sent."""
    stream = filter_streams.watch(query(), "")
    await anext(stream)
    job = await replica.add()
    await ChangeNotifier(replica.hub, replica.bus).notify_job(job)
    assert jobs(await receive(stream)) == [(job.id, State.QUEUED)]
    await stream.aclose()


async def test_deleted_job(replica, filter_streams):
    """A deleted job is sent as deleted."""
    job = await replica.add()
    stream = filter_streams.watch(query(), "")
    await anext(stream)
    await change_job(replica, job.id, lambda j: queue_transitions.delete(j, replica.time))
    (message,) = await receive(stream)
    assert message.change.job.delete_time is not None
    await stream.aclose()


async def test_resume(replica, filter_streams):
    """A resuming watcher receives what changed meanwhile, at any server that shares the key."""
    job, ended = await replica.add(), await replica.add()
    stream = filter_streams.watch(query(), "")
    first = await anext(stream)
    await stream.aclose()
    replica.time += timedelta(minutes=5)
    await claim_job(replica, job.id)
    await cancel_job(replica, ended.id)
    other_server = FilterStreams(
        ChangeFeed(replica.store, views_of(replica), replica.hub, replica.now),
        replica.store,
        replica.hub,
        ResumeTokens(b"k" * 32),
        replica.now,
    )
    again = other_server.watch(query(), first.resume_token)
    missed = await receive(again, 2)
    assert sorted(jobs(missed)) == [(job.id, State.RUNNING), (ended.id, State.CANCELLED)]
    assert missed[0].sequence > first.sequence
    await again.aclose()
    # Interrupted between the two: the second is sent again.
    halfway = other_server.watch(query(), missed[0].resume_token)
    assert missed[1].change.job.id in [job_id for job_id, _ in jobs(await receive(halfway, 2))]
    await halfway.aclose()


async def test_resume_with_another_filter(replica, filter_streams):
    """A token is valid only for the filter and the tenant that it was created for."""
    stream = filter_streams.watch(query("state = QUEUED"), "")
    token = (await anext(stream)).resume_token
    await stream.aclose()
    for other in (query("state = RUNNING"), query("state = QUEUED", owner="other")):
        with pytest.raises(ReelhaulError) as failure:
            await anext(filter_streams.watch(other, token))
        assert failure.value.reason == ErrorReason.RESUME_TOKEN_INVALID


async def test_old_position_is_a_reset(replica, filter_streams):
    """A watcher that resumes after a day gets a reset, and then what changes."""
    job = await replica.add()
    stream = filter_streams.watch(query(), "")
    token = (await anext(stream)).resume_token
    await stream.aclose()
    replica.time += timedelta(hours=25)
    again = filter_streams.watch(query(), token)
    assert (await anext(again)).reset
    await cancel_job(replica, job.id)
    assert jobs(await receive(again)) == [(job.id, State.CANCELLED)]
    await again.aclose()


async def test_slow_watcher(replica, filter_streams, monkeypatch):
    """A watcher that reads too slowly gets a reset; memory is bounded, and others receive all."""
    monkeypatch.setattr(conflating_queue, "MAX_PENDING", 5)
    added = [await replica.add() for _ in range(10)]
    slow, quick = filter_streams.watch(query(), ""), filter_streams.watch(query(), "")
    await anext(slow)
    await anext(quick)
    received = []
    for job in added:
        await cancel_job(replica, job.id)
        received += await receive(quick)
    assert [job_id for job_id, _ in jobs(received)] == [job.id for job in added]
    assert (await receive(slow))[0].reset
    await slow.aclose()
    await quick.aclose()


async def test_lost_notification(replica, filter_streams, monkeypatch):
    """A change without a notification is found by the next read of all events."""
    monkeypatch.setattr(limits, "REREAD_SECONDS", 0.05)
    job = await replica.add()
    stream = filter_streams.watch(query(), "")
    await anext(stream)
    replica.time += timedelta(seconds=1)
    await replica.store.change(job.id, lambda j: queue_transitions.cancel(j, replica.time))
    assert jobs(await receive(stream)) == [(job.id, State.CANCELLED)]
    await stream.aclose()


async def test_late_commit(replica, filter_streams, monkeypatch):
    """A change that is committed after later ones were sent is sent too."""
    monkeypatch.setattr(limits, "REREAD_SECONDS", 0.05)
    slow, quick = await replica.add(), await replica.add()
    stream = filter_streams.watch(query(), "")
    await anext(stream)
    began = replica.time
    replica.time += timedelta(seconds=5)
    await cancel_job(replica, quick.id)
    await receive(stream)
    await replica.store.change(slow.id, lambda j: queue_transitions.cancel(j, began + timedelta(seconds=1)))
    assert jobs(await receive(stream)) == [(slow.id, State.CANCELLED)]
    await stream.aclose()


async def test_heartbeat(replica, filter_streams):
    """After silence a heartbeat repeats the sequence."""
    stream = filter_streams.watch(query(heartbeat=0.05), "")
    first, second = await anext(stream), await anext(stream)
    assert (second.change, second.sequence) == (None, first.sequence)
    await stream.aclose()


async def test_drain(replica, filter_streams):
    """A draining server ends its streams with an error that says to resume."""
    stream = filter_streams.watch(query(), "")
    await anext(stream)
    replica.hub.close()
    with pytest.raises(ReelhaulError) as failure:
        async with asyncio.timeout(TIMEOUT):
            await anext(stream)
    assert failure.value.reason == ErrorReason.OVERLOADED
    assert failure.value.retry_delay is not None


async def test_many_watchers_do_not_block_the_loop(replica, filter_streams, monkeypatch):
    """Simultaneous changes are offered to many watchers in portions; each receives all of its own."""
    added = [await replica.add(batch_id=f"b{number % 2}") for number in range(20)]
    streams = [filter_streams.watch(query(f'batch_id = "b{number % 2}"'), "") for number in range(300)]
    for stream in streams:
        await anext(stream)
    turns, offer = [0], conflating_queue.ConflatingQueue.offer

    def counting_offer(queue, change):
        turns[-1] += 1
        offer(queue, change)

    async def count_turns():
        while True:
            await asyncio.sleep(0)
            turns.append(0)

    monkeypatch.setattr(conflating_queue.ConflatingQueue, "offer", counting_offer)
    waiting = asyncio.create_task(count_turns())
    for job in added:
        await claim_job(replica, job.id)
    for number, stream in enumerate(streams):
        received = jobs(await receive(stream, 10))
        assert sorted(received) == sorted((job.id, State.RUNNING) for job in added[number % 2 :: 2])
        await stream.aclose()
    waiting.cancel()
    # Each was offered its own ten; those of the other batch may come after it has closed.
    assert sum(turns) >= 300 * 10
    assert max(turns) < 2_000
