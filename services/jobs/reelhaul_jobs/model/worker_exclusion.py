"""Avoiding: a job's next attempt is for another worker than the one that could not do it."""

from __future__ import annotations

from datetime import datetime, timedelta

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.transition import Refusal, RefusalReason

# For so long its worker leaves the item to others, each time that it gets it.
_TO_OTHERS = timedelta(seconds=2)
# For so long after its next attempt could begin: then the worker may be the only one.
_AVOIDED = timedelta(minutes=1)


def exclude_worker(job: Job) -> Job:
    """*job*, its next attempt not for the worker that held it, unless no other takes it in time."""
    return job if job.due is None else job.replace_fields(avoid_until=job.due + _AVOIDED)


def refusal(job: Job, worker: str, now: datetime) -> Refusal | None:
    """Why *worker* is not to have *job* now; None if it may."""
    if worker != job.worker or job.avoid_until is None or job.avoid_until <= now:
        return None
    return Refusal(
        reason=RefusalReason.SLOT_UNFIT,
        message=f"{worker} could not do it: another worker is to try",
        retry_delay=_TO_OTHERS,
    )
