"""A change of one job: what it was, what it is, and what follows for its history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from reelhaul_jobs.model.job import Attempt, AttemptOutcome, Event, Job
from reelhaul_jobs.model.rate_limit import SiteRateLimit
from reelhaul_jobs.model.states import State


class RefusalReason(IntEnum):
    """Why a lease was not given, kept or finished; numbered as Refusal.Reason."""

    LEASED = 1
    SUPERSEDED = 2
    ENDED = 3
    PAUSED = 4
    NOT_DUE = 5
    UNKNOWN = 6
    LOST = 7
    SLOT_UNFIT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An ordinary answer to a worker: no lease, or no longer.

    With a ``retry_delay`` the work item is to be handed back for so long, without it dropped.
    """

    reason: RefusalReason
    message: str
    retry_delay: timedelta | None = None
    lease_expire_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What a rule made of a job. Nothing is written where ``job`` is ``before``."""

    before: Job
    job: Job
    #: The attempt that begins with this change.
    started_attempt: Attempt | None = None
    #: How the attempt of ``before``'s lease ended with this change.
    attempt_outcome: AttemptOutcome | None = None
    refusal: Refusal | None = None
    #: Jobs that an expansion made with this change.
    children: tuple[Job, ...] = ()
    #: What its schedule remembers from now on: extractor and id of each entry.
    seen_entries: tuple[tuple[str, str], ...] = ()
    #: The gate as it is from now on; None: as it was.
    rate_limit: SiteRateLimit | None = None

    @property
    def changed(self) -> bool:
        """Whether anything changed at all."""
        return self.job is not self.before

    @property
    def needs_worker_attention(self) -> bool:
        """Whether who holds the lease is to renew at once: what it does is to end."""
        if self.before.state is not State.RUNNING:
            return False
        stopped = self.job.recording_stop_time != self.before.recording_stop_time
        return stopped or self.job.state in (State.CANCELLING, State.PAUSED)

    @property
    def event(self) -> Event | None:
        """What watchers are told; None where the state stayed."""
        if self.job.state is self.before.state:
            return None
        return create_event(self.job, self.before)


def no_change(job: Job, refusal: Refusal | None = None) -> Transition:
    """*job* stays as it is."""
    return Transition(before=job, job=job, refusal=refusal)


def create_event(job: Job, before: Job | None) -> Event:
    """How *job* came into its present state; *before* is None for its birth."""
    return Event(
        revision=job.revision,
        time=job.update_time,
        old_state=before.state if before else None,
        state=job.state,
        charged=job.charged,
        error=job.error,
        next_attempt_time=job.next_attempt_time,
    )
