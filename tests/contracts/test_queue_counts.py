"""Counts of the queue for metrics, on SQLite and PostgreSQL: what they show, and what they cost."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, event, text
from tests.contracts.test_job_metrics import counted_store  # noqa: F401 - a fixture
from tests.job_stores import LEASE, NOW, SqlStore, claim, job, open_store, sqlite_store
from tests.jobs.quota_ledgers import add_tenant
from tests.metric_values import MetricChanges, scrape
from tests.postgresql import fresh_database

from reelhaul.admin.v1.api_key_pb2 import Quota
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import leases, queue_transitions, rate_limited_lease, user_actions
from reelhaul_jobs.model.fair_scheduling import ReadyJob
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.queue_counts import QueueCounts
from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import Priority, State
from reelhaul_jobs.model.wait_reason import Shortage, WaitReason, WorkerStatus
from reelhaul_jobs.ports.jobs import Query
from reelhaul_jobs.ports.queue import BacklogQuery
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.gauges import QueueGauges
from reelhaul_jobs.service.job_views import JobViews
from reelhaul_jobs.store.queue import SqlQueueStore
from reelhaul_jobs.store.queue_counts import count_queue
from reelhaul_jobs.store.quotas import ConcurrencyLimits, QuotaLedger, SqlQuotaStore
from reelhaul_jobs.store.tables import jobs
from reelhaul_runtime.metrics.collectors import collecting
from reelhaul_runtime.sql import migrations

HOUR = timedelta(hours=1)
LATER = error_status(ErrorReason.UPSTREAM_UNAVAILABLE, "later")
BLOCKED = error_status(ErrorReason.UPSTREAM_BLOCKED, "are you a robot?")
DISK = error_status(ErrorReason.WORKER_DISK_FULL, "full")
LIMITS = SiteLimits(max_running_by_site={"busy.example": 1})


async def test_depth_and_age(store: SqlStore):
    """Jobs that could start count by priority, with the age of the oldest; those that wait do not."""
    await store.add([job(0, priority=Priority.LOW), job(20, priority=Priority.LOW)])
    await store.add([job(10), job(30, schedule_time=NOW + HOUR)])
    counts = await store.count_queue(NOW)
    assert counts.depth == {Priority.LOW: 2, Priority.NORMAL: 1}
    assert counts.oldest == {Priority.LOW: NOW, Priority.NORMAL: NOW + timedelta(seconds=10)}
    assert counts.scheduled == 1
    # A published item could start too; once it is claimed, it has.
    query = [each for each in await ready(store) if each.id == job(10).id]
    await store.mark_published(query, NOW + HOUR, None)
    published = await store.count_queue(NOW)
    assert (published.depth, published.oldest) == (counts.depth, counts.oldest)
    await claimed(store, 10)
    assert (await store.count_queue(NOW)).depth == {Priority.LOW: 2}


@pytest.mark.parametrize("workers", ["none", "one", "no disk space"])
async def test_wait_reasons(counted_store, workers):  # noqa: F811
    """The number of jobs that wait for a reason is that of the jobs for which GetJob says so."""
    store, hub = counted_store, EventHub()
    queue = SqlQueueStore(store.database, ConcurrencyLimits(QuotaLedger(counts_jobs=True)))
    await add_tenant(store, "acme", Quota())
    await add_tenant(store, "full", Quota(concurrent_jobs=1))
    await create_waiting_jobs(store)
    if workers != "none":
        shortage = Shortage.DISK if workers == "no disk space" else Shortage.NONE
        hub.record_worker(WorkerStatus("w", 3, shortage))
    now = NOW + timedelta(seconds=5)
    views = JobViews(store, queue, hub, lambda: now, LEASE, LIMITS, SqlQuotaStore(store.database))
    found = (await store.list_page(Query(tenant=None, limit=100))).jobs
    shown = Counter(view.wait.reason for view in await views.list_views(found) if view.wait)
    gauges = {
        sample.labels["wait_reason"]: sample.value
        for family in await QueueGauges(queue, hub.workers, LIMITS, lambda: now).read()
        for sample in family.samples
        if sample.name == "reelhaul_jobs_waiting"
    }
    assert {name: count for name, count in gauges.items() if count} == {
        reason.name: count for reason, count in shown.items()
    }
    expected = {"none": "NO_WORKER", "one": "IN_QUEUE", "no disk space": "DISK_FULL"}
    assert shown[WaitReason[expected[workers]]]
    assert {WaitReason.PAUSED, WaitReason.BACKOFF, WaitReason.SCHEDULED} <= set(shown)
    if workers == "one":
        assert {WaitReason.QUOTA, WaitReason.SITE_BUSY, WaitReason.SITE_PARKED} <= set(shown)


async def create_waiting_jobs(store: SqlStore) -> None:
    """Create jobs that wait for each of the reasons that rows tell of."""
    await store.add([job(number) for number in range(10)])
    await store.add([job(10, schedule_time=NOW + 9 * HOUR)])
    await store.change(job(1).id, lambda each: user_actions.pause(each, NOW))
    await fails(store, 2, leases.Failed(error=LATER))
    await fails(store, 3, leases.Released(delay=9 * HOUR, error=DISK))
    await store.add([job(number, url="https://busy.example/") for number in (20, 21)])
    await claimed(store, 20)
    await store.add([job(number, url="https://parked.example/") for number in (30, 31)])
    await fails(store, 30, leases.Failed(error=BLOCKED))
    await store.add([job(number, tenant="full") for number in (40, 41)])
    await claimed(store, 40)


async def test_states_of_many_tenants(store: SqlStore):
    """Jobs that have not ended are counted by state over all tenants; those that have ended are not."""
    await store.add([job(number, tenant=f"tenant-{number % 7}") for number in range(50)])
    for number in range(20):
        await store.change(job(number).id, lambda each: queue_transitions.cancel(each, NOW))
    await claimed(store, 20)
    counts = await store.count_queue(NOW)
    assert {state: count for state, count in counts.states.items() if count} == {
        State.QUEUED: 29,
        State.RUNNING: 1,
    }
    assert counts.leased == 1


async def test_no_query_reads_all_jobs(store: SqlStore):
    """With many jobs that have ended, each query of the counts reads the entries of an index."""
    await store.add([job(0), job(1, tenant="other")])
    await add_ended(store, 10_000)
    plans = await store.database.read(explain_counts)
    assert len(plans) == 4
    for plan in plans:
        for line in plan.splitlines():
            assert "Seq Scan on jobs" not in line, plan
            assert "SCAN jobs" not in line or "USING INDEX" in line, plan


async def test_ended_jobs_cost_nothing(tmp_path):
    """The counts take as many steps of SQLite's virtual machine with ten times as many ended jobs."""
    async with sqlite_store(tmp_path) as store:
        await store.add([job(number, tenant=f"tenant-{number % 5}") for number in range(100)])
        await add_ended(store, 1000)
        few = await store.database.read(count_steps)
        await add_ended(store, 9000, first=1001)
        assert few > 100
        assert await store.database.read(count_steps) <= 1.1 * few


