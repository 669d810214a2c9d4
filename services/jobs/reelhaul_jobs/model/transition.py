"""A change of one job: before, after, and what it adds to the job's history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from reelhaul_jobs.model.job import Attempt, AttemptOutcome, Event, Job
from reelhaul_jobs.model.rate_limit import SiteRateLimit
from reelhaul_jobs.model.states import State


class RefusalReason(IntEnum):
    """Why a lease was not granted, renewed or finished; numbered as Refusal.Reason."""

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
    """A regular answer to a worker: no lease, or no longer.

    The worker returns the work item to the queue for ``retry_delay``; if that is not set, it drops the item.
    """

    reason: RefusalReason
    message: str
    retry_delay: timedelta | None = None
    lease_expire_time: datetime | None = None
    #: Whether the job has ended, for any reason.
    job_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """The result of applying a rule to a job. Nothing is written if ``job`` is ``before``."""

    before: Job
    job: Job
    #: The attempt that starts with this change.
    started_attempt: Attempt | None = None
    #: How the attempt under the lease of ``before`` ended with this change.
    attempt_outcome: AttemptOutcome | None = None
    refusal: Refusal | None = None
    #: Jobs that an expansion created with this change.
    children: tuple[Job, ...] = ()
    #: Extractor and id of the entries that the schedule remembers from now on.
    seen_entries: tuple[tuple[str, str], ...] = ()
    #: The new rate limit of the site; None if unchanged.
    rate_limit: SiteRateLimit | None = None

    @property
    def changed(self) -> bool:
        """Whether anything changed at all."""
        return self.job is not self.before

    @property
    def needs_worker_attention(self) -> bool:
        """Whether workers should be notified of the change at once.

        The worker with the lease has to stop; workers with earlier leases delete media kept for an ended job.
        """
        if self.is_delivery:
            return False
        has_run_before = self.job.epoch > (1 if self.before.is_leased else 0)
        if self.job.state.is_terminal and has_run_before:
            return True
        if self.before.state is not State.RUNNING:
            return False
        stopped = self.job.recording_stop_time != self.before.recording_stop_time
        return stopped or self.job.state in (State.CANCELLING, State.PAUSED)

    @property
    def is_delivery(self) -> bool:
        """Whether a delivery of the job's artifacts changed in a way that callers see, and nothing else."""
        return (
            self.job.state is self.before.state
            and self.job.revision != self.before.revision
            and self.job.deliveries != self.before.deliveries
        )

    @property
    def event(self) -> Event | None:
        """The event for watchers; None if neither the state nor a delivery changed."""
        if self.job.state is self.before.state and not self.is_delivery:
            return None
        return create_event(self.job, self.before)


def no_change(job: Job, refusal: Refusal | None = None) -> Transition:
    """Return a transition that leaves *job* as it is."""
    return Transition(before=job, job=job, refusal=refusal)


def create_event(job: Job, before: Job | None) -> Event:
    """Return the event of *job* entering its present state; *before* is None if it was created."""
    return Event(
        revision=job.revision,
        time=job.update_time,
        old_state=before.state if before else None,
        state=job.state,
        charged=job.charged,
        error=job.error,
        next_attempt_time=job.next_attempt_time,
    )
