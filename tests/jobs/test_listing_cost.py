"""What a page of jobs costs, in steps of SQLite's virtual machine: the same on every computer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection
from tests.job_stores import NOW, job

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.filters import JOB_FIELDS
from reelhaul_jobs.model.lists import Order
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import QueueStage, State
from reelhaul_jobs.ports.jobs import Page, Query
from reelhaul_jobs.store import listing
from reelhaul_jobs.store.jobs import SqlJobStore
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.sql import engines, migrations
from reelhaul_runtime.sql.database import Database

JOBS, PAGE = 6000, 5
GONE = error_status(ErrorReason.MEDIA_NOT_FOUND, "gone")


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A database with many jobs, one in a hundred of them failed."""
    url = f"sqlite:///{tmp_path_factory.mktemp('jobs')}/jobs.db"
    migrations.migrate(url, "reelhaul_jobs")
    asyncio.run(fill(url))
    engine = engines.create_read_engine(url, connections=1)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


async def fill(url: str) -> None:
    ended = {"state": State.SUCCEEDED, "queue_stage": QueueStage.IDLE, "due": None}
    async with Database.open(url) as database:
        store = SqlJobStore(database)
        for begin in range(0, JOBS, 1000):
            succeeded = [
                replace(job(n), **ended, end_time=NOW + timedelta(seconds=n), batch_id=f"b{n // 100}")
                for n in range(begin, begin + 1000)
            ]
            mixed = [
                replace(each, state=State.FAILED, error=GONE) if n % 100 == 0 else each
                for n, each in enumerate(succeeded)
            ]
            await store.add(mixed)


def cost(connection: Connection, query: Query) -> tuple[Page, int]:
    """Return the page, and the steps that it took."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    raw = connection.connection.driver_connection
    raw.set_progress_handler(count, 10)
    try:
        return listing.list_page(connection, query), steps
    finally:
        raw.set_progress_handler(None, 0)


@pytest.mark.parametrize("order", list(Order))
def test_a_late_page_costs_what_the_first_does(connection, order):
    """The thousandth page of a list takes no more work than its first, in every order."""
    query = Query(tenant="acme", limit=PAGE, order=order)
    page, first = cost(connection, query)
    for _ in range(998):
        page, _ = cost(connection, replace(query, after=order.sort_key(page.jobs[-1]), total=page.total))
    page, late = cost(connection, replace(query, after=order.sort_key(page.jobs[-1]), total=page.total))
    assert len(page.jobs) == PAGE
    assert late <= 1.5 * first
    _, counted = cost(connection, replace(query, after=order.sort_key(page.jobs[-1])))
    assert counted <= 1.5 * first


@pytest.mark.parametrize(
    "text",
    [
        "state = SUCCEEDED",
        "state != FAILED",
        "end_time > 2030-01-01T12:00:00Z",
        "end_time < 2031-01-01T12:00:00Z",
        "create_time < 2031-01-01T12:00:00Z",
        "create_time > 2029-01-01T12:00:00Z",
    ],
)
@pytest.mark.parametrize("order", list(Order))
def test_a_late_page_of_a_broad_filter(connection, order, text):
    """So it is with a filter that most jobs match."""
    query = Query(tenant="acme", limit=PAGE, order=order, where=parse(text, JOB_FIELDS))
    page, first = cost(connection, query)
    for _ in range(300):
        page, late = cost(connection, replace(query, after=order.sort_key(page.jobs[-1]), total=page.total))
    assert len(page.jobs) == PAGE
    assert late <= 1.5 * first


@pytest.mark.parametrize(
    ("text", "matching"),
    [
        ("state = FAILED", JOBS // 100),
        ("error.reason = MEDIA_NOT_FOUND", JOBS // 100),
        ("state = FAILED AND error.reason = MEDIA_NOT_FOUND", JOBS // 100),
        ("batch_id = b7", 100),
        ("state = FAILED OR state = CANCELLED", JOBS // 100),
        ("NOT state = SUCCEEDED", JOBS // 100),
        (f'end_time < "{(NOW + timedelta(seconds=90)).isoformat()}"', 90),
    ],
)
@pytest.mark.parametrize("order", list(Order))
def test_a_narrow_filter_reads_few_rows(connection, text, matching, order):
    """Lists by state, reason, batch and end read only the matching jobs, in every order."""
    query = Query(tenant="acme", limit=PAGE, order=order, where=parse(text, JOB_FIELDS))
    page, steps = cost(connection, query)
    assert page.total == matching
    _, everything = cost(connection, replace(query, where=parse('url = "*nothing*"', JOB_FIELDS)))
    assert steps < everything / 10
