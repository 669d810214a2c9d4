"""The contract of JobStore for batches, lists and counts, on SQLite and PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.job_stores import NOW, claim, job, request

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.filters import JOB_FIELDS
from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.lists import Batch, CountQuery, JobCounts, Order
from reelhaul_jobs.model.retries import error_reason, error_status
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.jobs import Query
from reelhaul_runtime.errors import ReelhaulError, StateConflict
from reelhaul_runtime.filters.parser import parse


async def test_taken_id_in_a_batch_is_named(store):
    """The error names the job whose id is taken, and none of the others is stored."""
    await store.add([job(5)])
    with pytest.raises(ReelhaulError) as failure:
        await store.add([job(4), job(5), job(6)])
    assert failure.value.metadata["resource"] == job(5).name
    assert [found.id for found in await store.get_many([job(4).id, job(5).id, job(6).id])] == [job(5).id]


async def test_partial_batch(store):
    """A batch stores the jobs that it can; a repeated request returns the same jobs and errors."""
    await store.add([job(2)])
    failed = {0: error_status(ErrorReason.URL_INVALID, "no URL")}
    batch = Batch({1: job(1), 2: job(2), 3: job(3)}, failed)
    added = await store.add_batch(batch, request())
    assert {position: each.id for position, each in added.jobs.items()} == {1: job(1).id, 3: job(3).id}
    assert {position: error_reason(error) for position, error in added.failed.items()} == {
        0: ErrorReason.URL_INVALID,
        2: ErrorReason.RESOURCE_EXISTS,
    }
    assert await store.add_batch(Batch({0: job(9)}), request()) == added
    assert [event.state for event in await store.list_events(job(3).id, after=0, limit=5)] == [State.QUEUED]
    await store.change(job(1).id, lambda j: queue_transitions.delete(j, NOW))
    assert list((await store.add_batch(batch, request())).jobs) == [3]


async def test_batch_of_which_nothing_is_stored(store):
    """If no job is stored, the request is not recorded either: it may be tried again."""
    await store.add([job(1)])
    batch = await store.add_batch(Batch({0: job(1)}), request())
    assert (list(batch.jobs), list(batch.failed)) == ([], [0])
    failed = {0: error_status(ErrorReason.URL_INVALID, "no URL")}
    assert await store.add_batch(Batch({}, failed), request()) == Batch({}, failed)
    assert list((await store.add_batch(Batch({0: job(2)}), request(digest=b"other"))).jobs) == [0]


async def test_get_many(store):
    """Jobs come in the order asked, each once; missing ones are left out."""
    await store.add([job(1), job(2)])
    ids = [job(2).id, job(3).id, job(1).id, job(2).id]
    assert [found.id for found in await store.get_many(ids)] == [job(2).id, job(1).id]
    assert list(await store.get_many([])) == []


async def test_change_many(store):
    """Many jobs change in one transaction, each with its event; a rule may leave one out."""
    await store.add([job(n) for n in range(1, 5)])
    ids = [job(n).id for n in (3, 1, 4, 9)]

    def rule(each):
        return None if each.id == job(4).id else queue_transitions.cancel(each, NOW)

    changed = await store.change_many(ids, rule, request())
    assert [change.job.id for change in changed] == [job(3).id, job(1).id]
    assert all(change.changed for change in changed)
    states = [found.state for found in await store.get_many([job(n).id for n in range(1, 5)])]
    assert states == [State.CANCELLED, State.QUEUED, State.CANCELLED, State.QUEUED]
    assert (await store.list_events(job(3).id, after=1, limit=5))[0].state is State.CANCELLED
    repeated = await store.change_many([job(2).id], rule, request())
    assert [(change.job.id, change.changed) for change in repeated] == [
        (job(3).id, False),
        (job(1).id, False),
    ]


async def test_change_many_is_atomic(store):
    """If a rule raises for one of many jobs, none of them changes."""
    await store.add([job(1), job(2)])

    def rule(each):
        transition = queue_transitions.cancel if each.id == job(1).id else queue_transitions.retry
        return transition(each, NOW)

    with pytest.raises(StateConflict):
        await store.change_many([job(1).id, job(2).id], rule)
    assert (await store.get(job(1).id)) == job(1)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order", list(Order))
async def test_pages_in_every_order(store, order, descending):
    """Pages have no gaps or duplicates in any order; a job that has not ended sorts as the latest to end."""
    ends = [NOW, None, NOW, NOW + timedelta(1), None, NOW - timedelta(1), None]
    jobs = [
        job(n, update_time=NOW + timedelta(seconds=n * 5 % 7 // 2), end_time=end)
        for n, end in enumerate(ends, start=1)
    ]
    await store.add(jobs)
    seen, after = [], None
    while True:
        query = Query(tenant="acme", limit=2, order=order, descending=descending, after=after)
        page = await store.list_page(query)
        assert page.total == len(jobs)
        seen += [found.id for found in page.jobs]
        if not page.has_more:
            break
        after = order.sort_key(page.jobs[-1])
    assert seen == [each.id for each in sorted(jobs, key=order.sort_key, reverse=descending)]


async def test_known_total_is_not_counted_again(store):
    """A page of a query with a total repeats it."""
    await store.add([job(1)])
    assert (await store.list_page(Query(tenant="acme", limit=5, total=77))).total == 77


async def test_summary(store):
    """Counts, errors, bytes and latencies of a period, in total and by bucket."""
    failed = error_status(ErrorReason.MEDIA_NOT_FOUND, "gone")
    minute = timedelta(minutes=1)
    jobs = [
        job(n, state=State.SUCCEEDED, end_time=NOW + timedelta(seconds=n + latency))
        for n, latency in ((0, 10), (1, 20), (2, 30), (60, 5))
    ]
    jobs += [job(3, state=State.FAILED, error=failed, end_time=NOW), job(61), job(62, error=failed)]
    outside = [job(-1), job(180), job(63, tenant="other")]
    await store.add([*jobs, *outside])
    await store.change(job(61).id, lambda j: leases.claim(j, claim(), NOW))
    progress = media_pb2.Progress(downloaded_bytes=2**33)
    done = leases.Outcome(result=leases.Failed(error=failed), progress=progress)
    await store.change(job(61).id, lambda j: leases.finish(j, 1, done, NOW))
    query = CountQuery(tenant="acme", start=NOW, end=NOW + 3 * minute, bucket_width=minute)
    found = await store.summarize(query)
    assert found.total.states == {State.SUCCEEDED: 4, State.FAILED: 2, State.QUEUED: 1}
    assert found.total.errors == {"MEDIA_NOT_FOUND": 2}
    assert found.total.downloaded_bytes == 2**33
    assert (found.total.latency_p50, found.total.latency_p95) == (
        timedelta(seconds=10),
        timedelta(seconds=30),
    )
    assert sorted(found.buckets) == [0, 1]
    first, second = found.buckets[0], found.buckets[1]
    assert (first.states, first.errors) == ({State.SUCCEEDED: 3, State.FAILED: 1}, {"MEDIA_NOT_FOUND": 1})
    assert (first.latency_p50, first.downloaded_bytes) == (timedelta(seconds=20), 0)
    assert (second.latency_p95, second.downloaded_bytes) == (timedelta(seconds=5), 2**33)
    where = parse("state = FAILED", JOB_FIELDS)
    narrow = await store.summarize(replace(query, where=where, bucket_width=None))
    assert (narrow.total.states, narrow.buckets) == ({State.FAILED: 2}, {})
    assert narrow.total.latency_p50 is None
    assert (await store.summarize(replace(query, tenant="nobody"))).total == JobCounts()
