"""Counts the jobs of a period: by state and error, bytes, and latency percentiles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, func, literal, literal_column, or_, select

from reelhaul_jobs.model.lists import CountQuery, JobCounts, Summary
from reelhaul_jobs.model.states import State
from reelhaul_jobs.store import listing, rows
from reelhaul_jobs.store.tables import attempts, jobs

_MICROSECOND = timedelta(microseconds=1)
_CountsByBucket = defaultdict[int, JobCounts]


def summarize(connection: Connection, query: CountQuery) -> Summary:
    """Return the counts of the jobs that *query* selects."""
    where = listing.conditions(query.tenant, query.where)
    start, end = rows.to_micros(query.start), rows.to_micros(query.end)
    where += [jobs.c.create_time >= start, jobs.c.create_time < end]
    total = _count(connection, where, literal_column("0"))
    if query.bucket_width is None:
        return Summary(total[0], {})
    width = literal(query.bucket_width // _MICROSECOND, BigInteger)
    bucket = (jobs.c.create_time - literal(start, BigInteger)) // width
    return Summary(total[0], _count(connection, where, bucket))


def _count(connection: Connection, where: list[Any], bucket: ColumnElement[int]) -> Mapping[int, JobCounts]:
    """Return the counts by *bucket*."""
    counts: _CountsByBucket = defaultdict(JobCounts)
    _count_states(connection, where, bucket, counts)
    _sum_bytes(connection, where, bucket, counts)
    _add_latencies(connection, where, bucket, counts)
    return counts


def _count_states(
    connection: Connection, where: list[Any], bucket: ColumnElement[int], counts: _CountsByBucket
) -> None:
    statement = (
        select(bucket.label("bucket"), jobs.c.state, jobs.c.error_reason, func.count().label("jobs"))
        .where(*where)
        .group_by(literal_column("bucket"), jobs.c.state, jobs.c.error_reason)
    )
    for row in connection.execute(statement):
        count, state = counts[row.bucket], State(row.state)
        count.states[state] = count.states.get(state, 0) + row.jobs
        if state is State.FAILED:
            count.errors[row.error_reason] = count.errors.get(row.error_reason, 0) + row.jobs


def _sum_bytes(
    connection: Connection, where: list[Any], bucket: ColumnElement[int], counts: _CountsByBucket
) -> None:
    received = func.sum(attempts.c.downloaded_bytes).label("received")
    statement = (
        select(bucket.label("bucket"), received)
        .select_from(jobs.join(attempts, attempts.c.job == jobs.c.id))
        .where(*where)
        .group_by(literal_column("bucket"))
    )
    for row in connection.execute(statement):
        counts[row.bucket].downloaded_bytes = int(row.received)


def _add_latencies(
    connection: Connection, where: list[Any], bucket: ColumnElement[int], counts: _CountsByBucket
) -> None:
    """Compute percentiles by nearest rank: SQLite has no function for them."""
    latency = jobs.c.end_time - jobs.c.create_time
    succeeded = jobs.c.state == literal_column(str(int(State.SUCCEEDED)))
    latencies = select(bucket.label("bucket"), latency.label("latency")).where(*where, succeeded).subquery()
    ranked = select(
        latencies.c.bucket,
        latencies.c.latency,
        func.row_number().over(partition_by=latencies.c.bucket, order_by=latencies.c.latency).label("rank"),
        func.count().over(partition_by=latencies.c.bucket).label("jobs"),
    ).subquery()
    ranks = {percent: (ranked.c.jobs * percent + 99) // 100 for percent in (50, 95)}
    statement = select(ranked, *(rank.label(f"p{percent}") for percent, rank in ranks.items())).where(
        or_(*(ranked.c.rank == rank for rank in ranks.values()))
    )
    for row in connection.execute(statement):
        count, value = counts[row.bucket], timedelta(microseconds=row.latency)
        count.latency_p50 = value if row.rank == row.p50 else count.latency_p50
        count.latency_p95 = value if row.rank == row.p95 else count.latency_p95
