"""The rows: what the stores in memory share."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from google.rpc import status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model.fair_scheduling import Ready
from reelhaul_jobs.model.job import Attempt, Event, Job
from reelhaul_jobs.model.rate_limit import WORKER_GONE, SiteRateLimit
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_runtime.errors import NotFound, ReelhaulError


class Rows:
    """What one database holds."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.requests: dict[tuple[str, str, str], tuple[IdempotencyKey, list[str]]] = {}
        self.failed: dict[tuple[str, str, str], Mapping[int, status_pb2.Status]] = {}
        #: Extractor and id of the entries that each schedule has seen, by tenant and id.
        self.entries: dict[tuple[str, str], set[tuple[str, str]]] = {}
        self.workers: dict[str, tuple[int, datetime]] = {}
        self.leaders: dict[str, tuple[str, datetime]] = {}
        self.egresses: dict[str, datetime] = {}
        self.gates: dict[tuple[str, str], SiteRateLimit] = {}
        self.keys: dict[str, bytes] = defaultdict(lambda: secrets.token_bytes(32))

    def live(self, now: datetime) -> set[str]:
        """The egresses of the workers seen lately."""
        return {name for name, seen in self.egresses.items() if seen > now - WORKER_GONE}

    def gate(self, site: str, egress: str) -> SiteRateLimit:
        """The gate of *egress* at *site*; a plain one where nothing is known of it."""
        return self.gates.get((site, egress), SiteRateLimit(site=site, egress=egress))

    def get(self, job_id: str) -> Job:
        """The job, or ``NotFound``: also where it was deleted."""
        job = self.jobs.get(job_id)
        if job is None or job.delete_time is not None:
            raise NotFound(f"jobs/{job_id}")
        return job

    def lives(self, tenant: str, schedule: str) -> bool:
        """Whether a job of that schedule has not ended."""
        found = (job for job in self.jobs.values() if (job.tenant, job.schedule) == (tenant, schedule))
        return any(job.end_time is None for job in found)

    def remember(self, request: IdempotencyKey, ids: list[str]) -> None:
        """Keep what *request* was answered with."""
        self.requests[request.tenant, request.method, request.id] = request, ids

    def answered(self, request: IdempotencyKey) -> list[str] | None:
        """Ids of what the same request was answered with before. REQUEST_ID_REUSED."""
        earlier = self.requests.get((request.tenant, request.method, request.id))
        if earlier is None:
            return None
        if earlier[0].digest != request.digest:
            raise ReelhaulError(
                ErrorReason.REQUEST_ID_REUSED,
                f"request_id {request.id} was used with another request",
                metadata={"requestId": request.id},
            )
        return earlier[1]

    def replayed(self, request: IdempotencyKey) -> list[Job] | None:
        """The jobs that the same request was answered with before. REQUEST_ID_REUSED."""
        ids = self.answered(request)
        if ids is None:
            return None
        found = [self.get(job_id) for job_id in ids if self.is_there(job_id)]
        if ids and not found:
            raise NotFound(f"jobs/{ids[0]}")
        return found

    def is_there(self, job_id: str) -> bool:
        """Whether there is a job of that id that was not deleted."""
        return job_id in self.jobs and self.jobs[job_id].delete_time is None

    def write(self, change: Transition) -> None:
        """Keep what *change* made, with its event and attempt."""
        job = change.job
        self.jobs[job.id] = job
        if event := change.event:
            self.events[job.id].append(event)
        if ending := change.ended:
            key = job.id, change.before.attempt
            self.attempts[key] = replace(
                self.attempts[key],
                state=ending.state,
                error=ending.error,
                http_statuses=dict(ending.http_statuses),
                end_time=job.update_time,
                downloaded_bytes=job.progress.downloaded_bytes if job.progress else 0,
                finish_revision=job.revision if ending.finished else None,
            )
        if began := change.began:
            self.attempts[job.id, began.number] = began


def exists(job: Job) -> ReelhaulError:
    """The failure of a job whose id is taken."""
    return ReelhaulError(ErrorReason.RESOURCE_EXISTS, f"{job.name} exists", metadata={"resource": job.name})


def rank(job: Job) -> tuple[datetime, str]:
    """Where *job* stands in its tenant's queue."""
    return job.due or job.create_time, job.id


def ready_of(job: Job) -> Ready:
    """*job* as the dispatcher sees it."""
    return Ready(job.id, job.attempt, job.tenant, job.priority, job.traceparent, job.site, job.due)
