"""Metrics of the jobs service; docs/metrics.md says what they mean. Gauges of rows: `service/gauges.py`."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from google.rpc import status_pb2
from prometheus_client import Counter, Gauge, Histogram

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import retries
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import AttemptState, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_runtime.errors import QuotaExceeded, ReelhaulError, from_status
from reelhaul_runtime.metrics import buckets
from reelhaul_runtime.metrics.labels import SITES, BoundedLabel

JOBS_CREATED = Counter("reelhaul_jobs_created_total", "Jobs that were accepted, or queued again", ["source"])
JOBS_ENDED = Counter("reelhaul_jobs_ended_total", "Jobs that ended", ["state", "reason", "site"])
ATTEMPTS_ENDED = Counter("reelhaul_attempts_ended_total", "Attempts that ended", ["outcome", "reason"])
JOB_RETRIES = Counter("reelhaul_job_retries_total", "Attempts that follow a failed or lost one", ["reason"])
JOB_START_SECONDS = Histogram(
    "reelhaul_job_start_seconds",
    "Seconds from when a job could start to its claim",
    ["priority"],
    buckets=buckets.WORK,
)
JOB_DURATION_SECONDS = Histogram(
    "reelhaul_job_duration_seconds",
    "Seconds from the creation of a job to its end",
    ["state"],
    buckets=buckets.WORK,
)
JOB_STORED_BYTES = Counter(
    "reelhaul_job_stored_bytes_total", "Bytes of artifacts of succeeded jobs", ["site"]
)
LEASES_EXPIRED = Counter("reelhaul_leases_expired_total", "Leases of workers that were lost")
LEASES_REFUSED = Counter(
    "reelhaul_leases_refused_total", "Calls of workers that were refused", ["operation", "reason"]
)
DISPATCHED = Counter("reelhaul_dispatched_total", "Work items that were published", ["kind"])
WEBHOOK_DELIVERIES = Counter("reelhaul_webhook_deliveries_total", "Attempts at deliveries", ["outcome"])
WEBHOOK_DELIVERY_SECONDS = Histogram(
    "reelhaul_webhook_delivery_seconds", "Seconds of an attempt at a delivery", buckets=buckets.CALLS
)
WEBHOOKS_DISABLED = Counter(
    "reelhaul_webhooks_disabled_total", "Webhooks suspended because they kept failing, or are gone"
)
QUOTA_REFUSALS = Counter("reelhaul_quota_refusals_total", "Jobs refused or stopped by a quota", ["quota"])
SCHEDULE_RUNS = Counter("reelhaul_schedule_runs_total", "Runs of schedules", ["outcome"])
WATCHERS = Gauge("reelhaul_watchers", "Open watches", ["kind"])
LOOP_LEADER = Gauge("reelhaul_loop_leader", "1 if this replica leads the loop", ["loop"])
LOOP_LAST_SUCCESS = Gauge(
    "reelhaul_loop_last_success_timestamp_seconds", "When the loop last finished a round", ["loop"]
)

# Series that alerts compute rates of exist before the first event.
for _source in ("api", "batch", "playlist", "schedule", "retry"):
    JOBS_CREATED.labels(_source)
for _outcome in ("created", "skipped", "failed"):
    SCHEDULE_RUNS.labels(_outcome)
for _outcome in ("delivered", "failed", "given_up"):
    WEBHOOK_DELIVERIES.labels(_outcome)
for _kind in ("first", "again"):
    DISPATCHED.labels(_kind)
for _watched in ("job", "list"):
    WATCHERS.labels(_watched)

# More than this build has; an error that a worker reports may name any.
_QUOTAS = BoundedLabel(32)


def record_created(jobs: Sequence[Job]) -> None:
    """Count *jobs*, whose rows are committed."""
    for source, count in Counts(map(_source_of, jobs)).items():
        JOBS_CREATED.labels(source).inc(count)


def record_changes(changes: Iterable[Transition]) -> None:
    """Count what happened with *changes*, which are committed."""
    for change in changes:
        if change.started_attempt is not None:
            waited = change.started_attempt.start_time - _could_start(change.before)
            seconds = max(0.0, waited.total_seconds())
            JOB_START_SECONDS.labels(change.job.priority.name).observe(seconds)
        if change.attempt_outcome is not None:
            _record_attempt(change)
        if change.job.end_time is not None and change.before.end_time is None:
            _record_end(change.job)
        elif change.before.end_time is not None and change.job.end_time is None:
            JOBS_CREATED.labels("retry").inc()


def record_quota_refusal(error: ReelhaulError) -> None:
    """Count *error*, why a job was refused or ended, if a quota is its reason."""
    if error.reason == ErrorReason.QUOTA_EXCEEDED:
        QUOTA_REFUSALS.labels(_QUOTAS.bound(error.metadata.get("quotaMetric", ""))).inc()


@contextmanager
def recording_quota_refusals() -> Iterator[None]:
    """Count a QUOTA_EXCEEDED that the block raises."""
    try:
        yield
    except QuotaExceeded as error:
        record_quota_refusal(error)
        raise


def _record_attempt(change: Transition) -> None:
    outcome = change.attempt_outcome
    assert outcome is not None
    reason = _reason_of(outcome.error)
    ATTEMPTS_ENDED.labels(outcome.state.name, reason).inc()
    if outcome.state is AttemptState.LOST:
        LEASES_EXPIRED.inc()
    if outcome.state in (AttemptState.FAILED, AttemptState.LOST) and change.job.end_time is None:
        JOB_RETRIES.labels(reason).inc()


def _record_end(job: Job) -> None:
    reason = "" if job.state is State.SUCCEEDED else _reason_of(job.error)
    site = SITES.bound(job.site)
    JOBS_ENDED.labels(job.state.name, reason, site).inc()
    assert job.end_time is not None
    # Clocks of replicas differ, and a worker reports any size.
    seconds = max(0.0, (job.end_time - job.create_time).total_seconds())
    JOB_DURATION_SECONDS.labels(job.state.name).observe(seconds)
    if job.state is State.SUCCEEDED:
        JOB_STORED_BYTES.labels(site).inc(sum(max(0, artifact.size_bytes) for artifact in job.artifacts))
    elif job.error is not None:
        record_quota_refusal(from_status(job.error))


def _source_of(job: Job) -> str:
    if job.parent:
        return "playlist"
    if job.schedule:
        return "schedule"
    # The batch of an expansion that was created alone has its own id.
    return "batch" if job.batch_id not in ("", job.id) else "api"


def _could_start(job: Job) -> datetime:
    """Return since when *job*, which waits for a claim, could be started."""
    if job.attempt == 1:
        return max(job.create_time, job.schedule_time or job.create_time)
    # Its last change made it ready: the end of a back-off, a lost lease, or a request of a user.
    return job.update_time


def _reason_of(error: status_pb2.Status | None) -> str:
    return "" if error is None else ErrorReason.Name(retries.error_reason(error))
