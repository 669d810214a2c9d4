"""Pages of jobs."""

from __future__ import annotations

from reelhaul_jobs.filters.evaluate import holds
from reelhaul_jobs.filters.fields import facts_of
from reelhaul_jobs.memory.rows import Rows
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.ports.jobs import Page, Query


def page(rows: Rows, query: Query) -> Page:
    """The page that *query* asks for."""
    found = [job for job in rows.jobs.values() if _asked(job, query)]
    total = min(len(found), 10_000) if query.total is None else query.total
    found.sort(key=query.order.of, reverse=query.descending)
    if query.after is not None:
        after, place = query.after, query.order.of
        found = [job for job in found if (place(job) < after if query.descending else place(job) > after)]
    found = found[query.skip :]
    return Page(found[: query.limit], len(found) > query.limit, total)


def _asked(job: Job, query: Query) -> bool:
    theirs = query.tenant in (None, job.tenant) and job.delete_time is None
    return theirs and (query.where is None or holds(query.where, facts_of(job)))
