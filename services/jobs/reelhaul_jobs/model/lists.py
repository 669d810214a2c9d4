"""Many jobs at once: the orders of a list, batches, and what is counted over a stretch of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum

from google.rpc import status_pb2

from reelhaul_jobs.filters.ast import Node
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import State

#: What a time that has not come counts as where jobs are ordered by it: later than any.
NEVER = datetime(2200, 1, 1, tzinfo=UTC)


class Order(Enum):
    """The time that jobs are ordered by; those of one time are ordered by id."""

    CREATED = "create_time"
    UPDATED = "update_time"
    #: A job that has not ended comes as the latest.
    ENDED = "end_time"

    def sort_key(self, job: Job) -> tuple[datetime, str]:
        """Where *job* stands in this order."""
        time: datetime | None = getattr(job, self.value)
        return time or NEVER, job.id


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs asked for together, each by its place in the request; and why others cannot be."""

    jobs: Mapping[int, Job]
    failed: Mapping[int, status_pb2.Status] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountQuery:
    """Jobs created in a stretch of time, to be counted: *start* is in it, *end* is not."""

    tenant: str | None
    start: datetime
    end: datetime
    #: Width of the buckets that are told beside the total; None: none are.
    bucket_width: timedelta | None = None
    where: Node | None = None


@dataclass(slots=True)
class JobCounts:
    """What was counted."""

    states: dict[State, int] = field(default_factory=dict)
    #: ErrorReason name -> FAILED jobs.
    errors: dict[str, int] = field(default_factory=dict)
    #: Received by attempts that ended.
    downloaded_bytes: int = 0
    #: From create to end of those that SUCCEEDED, half and 95 % of them within; None without any.
    latency_p50: timedelta | None = None
    latency_p95: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole range, and the buckets of it that hold any job, by their number from 0."""

    total: JobCounts
    buckets: Mapping[int, JobCounts]