async def ready(store: SqlStore) -> list[ReadyJob]:
    backlog = await store.get_backlog(BacklogQuery(limit=100), NOW)
    return [each for found in backlog.ready.values() for each in found]


async def claimed(store: SqlStore, number: int) -> Job:
    return (await store.change(job(number).id, lambda each: leases.claim(each, claim(), NOW))).job


async def fails(store: SqlStore, number: int, result: leases.Failed | leases.Released) -> None:
    """Claim a job and report *result*, also to the rate limit of its site."""
    running = await claimed(store, number)
    outcome = leases.Outcome(result=result)
    await store.change_lease(
        running.id,
        lambda each: (each.site, ""),
        lambda each, site: rate_limited_lease.finish(
            each, running.epoch, outcome, site, LIMITS, NOW, lambda: 0.0
        ),
        NOW,
        counted=False,
    )


async def add_ended(store: SqlStore, number: int, first: int = 1) -> None:
    """Add *number* copies of a job that has ended, by one statement."""
    ended = job(-first, url="https://ended.example/")
    await store.add([ended])
    await store.change(ended.id, lambda each: queue_transitions.cancel(each, NOW))
    names = ", ".join(f'"{column.name}"' for column in jobs.c)
    values = names.replace('"id"', "'ended-' || numbers.n")

    def op(connection: Connection) -> None:
        connection.execute(
            text(
                f"""
                INSERT INTO jobs ({names})
                WITH RECURSIVE numbers(n) AS (
                    SELECT CAST(:first AS INTEGER)
                    UNION ALL
                    SELECT n + 1 FROM numbers WHERE n < :last
                )
                SELECT {values} FROM numbers CROSS JOIN jobs WHERE jobs.id = :job
                """
            ),
            {"first": first, "last": first + number - 1, "job": ended.id},
        )
        connection.execute(text("ANALYZE"))

    await store.database.write(op)


