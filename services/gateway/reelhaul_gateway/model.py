"""Model: what the suite is made of, and what it is worth without one of its parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reelhaul.system.v1.system_service_pb2 import ServingStatus

UNKNOWN = ServingStatus.SERVING_STATUS_UNSPECIFIED
SERVING = ServingStatus.SERVING_STATUS_SERVING
DEGRADED = ServingStatus.SERVING_STATUS_DEGRADED
NOT_SERVING = ServingStatus.SERVING_STATUS_NOT_SERVING


@dataclass(frozen=True, slots=True)
class Part:
    """Something whose health a service knows."""

    #: As told to people, e.g. ``jobs.database``.
    name: str
    #: The service that is asked, and the name that its health service knows the part by.
    owner: str
    health_name: str
    #: Whether the suite is down without it.
    critical: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """How a part was found."""

    name: str
    status: ServingStatus.ValueType
    critical: bool
    message: str = ""
    #: Seconds that it took to answer; None where it did not.
    seconds: float | None = None


#: The services themselves.
SERVICES = (
    Part("jobs", "jobs", "reelhaul.jobs.v1.JobService"),
    Part("storage", "storage", "reelhaul.storage.v1.StorageService"),
    # Without fetchers jobs are taken and wait.
    Part("fetcher", "fetcher", "reelhaul.fetcher.v1.FetcherService", critical=False),
)

#: What they lean on.
PARTS = (
    Part("jobs.database", "jobs", "jobs.database"),
    Part("nats", "jobs", "jobs.nats"),
    Part("storage.database", "storage", "storage.database"),
    Part("storage.backend", "storage", "storage.backend"),
    Part("fetcher.nats", "fetcher", "fetcher.nats", critical=False),
    Part("fetcher.engine", "fetcher", "fetcher.engine", critical=False),
    # Not served while its disk is short of space: jobs wait.
    Part("fetcher.disk", "fetcher", "fetcher.disk", critical=False),
    # Not served once it is drained: it takes no more work.
    Part("fetcher.work", "fetcher", "fetcher.work", critical=False),
)


def verdict(findings: Iterable[Finding]) -> ServingStatus.ValueType:
    """NOT_SERVING where something critical is down, DEGRADED where only others are."""
    down = [finding for finding in findings if finding.status == NOT_SERVING]
    if any(finding.critical for finding in down):
        return NOT_SERVING
    return DEGRADED if down else SERVING
