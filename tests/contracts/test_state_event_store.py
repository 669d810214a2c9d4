"""What those need of a store who follow jobs: held against SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

from tests.job_stores import NOW, claim, job

from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.state_events import StateEvent


async def test_moves_in_order(store):
    """Moves come in the order of their times, whichever job made them, page by page."""
    one, two = job(1), job(2, tenant="other")
    await store.add([one, two])
    later = NOW + timedelta(seconds=10)
    await store.change(one.id, lambda j: leases.claim(j, claim(), later))
    found = list(await store.list_state_events(StateEvent(NOW), 2))
    found += await store.list_state_events(found[-1], 2)
    assert [(move.job_id, move.revision, move.old_state) for move in found] == [
        (one.id, 1, None),
        (two.id, 1, None),
        (one.id, 2, State.QUEUED),
    ]
    assert found[-1].time == later
    assert not await store.list_state_events(found[-1], 2)


async def test_moves_at_the_same_moment(store):
    """Moves of one moment are paged through as well: none is passed over, none comes twice."""
    many = [job(number, create_time=NOW, update_time=NOW) for number in range(1, 8)]
    await store.add(many)
    after, found = StateEvent(NOW - timedelta(seconds=1)), []
    while page := await store.list_state_events(after, 3):
        found += [move.job_id for move in page]
        after = page[-1]
    assert found == [made.id for made in many]


async def test_moves_of_some(store):
    """Moves can be asked for of one tenant, or among some jobs."""
    one, two = job(1), job(2, tenant="other")
    await store.add([one, two])
    of_tenant = await store.list_state_events(StateEvent(NOW), 10, tenant="other")
    among = await store.list_state_events(StateEvent(NOW), 10, among=[one.id, "none"])
    assert [move.job_id for move in of_tenant] == [two.id]
    assert [move.job_id for move in among] == [one.id]


async def test_as_they_are(store):
    """Rows are read as they are, of deleted jobs too; what has no row is left out."""
    one, two = job(1), job(2)
    await store.add([one, two])
    await store.change(two.id, lambda j: queue_transitions.delete(j, NOW))
    found = {row.id: row for row in await store.get_with_deleted([one.id, two.id, "none"])}
    assert found.keys() == {one.id, two.id}
    assert found[two.id].delete_time == NOW


async def test_revisions(store):
    """The revisions of the jobs that are there: deleted ones are not."""
    one, two = job(1), job(2)
    await store.add([one, two])
    await store.change(one.id, lambda j: leases.claim(j, claim(), NOW))
    await store.change(two.id, lambda j: queue_transitions.delete(j, NOW))
    assert await store.get_revisions([one.id, two.id, "none"]) == {one.id: 2}
