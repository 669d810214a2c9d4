"""What every JobStore and QueueStore promises of expansions and of what has expired."""

from __future__ import annotations

from datetime import timedelta

from tests.job_stores import LEASE, NOW, claim, job

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import PlaylistEntry
from reelhaul_jobs.filters.fields import JOB_FIELDS
from reelhaul_jobs.filters.parser import parse
from reelhaul_jobs.model import leases, playlist_expansion, queue_transitions
from reelhaul_jobs.model.job import Expansion, Job
from reelhaul_jobs.model.states import Kind, QueueStage, State
from reelhaul_jobs.ports.jobs import Query


def a_list(number: int = 1, **fields: object) -> Job:
    """An expansion of at most five entries."""
    plain = {"kind": Kind.EXPANSION, "expansion": Expansion(max_entries=5), "batch_id": job(number).id}
    return job(number, **{**plain, **fields})


def entries(*positions: int) -> list[PlaylistEntry]:
    return [PlaylistEntry(url=f"https://v.example/{n}", position=n, media_id=str(n)) for n in positions]


async def held(store, asked: Job) -> Job:
    """*asked*, added and claimed."""
    await store.add([asked])
    return (await store.change(asked.id, lambda j: leases.claim(j, claim(), NOW))).job


async def told(store, parent: Job, found: list[PlaylistEntry]):
    """A renewal that tells of *found*."""

    def rule(present, seen):
        change = leases.renew(present, parent.epoch, NOW, LEASE)
        return change if change.refusal else playlist_expansion.add_children(change, found, seen, NOW)

    return await store.expand(parent.id, [playlist_expansion.entry_key(entry) for entry in found], rule)


async def children(store, parent: Job) -> list[Job]:
    page = await store.list_page(Query(tenant=parent.tenant, limit=100, descending=False))
    return [one for one in page.jobs if one.parent == parent.id]


async def test_each_entry_is_one_job(store):
    """Entries become ready jobs of the parent's making, in the list's order."""
    parent = await held(store, a_list())
    await told(store, parent, entries(2, 1))
    made = await children(store, parent)
    assert [(one.position, one.url) for one in made] == [
        (1, "https://v.example/1"),
        (2, "https://v.example/2"),
    ]
    assert {(one.format.max_height, one.batch_id, one.queue_stage) for one in made} == {
        (720, parent.id, QueueStage.READY)
    }
    assert await store.count_children(parent.id) == {State.QUEUED: 2}
    assert [event.state for event in await store.list_events(made[0].id, after=0, limit=9)] == [State.QUEUED]


async def test_a_repeated_renewal_makes_nothing_twice(store):
    """Positions that are taken are passed over; what is beyond the cap is left."""
    parent = await held(store, a_list())
    for found in (entries(1, 2, 3), entries(1, 2, 3), entries(3, 4, 5, 6)):
        await told(store, parent, found)
    assert sorted(one.position for one in await children(store, parent)) == [1, 2, 3, 4, 5]
    assert (await store.get(parent.id)).expansion == Expansion(max_entries=5, job_count=5)


async def test_what_cannot_be_fetched_is_skipped(store):
    """An entry without a URL, or that was never told, is counted and makes no job."""
    parent = await held(store, a_list())
    await told(store, parent, [*entries(1), PlaylistEntry(position=2), *entries(4)])
    expansion = (await store.get(parent.id)).expansion
    assert (expansion.job_count, expansion.skipped_count, expansion.last_position) == (2, 2, 4)


async def test_a_stale_worker_makes_no_jobs(store):
    """The epoch fences the making of jobs as it does all else."""
    parent = await held(store, a_list())
    await store.change(parent.id, lambda j: leases.expire(j, NOW + 2 * LEASE))
    change = await told(store, parent, entries(1))
    assert change.refusal is not None
    assert await children(store, parent) == []


async def test_a_cancelled_expansion_makes_no_more_jobs(store):
    """From the moment that it is cancelled its jobs only go, until none lives."""
    parent = await held(store, a_list())
    await told(store, parent, entries(1, 2))
    await store.change(parent.id, lambda j: queue_transitions.cancel(j, NOW))
    await told(store, parent, entries(3))
    (waiting,) = await store.list_cascade_cancellations(10)
    living = await store.list_active_children(parent.id, 10)
    assert (waiting.id, len(living)) == (parent.id, 2)
    for child in living:
        await store.change(child, lambda j: queue_transitions.cancel_child(j, waiting, NOW))
    assert await store.list_active_children(parent.id, 10) == []
    await store.change(parent.id, lambda j: queue_transitions.complete_cascade(j, waiting.cascade_time))
    assert await store.list_cascade_cancellations(10) == []


async def test_filter_by_parent(store):
    """The jobs of one list are found by their parent's name."""
    parent = await held(store, a_list())
    await told(store, parent, entries(1, 2))
    for text, number in ((f'parent_job = "{parent.name}"', 2), ('parent_job = ""', 1), ("schedule != x", 3)):
        where = parse(text, JOB_FIELDS)
        assert (await store.list_page(Query(tenant="acme", limit=10, where=where))).total == number, text


async def test_expired(store):
    """Ended jobs whose time has passed are found, the longest expired first; live ones never."""
    for number, ended in ((1, True), (2, True), (3, True), (4, False)):
        asked = job(number, ttl=timedelta(hours=4 - number), expire_time=None if ended else NOW)
        await store.add([asked])
        if ended:
            await store.change(asked.id, lambda j: queue_transitions.cancel(j, NOW))
    assert await store.list_expired(NOW + timedelta(hours=2), 10) == [job(3).id, job(2).id]
    await store.change(job(3).id, lambda j: queue_transitions.expire(j, NOW + timedelta(hours=2)))
    assert await store.list_expired(NOW + timedelta(hours=2), 10) == [job(2).id]


async def test_a_list_is_read_as_it_was_added(store):
    """Every field of an expansion and of its children survives the store."""
    media = media_pb2.MediaInfo(title="A list", entry_count=9)
    expansion = Expansion(max_entries=7, new_entries_only=True, entry_count=9, job_count=2, skipped_count=1)
    asked = a_list(expansion=expansion, media=media, cascade_time=NOW, schedule="nightly")
    child = job(2, parent=asked.id, position=3, schedule="nightly")
    await store.add([asked, child])
    assert [await store.get(asked.id), await store.get(child.id)] == [asked, child]
