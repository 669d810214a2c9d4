"""What became of the jobs of a stretch of time, counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from reelhaul_jobs.filters.evaluate import holds
from reelhaul_jobs.filters.fields import facts_of
from reelhaul_jobs.memory.rows import Rows
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.lists import JobCounts, Range, Summary
from reelhaul_jobs.model.states import State


def summary(rows: Rows, asked: Range) -> Summary:
    """What *asked* asks for."""
    found = [job for job in rows.jobs.values() if _in_range(job, asked)]
    if asked.step is None:
        return Summary(_tally(rows, found), {})
    buckets: dict[int, list[Job]] = defaultdict(list)
    for job in found:
        buckets[(job.create_time - asked.start) // asked.step].append(job)
    series = {number: _tally(rows, jobs) for number, jobs in buckets.items()}
    return Summary(_tally(rows, found), series)


def _in_range(job: Job, asked: Range) -> bool:
    theirs = asked.tenant in (None, job.tenant) and job.delete_time is None
    held = asked.where is None or holds(asked.where, facts_of(job))
    return theirs and held and asked.start <= job.create_time < asked.end


def _tally(rows: Rows, jobs: Sequence[Job]) -> JobCounts:
    tally = JobCounts()
    for job in jobs:
        tally.states[job.state] = tally.states.get(job.state, 0) + 1
        if job.state is State.FAILED:
            reason = str(facts_of(job)["error.reason"])
            tally.errors[reason] = tally.errors.get(reason, 0) + 1
    ids = {job.id for job in jobs}
    tally.downloaded_bytes = sum(a.downloaded_bytes for a in rows.attempts.values() if a.job in ids)
    ended = [(job.end_time, job.create_time) for job in jobs if job.state is State.SUCCEEDED]
    spent = sorted(end - begun for end, begun in ended if end is not None)
    if spent:
        tally.latency_p50 = spent[(len(spent) * 50 + 99) // 100 - 1]
        tally.latency_p95 = spent[(len(spent) * 95 + 99) // 100 - 1]
    return tally
