"""What became of the jobs of a stretch of time, counted in SQL."""

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
_Tallies = defaultdict[int, JobCounts]


def summary(connection: Connection, asked: CountQuery) -> Summary:
    """The counts that *asked* asks for."""
    wanted = listing.conditions(asked.tenant, asked.where)
    wanted += [
        jobs.c.create_time >= rows.to_micros(asked.start),
        jobs.c.create_time < rows.to_micros(asked.end),
    ]
    whole = _counted(connection, wanted, literal_column("0"))
    if asked.bucket_width is None:
        return Summary(whole[0], {})
    width = asked.bucket_width // _MICROSECOND
    bucket = (jobs.c.create_time - literal(rows.to_micros(asked.start), BigInteger)) // literal(
        width, BigInteger
    )
    return Summary(whole[0], _counted(connection, wanted, bucket))


def _counted(
    connection: Connection, wanted: list[Any], bucket: ColumnElement[int]
) -> Mapping[int, JobCounts]:
    """Tallies by *bucket*."""
    tallies: _Tallies = defaultdict(JobCounts)
    _count_states(connection, wanted, bucket, tallies)
    _sum_bytes(connection, wanted, bucket, tallies)
    _take_latencies(connection, wanted, bucket, tallies)
    return tallies


def _count_states(
    connection: Connection, wanted: list[Any], bucket: ColumnElement[int], tallies: _Tallies
) -> None:
    statement = (
        select(bucket.label("bucket"), jobs.c.state, jobs.c.error_reason, func.count().label("jobs"))
        .where(*wanted)
        .group_by(literal_column("bucket"), jobs.c.state, jobs.c.error_reason)
    )
    for row in connection.execute(statement):
        tally, state = tallies[row.bucket], State(row.state)
        tally.states[state] = tally.states.get(state, 0) + row.jobs
        if state is State.FAILED:
            tally.errors[row.error_reason] = tally.errors.get(row.error_reason, 0) + row.jobs


def _sum_bytes(
    connection: Connection, wanted: list[Any], bucket: ColumnElement[int], tallies: _Tallies
) -> None:
    received = func.sum(attempts.c.downloaded_bytes).label("received")
    statement = (
        select(bucket.label("bucket"), received)
        .select_from(jobs.join(attempts, attempts.c.job == jobs.c.id))
        .where(*wanted)
        .group_by(literal_column("bucket"))
    )
    for row in connection.execute(statement):
        tallies[row.bucket].downloaded_bytes = int(row.received)


def _take_latencies(
    connection: Connection, wanted: list[Any], bucket: ColumnElement[int], tallies: _Tallies
) -> None:
    """Percentiles by nearest rank: SQLite has no function for them."""
    latency = jobs.c.end_time - jobs.c.create_time
    succeeded = jobs.c.state == literal_column(str(int(State.SUCCEEDED)))
    by_bucket = select(bucket.label("bucket"), latency.label("latency")).where(*wanted, succeeded).subquery()
    bucket_of = by_bucket.c.bucket
    ranked = select(
        bucket_of,
        by_bucket.c.latency,
        func.row_number().over(partition_by=bucket_of, order_by=by_bucket.c.latency).label("rank"),
        func.count().over(partition_by=bucket_of).label("jobs"),
    ).subquery()
    ranks = {percent: (ranked.c.jobs * percent + 99) // 100 for percent in (50, 95)}
    statement = select(ranked, *(rank.label(f"p{percent}") for percent, rank in ranks.items())).where(
        or_(*(ranked.c.rank == rank for rank in ranks.values()))
    )
    for row in connection.execute(statement):
        tally, spent = tallies[row.bucket], timedelta(microseconds=row.latency)
        tally.latency_p50 = spent if row.rank == row.p50 else tally.latency_p50
        tally.latency_p95 = spent if row.rank == row.p95 else tally.latency_p95
