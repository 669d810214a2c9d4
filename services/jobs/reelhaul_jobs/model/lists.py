"""Values for operations on many jobs: the order of a list, batches, and counts over a period."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum

from google.rpc import status_pb2

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import State
from reelhaul_runtime.filters.ast import Node

#: Sorts in place of a time that is not set: later than any.
NEVER = datetime(2200, 1, 1, tzinfo=UTC)


class Order(Enum):
    """The time that jobs are sorted by; jobs of the same time are sorted by id."""

    CREATED = "create_time"
    UPDATED = "update_time"
    #: A job that has not ended sorts as the latest.
    ENDED = "end_time"

    def sort_key(self, job: Job) -> tuple[datetime, str]:
        """Return the sort key of *job* in this order."""
        time: datetime | None = getattr(job, self.value)
        return time or NEVER, job.id


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs requested together, by their position in the request, and the errors of those that failed."""

    jobs: Mapping[int, Job]
    failed: Mapping[int, status_pb2.Status] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountQuery:
    """Selects the jobs to count: those created from *start* (inclusive) to *end* (exclusive)."""

    #: None: of all tenants.
    tenant: str | None
    start: datetime
    end: datetime
    #: Width of the buckets counted besides the total; None: no buckets.
    bucket_width: timedelta | None = None
    where: Node | None = None


@dataclass(slots=True)
class JobCounts:
    """Counts of jobs."""

    states: dict[State, int] = field(default_factory=dict)
    #: ErrorReason name -> FAILED jobs.
    errors: dict[str, int] = field(default_factory=dict)
    #: Bytes received by attempts that ended.
    downloaded_bytes: int = 0
    #: Percentiles of the time from creation to the end of SUCCEEDED jobs; None if there are none.
    latency_p50: timedelta | None = None
    latency_p95: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of the whole period, and of its buckets that have jobs, by their number from 0."""

    total: JobCounts
    buckets: Mapping[int, JobCounts]
