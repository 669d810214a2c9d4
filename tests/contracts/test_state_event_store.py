"""The contract of StateEventStore, on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

from tests.job_stores import NOW, claim, job

from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.state_events import StateEvent


async def test_events_in_order(store):
    """Events come in the order of their times, whichever job they are of, page by page."""
    one, two = job(1), job(2, tenant="other")
    await store.add([one, two])
    later = NOW + timedelta(seconds=10)
    await store.change(one.id, lambda j: leases.claim(j, claim(), later))
    found = list(await store.list_state_events(StateEvent(NOW), 2))
    found += await store.list_state_events(found[-1], 2)
    assert [(event.job_id, event.revision, event.old_state) for event in found] == [
        (one.id, 1, None),
        (two.id, 1, None),
        (one.id, 2, State.QUEUED),
    ]
    assert found[-1].time == later
    assert not await store.list_state_events(found[-1], 2)


async def test_events_of_the_same_time(store):
    """Events of the same time are paged through as well: none is skipped, none comes twice."""
    jobs = [job(number, create_time=NOW, update_time=NOW) for number in range(1, 8)]
    await store.add(jobs)
    after, found = StateEvent(NOW - timedelta(seconds=1)), []
    while page := await store.list_state_events(after, 3):
        found += [event.job_id for event in page]
        after = page[-1]
    assert found == [each.id for each in jobs]


async def test_events_of_some_jobs(store):
    """Events can be limited to one tenant, or to some jobs."""
    one, two = job(1), job(2, tenant="other")
    await store.add([one, two])
    of_tenant = await store.list_state_events(StateEvent(NOW), 10, tenant="other")
    among = await store.list_state_events(StateEvent(NOW), 10, among=[one.id, "none"])
    assert [event.job_id for event in of_tenant] == [two.id]
    assert [event.job_id for event in among] == [one.id]


async def test_get_with_deleted(store):
    """Deleted jobs are read too; a job without a row is left out."""
    one, two = job(1), job(2)
    await store.add([one, two])
    await store.change(two.id, lambda j: queue_transitions.delete(j, NOW))
    found = {row.id: row for row in await store.get_with_deleted([one.id, two.id, "none"])}
    assert found.keys() == {one.id, two.id}
    assert found[two.id].delete_time == NOW


async def test_revisions(store):
    """Only jobs that are not deleted have a revision."""
    one, two = job(1), job(2)
    await store.add([one, two])
    await store.change(one.id, lambda j: leases.claim(j, claim(), NOW))
    await store.change(two.id, lambda j: queue_transitions.delete(j, NOW))
    assert await store.get_revisions([one.id, two.id, "none"]) == {one.id: 2}
