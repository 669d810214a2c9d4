"""Why a job does not run: the answer to "why is nothing happening"."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import Lane, State


class WaitReason(IntEnum):
    """Why; numbered as Wait.Reason."""

    SCHEDULED = 1
    IN_QUEUE = 2
    BACKOFF = 3
    PAUSED = 7
    NO_WORKER = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why, for how long at least, and how many are before it (0: not told)."""

    reason: WaitReason
    message: str
    place: int = 0
    until: datetime | None = None


def wait_of(job: Job, *, place: int = 0, workers: bool = True) -> Wait | None:
    """Why *job* does not run; None where it runs or has ended.

    *place* counts from 1 where it is known; *workers* says whether any lives.
    """
    match job.state:
        case State.RETRYING:
            message = "the last attempt failed; the next one waits for its time"
            return Wait(reason=WaitReason.BACKOFF, message=message, until=job.due)
        case State.PAUSED:
            return Wait(reason=WaitReason.PAUSED, message="paused by a user")
        case State.QUEUED if job.lane is Lane.LATER:
            return Wait(reason=WaitReason.SCHEDULED, message="its time has not come", until=job.due)
        case State.QUEUED if not workers:
            return Wait(reason=WaitReason.NO_WORKER, message="no fetcher is running", place=place)
        case State.QUEUED:
            return Wait(reason=WaitReason.IN_QUEUE, message="waits for a free slot", place=place)
        case _:
            return None