def explain_counts(connection: Connection) -> list[str]:
    """Return the plans of the queries of ``count_queue`` that name jobs."""
    executed = list[tuple[str, object]]()

    def record(connection, cursor, statement, parameters, context, executemany) -> None:
        if "jobs" in statement:
            executed.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", record)
    count_queue(connection, NOW, 0, None)
    event.remove(connection, "before_cursor_execute", record)
    explain = "EXPLAIN " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    plans = [connection.exec_driver_sql(explain + query, values) for query, values in executed]  # type: ignore[arg-type]
    return ["\n".join(" ".join(map(str, row)) for row in plan) for plan in plans]


def count_steps(connection: Connection) -> int:
    """Return how many steps ``count_queue`` takes in SQLite, in units of ten."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    raw = connection.connection.driver_connection
    raw.set_progress_handler(step, 10)  # type: ignore[union-attr]
    try:
        count_queue(connection, NOW, 0, None)
        return steps
    finally:
        raw.set_progress_handler(None, 0)  # type: ignore[union-attr]


async def test_replicas_show_the_same(tmp_path):
    """Two replicas of one database show the same values of its rows."""
    async with sqlite_store(tmp_path) as store, open_store(f"sqlite:///{tmp_path}/jobs.db") as other:
        await create_waiting_jobs(store)
        shown = []
        for each in (store, other):
            gauges = await QueueGauges(each, EventHub().workers, LIMITS, lambda: NOW).read()
            # Workers report to each replica, not to the rows.
            shown.append([gauge.samples for gauge in gauges if gauge.name != "reelhaul_workers"])
        assert shown[0] == shown[1]
        assert any(sample.value for samples in shown[0] for sample in samples)


async def test_a_scrape_without_a_database():
    """While the database is away a scrape shows none of its rows, and counts that it could not be read."""
    clock = [0.0]
    with ExitStack() as stack:
        url = stack.enter_context(fresh_database())
        migrations.migrate(url, "reelhaul_jobs")
        async with open_store(url) as store:
            gauges = QueueGauges(store, EventHub().workers, LIMITS, lambda: NOW, lambda: clock[0])
            with collecting("queue", gauges.read, timeout_seconds=20):
                assert (await scrape())["reelhaul_jobs"]["QUEUED",] == 0
                stack.close()
                clock[0] += 100
                changes = MetricChanges()
                assert "reelhaul_jobs" not in await scrape()
                assert changes.of("reelhaul_collector_failures_total") == {("queue",): 1}


class SlowStore:
    """A store that takes *seconds* of a clock to count."""

    def __init__(self, clock: list[float]) -> None:
        self.clock, self.seconds, self.calls = clock, 0.0, 0

    async def count_queue(self, now: datetime) -> QueueCounts:
        self.calls += 1
        self.clock[0] += self.seconds
        return QueueCounts(states={}, depth={}, oldest={})


async def test_slow_counts_are_rare():
    """Counting takes a twentieth of the time at most: after two seconds the counts are kept for forty."""
    clock = [0.0]
    slow = SlowStore(clock)
    gauges = QueueGauges(slow, EventHub().workers, LIMITS, lambda: NOW, lambda: clock[0])  # type: ignore[arg-type]
    for slow.seconds, pause, calls in ((0.1, 10, 1), (2.0, 10, 2), (2.0, 31, 2), (0.1, 2, 3)):
        await gauges.read()
        assert slow.calls == calls
        clock[0] += pause
