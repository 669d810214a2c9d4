"""Results of the use cases: what the API converts into responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import wait_reason
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import State

#: Whose jobs a caller may see: one tenant's, or everyone's (None) for the suite's own services.
Owner = str | None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as its reader sees it."""

    job: Job
    wait: wait_reason.Wait | None = None
    estimate: media_pb2.Estimate | None = None
    #: For an expansion: how many of its jobs are in each state; None: not counted.
    children: Mapping[State, int] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the job with its deliveries, and of an expansion all of its jobs, have ended."""
        job_has_ended = self.job.state.is_terminal and self.job.delivery_time is None
        return job_has_ended and all(
            state.is_terminal or not number for state, number in (self.children or {}).items()
        )

    @classmethod
    def from_row(cls, job: Job) -> JobView:
        """Return the view that the row of *job* alone gives: without its position in the queue."""
        return cls(job, wait_reason.explain_wait(job))


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """The worker holds the job; ``before``: the job before this claim, None for a repeated claim."""

    job: Job
    before: Job | None
    duration: timedelta


@dataclass(frozen=True, slots=True)
class LeaseRenewal:
    """The lease is extended."""

    expire_time: datetime
    duration: timedelta
    cancel_requested: bool
    stop_recording: bool


@dataclass(frozen=True, slots=True)
class LeaseReceipt:
    """The outcome is committed."""

    time: datetime
    revision: int
    cancelled: bool
    #: Whether the job has ended.
    ended: bool
    repeated: bool = False
