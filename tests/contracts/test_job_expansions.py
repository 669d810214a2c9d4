"""The contract of JobStore and QueueStore for expansions and expired jobs."""

from __future__ import annotations

from datetime import timedelta

from tests.job_stores import LEASE, NOW, claim, job

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import PlaylistEntry
from reelhaul_jobs.filters import JOB_FIELDS
from reelhaul_jobs.model import leases, playlist_expansion, queue_transitions
from reelhaul_jobs.model.job import Expansion, Job
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import Kind, QueueStage, State
from reelhaul_jobs.ports.jobs import Query
from reelhaul_runtime.filters.parser import parse


def expansion(number: int = 1, **fields: object) -> Job:
    """Return an expansion of at most five entries."""
    plain = {"kind": Kind.EXPANSION, "expansion": Expansion(max_entries=5), "batch_id": job(number).id}
    return job(number, **{**plain, **fields})


def entries(*positions: int) -> list[PlaylistEntry]:
    return [PlaylistEntry(url=f"https://v.example/{n}", position=n, media_id=str(n)) for n in positions]


async def claimed(store, parent: Job) -> Job:
    """Add and claim *parent*."""
    await store.add([parent])
    return (await store.change(parent.id, lambda j: leases.claim(j, claim(), NOW))).job


async def report(store, parent: Job, found: list[PlaylistEntry]):
    """Renew the lease of *parent* with the entries *found*."""

    def rule(present, seen):
        change = leases.renew(present, parent.epoch, NOW, LEASE)
        return change if change.refusal else playlist_expansion.add_children(change, found, seen, NOW)

    return await store.expand(parent.id, [playlist_expansion.entry_key(entry) for entry in found], rule)


async def children(store, parent: Job) -> list[Job]:
    page = await store.list_page(Query(tenant=parent.tenant, limit=100, descending=False))
    return [one for one in page.jobs if one.parent == parent.id]


async def test_each_entry_becomes_one_job(store):
    """Entries become ready jobs with the fields of their parent, in the order of the playlist."""
    parent = await claimed(store, expansion())
    await report(store, parent, entries(2, 1))
    created = await children(store, parent)
    assert [(one.position, one.url) for one in created] == [
        (1, "https://v.example/1"),
        (2, "https://v.example/2"),
    ]
    assert {(one.format.max_height, one.batch_id, one.queue_stage) for one in created} == {
        (720, parent.id, QueueStage.READY)
    }
    assert await store.count_children(parent.id) == {State.QUEUED: 2}
    assert [event.state for event in await store.list_events(created[0].id, after=0, limit=9)] == [
        State.QUEUED
    ]


async def test_progress_of_children(store):
    """Those of the jobs that a worker holds are listed in order, and the bytes of ended attempts summed."""
    parent = await claimed(store, expansion())
    await report(store, parent, entries(1, 2, 3))
    first, second, third = await children(store, parent)
    assert (await store.list_leased_children(parent.id, 10), await store.sum_children_bytes(parent.id)) == (
        [],
        0,
    )
    for child in (third, first):
        await store.change(child.id, lambda j: leases.claim(j, claim(), NOW))
    assert [one.id for one in await store.list_leased_children(parent.id, 10)] == [first.id, third.id]
    assert [one.id for one in await store.list_leased_children(parent.id, 1)] == [first.id]
    failed = leases.Outcome(
        result=leases.Failed(error=error_status(ErrorReason.MEDIA_NOT_FOUND, "gone")),
        progress=media_pb2.Progress(downloaded_bytes=700),
    )
    await store.change(first.id, lambda j: leases.finish(j, 1, failed, NOW))
    assert [one.id for one in await store.list_leased_children(parent.id, 10)] == [third.id]
    assert await store.sum_children_bytes(parent.id) == 700
    assert await store.sum_children_bytes(second.id) == 0


async def test_a_repeated_renewal_creates_nothing_twice(store):
    """Positions that became jobs are ignored, and so are those beyond max_entries."""
    parent = await claimed(store, expansion())
    for found in (entries(1, 2, 3), entries(1, 2, 3), entries(3, 4, 5, 6)):
        await report(store, parent, found)
    assert sorted(one.position for one in await children(store, parent)) == [1, 2, 3, 4, 5]
    assert (await store.get(parent.id)).expansion == Expansion(max_entries=5, job_count=5)


async def test_skipped_entries(store):
    """An entry without a URL, or one that was never reported, is counted as skipped."""
    parent = await claimed(store, expansion())
    await report(store, parent, [*entries(1), PlaylistEntry(position=2), *entries(4)])
    stored = (await store.get(parent.id)).expansion
    assert (stored.job_count, stored.skipped_count, stored.last_position) == (2, 2, 4)


async def test_a_stale_worker_creates_no_jobs(store):
    """The epoch fences the creation of jobs as well."""
    parent = await claimed(store, expansion())
    await store.change(parent.id, lambda j: leases.expire(j, NOW + 2 * LEASE))
    change = await report(store, parent, entries(1))
    assert change.refusal is not None
    assert await children(store, parent) == []


async def test_a_cancelled_expansion_creates_no_more_jobs(store):
    """From its cancellation on its jobs are cancelled one by one, until none is active."""
    parent = await claimed(store, expansion())
    await report(store, parent, entries(1, 2))
    await store.change(parent.id, lambda j: queue_transitions.cancel(j, NOW))
    await report(store, parent, entries(3))
    (waiting,) = await store.list_cascade_cancellations(10)
    active = await store.list_active_children(parent.id, 10)
    assert (waiting.id, len(active)) == (parent.id, 2)
    for child in active:
        await store.change(child, lambda j: queue_transitions.cancel_child(j, waiting, NOW))
    assert await store.list_active_children(parent.id, 10) == []
    await store.change(parent.id, lambda j: queue_transitions.complete_cascade(j, waiting.cascade_time))
    assert await store.list_cascade_cancellations(10) == []


async def test_filter_by_parent(store):
    """The jobs of an expansion are found by the name of their parent."""
    parent = await claimed(store, expansion())
    await report(store, parent, entries(1, 2))
    for text, number in ((f'parent_job = "{parent.name}"', 2), ('parent_job = ""', 1), ("schedule != x", 3)):
        where = parse(text, JOB_FIELDS)
        assert (await store.list_page(Query(tenant="acme", limit=10, where=where))).total == number, text


async def test_list_expired(store):
    """Ended jobs whose expire_time has passed are found, the longest expired first; active ones never."""
    for number, has_ended in ((1, True), (2, True), (3, True), (4, False)):
        new = job(number, ttl=timedelta(hours=4 - number), expire_time=None if has_ended else NOW)
        await store.add([new])
        if has_ended:
            await store.change(new.id, lambda j: queue_transitions.cancel(j, NOW))
    assert await store.list_expired(NOW + timedelta(hours=2), 10) == [job(3).id, job(2).id]
    await store.change(job(3).id, lambda j: queue_transitions.expire(j, NOW + timedelta(hours=2)))
    assert await store.list_expired(NOW + timedelta(hours=2), 10) == [job(2).id]


async def test_an_expansion_is_read_as_it_was_added(store):
    """Every field of an expansion and of its children is stored."""
    media = media_pb2.MediaInfo(title="A list", entry_count=9)
    settings = Expansion(max_entries=7, new_entries_only=True, entry_count=9, job_count=2, skipped_count=1)
    new = expansion(expansion=settings, media=media, cascade_time=NOW, schedule="nightly")
    child = job(2, parent=new.id, position=3, schedule="nightly")
    await store.add([new, child])
    assert [await store.get(new.id), await store.get(child.id)] == [new, child]
