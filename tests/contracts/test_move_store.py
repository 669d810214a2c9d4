"""What those need of a store who follow jobs: held against memory, SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from tests.contracts.test_job_store import NOW, claim, job
from tests.postgresql import fresh_database

from reelhaul_jobs.memory.store import MemoryStore
from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.state_events import StateEvent, StateEventStore
from reelhaul_jobs.store.jobs import SqlJobStore
from reelhaul_jobs.store.state_events import SqlStateEventStore
from reelhaul_runtime.sql import migrations
from reelhaul_runtime.sql.database import Database


@dataclass
class Stores:
    """The same rows through both ports."""

    jobs: JobStore
    moves: StateEventStore


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def stores(request, tmp_path) -> AsyncIterator[Stores]:
    if request.param == "memory":
        store = MemoryStore()
        yield Stores(store, store)
    elif request.param == "sqlite":
        async for opened in over(f"sqlite:///{tmp_path}/jobs.db"):
            yield opened
    else:
        with fresh_database() as url:
            async for opened in over(url):
                yield opened


async def over(url: str) -> AsyncIterator[Stores]:
    await asyncio.to_thread(migrations.migrate_if_behind, url, "reelhaul_jobs")
    async with Database.open(url) as database:
        yield Stores(SqlJobStore(database), SqlStateEventStore(database))


async def test_moves_in_order(stores):
    """Moves come in the order of their times, whichever job made them, page by page."""
    one, two = job(1), job(2, tenant="other")
    await stores.jobs.add([one, two])
    later = NOW + timedelta(seconds=10)
    await stores.jobs.change(one.id, lambda j: leases.claimed(j, claim(), later))
    found = list(await stores.moves.moves(StateEvent(NOW), 2))
    found += await stores.moves.moves(found[-1], 2)
    assert [(move.job_id, move.revision, move.left) for move in found] == [
        (one.id, 1, None),
        (two.id, 1, None),
        (one.id, 2, State.QUEUED),
    ]
    assert found[-1].time == later
    assert not await stores.moves.moves(found[-1], 2)


async def test_moves_at_the_same_moment(stores):
    """Moves of one moment are paged through as well: none is passed over, none comes twice."""
    many = [job(number, create_time=NOW, update_time=NOW) for number in range(1, 8)]
    await stores.jobs.add(many)
    after, found = StateEvent(NOW - timedelta(seconds=1)), []
    while page := await stores.moves.moves(after, 3):
        found += [move.job_id for move in page]
        after = page[-1]
    assert found == [made.id for made in many]


async def test_moves_of_some(stores):
    """Moves can be asked for of one tenant, or among some jobs."""
    one, two = job(1), job(2, tenant="other")
    await stores.jobs.add([one, two])
    of_tenant = await stores.moves.moves(StateEvent(NOW), 10, tenant="other")
    among = await stores.moves.moves(StateEvent(NOW), 10, among=[one.id, "none"])
    assert [move.job_id for move in of_tenant] == [two.id]
    assert [move.job_id for move in among] == [one.id]


async def test_as_they_are(stores):
    """Rows are read as they are, of deleted jobs too; what has no row is left out."""
    one, two = job(1), job(2)
    await stores.jobs.add([one, two])
    await stores.jobs.change(two.id, lambda j: queue_transitions.deleted(j, NOW))
    found = {row.id: row for row in await stores.moves.as_they_are([one.id, two.id, "none"])}
    assert found.keys() == {one.id, two.id}
    assert found[two.id].delete_time == NOW


async def test_revisions(stores):
    """The revisions of the jobs that are there: deleted ones are not."""
    one, two = job(1), job(2)
    await stores.jobs.add([one, two])
    await stores.jobs.change(one.id, lambda j: leases.claimed(j, claim(), NOW))
    await stores.jobs.change(two.id, lambda j: queue_transitions.deleted(j, NOW))
    assert await stores.jobs.revisions([one.id, two.id, "none"]) == {one.id: 2}
