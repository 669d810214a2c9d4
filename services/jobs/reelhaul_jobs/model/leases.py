"""Leases: what claiming, renewing, finishing and losing a lease do to a job. The epoch is the fence."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from google.rpc import status_pb2

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import deliveries, rate_limit, retries, transition
from reelhaul_jobs.model.job import Attempt, AttemptOutcome, Job
from reelhaul_jobs.model.playlist_expansion import with_entry_count
from reelhaul_jobs.model.queue_transitions import complete_cancel, requeue
from reelhaul_jobs.model.states import AttemptState, QueueStage, State
from reelhaul_jobs.model.transition import Refusal, RefusalReason, Transition
from reelhaul_runtime import errors

# An excluded worker returns the work item for this long.
_EXCLUDED_RETRY_DELAY = timedelta(seconds=2)
# A worker is excluded for this long from when the next attempt may start: it may be the only one.
_EXCLUSION = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker's request for the lease of an attempt."""

    attempt: int
    worker: str
    request_id: str
    engine_version: str
    lease: timedelta
    #: The egress that the worker prefers.
    egress: str = ""
    #: Other egresses that it may use, the best first.
    other_egresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """The files are verified and stored."""

    media: media_pb2.MediaInfo
    got: media_pb2.DeliveredMedia | None = None
    artifacts: tuple[media_pb2.ArtifactInfo, ...] = ()
    warnings: tuple[media_pb2.Warning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed; ``retry_after`` is the site's Retry-After."""

    error: status_pb2.Status
    retry_after: timedelta | None = None
    #: The site and egress that refused, if they are not the job's own.
    site: str = ""
    egress: str = ""
    #: Whether the next attempt should run on another worker.
    avoid_worker: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The worker stopped because the renewal asked it to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The worker returns the job unfinished, to be started after ``delay``; ``error`` says why, if set."""

    delay: timedelta = timedelta(0)
    error: status_pb2.Status | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a lease ended, as its worker reports it."""

    result: Succeeded | Failed | Cancelled | Released
    progress: media_pb2.Progress | None = None
    http_statuses: Mapping[int, int] = field(default_factory=dict)
    #: Bytes received under the lease; None: as many as the last progress says.
    received_bytes: int | None = None


def claim(job: Job, claim: Claim, now: datetime) -> Transition:
    """Lease *job* to the worker, or refuse and say what to do with the work item."""
    if job.is_leased and job.attempt == claim.attempt:
        return _claim_leased(job, claim, now)
    if job.delete_time is not None:
        return transition.no_change(job, Refusal(reason=RefusalReason.UNKNOWN, message="the job was deleted"))
    if job.state.is_terminal or job.state is State.CANCELLING:
        return transition.no_change(
            job, Refusal(reason=RefusalReason.ENDED, message=f"the job is {job.state.name}")
        )
    if job.state is State.PAUSED:
        return transition.no_change(
            job, Refusal(reason=RefusalReason.PAUSED, message="a user paused the job")
        )
    if job.attempt != claim.attempt or job.state is not State.QUEUED:
        message = f"attempt {claim.attempt} is not the current one, {job.attempt}"
        return transition.no_change(job, Refusal(reason=RefusalReason.SUPERSEDED, message=message))
    if job.queue_stage is QueueStage.LATER and job.due is not None and job.due > now:
        not_due = Refusal(reason=RefusalReason.NOT_DUE, message=f"not before {job.due.isoformat()}")
        return Transition(before=job, job=job.bump(now, attempt=job.attempt + 1), refusal=not_due)
    if refusal := _exclusion_refusal(job, claim.worker, now):
        return transition.no_change(job, refusal)
    return _grant_lease(job, claim, now)


def renew(
    job: Job,
    epoch: int,
    now: datetime,
    lease: timedelta,
    *,
    progress: media_pb2.Progress | None = None,
    media: media_pb2.MediaInfo | None = None,
) -> Transition:
    """Extend the lease of *job*, or refuse a stale *epoch*.

    A lease that expired and was not taken back yet is still the worker's.
    """
    if refusal := check_fence(job, epoch):
        return transition.no_change(job, refusal)
    renewed = job.replace_fields(due=now + lease, progress=progress or job.progress)
    if media is not None and media != job.media:
        renewed = renewed.bump(now, media=media, expansion=with_entry_count(job.expansion, media))
    return Transition(before=job, job=renewed)


def finish(
    job: Job, epoch: int, outcome: Outcome, now: datetime, jitter: rate_limit.Jitter = random.random
) -> Transition:
    """Apply the outcome of the lease to *job*, or refuse a stale *epoch*."""
    if refusal := check_fence(job, epoch):
        return transition.no_change(job, refusal)
    updated = job.replace_fields(progress=outcome.progress or job.progress)
    if job.state is State.CANCELLING:
        return _end_attempt(job, complete_cancel(updated, now), AttemptState.CANCELLED, outcome)
    match outcome.result:
        case Succeeded() as succeeded:
            return _end_attempt(job, _succeed(updated, succeeded, now), AttemptState.SUCCEEDED, outcome)
        case Failed() as failed:
            error = retries.normalize_error(failed.error)
            if errors.error_spec(retries.error_reason(error)).parks_site:
                after = _requeue_blocked(updated, error, failed.retry_after, now)
                state = AttemptState.FAILED if after.state.is_terminal else AttemptState.RELEASED
                return _end_attempt(job, after, state, outcome, error)
            after = _fail(updated, error, failed.retry_after, now, jitter)
            if failed.avoid_worker:
                after = _exclude_worker(after)
            return _end_attempt(job, after, AttemptState.FAILED, outcome, error)
        case Released() as released:
            charged = max(0, job.charged - 1)
            after = requeue(updated, now, delay=released.delay, charged=charged, error=released.error)
            return _end_attempt(job, after, AttemptState.RELEASED, outcome, released.error)
        case Cancelled():
            # Nobody cancelled the job: the user still wants the download.
            after = requeue(updated, now, charged=max(0, job.charged - 1))
            return _end_attempt(job, after, AttemptState.RELEASED, outcome)


def expire(job: Job, now: datetime, grace: timedelta = timedelta(0)) -> Transition:
    """Take *job* back from a worker that went silent; no change while its lease is valid."""
    if not job.is_leased or job.due is None or job.due + grace > now:
        return transition.no_change(job)
    if job.state is State.CANCELLING:
        return Transition(
            before=job, job=complete_cancel(job, now), attempt_outcome=AttemptOutcome(state=AttemptState.LOST)
        )
    error = retries.error_status(
        ErrorReason.WORKER_LOST, f"worker {job.worker} went silent", {"worker": job.worker}
    )
    if job.charged >= job.retry.max_attempts:
        after = job.end(State.FAILED, now, error=error)
    else:
        after = requeue(job, now, error=error)
    return Transition(
        before=job, job=after, attempt_outcome=AttemptOutcome(state=AttemptState.LOST, error=error)
    )


def revoke(job: Job, now: datetime) -> Transition:
    """Take *job* back from its worker, valid lease or not, without charging the attempt."""
    if not job.is_leased:
        return transition.no_change(job)
    if job.state is State.CANCELLING:
        after, state = complete_cancel(job, now), AttemptState.CANCELLED
    else:
        after, state = requeue(job, now, charged=max(0, job.charged - 1)), AttemptState.RELEASED
    return Transition(before=job, job=after, attempt_outcome=AttemptOutcome(state=state))


def _claim_leased(job: Job, claim: Claim, now: datetime) -> Transition:
    """Answer a claim of a leased attempt: repeated, by another worker, or after the lease expired."""
    valid = job.due is not None and job.due > now
    if valid and job.worker == claim.worker and job.claim_id == claim.request_id:
        return transition.no_change(job)
    if valid and job.due is not None:
        refusal = Refusal(
            reason=RefusalReason.LEASED,
            message=f"leased to {job.worker}",
            retry_delay=job.due - now,
            lease_expire_time=job.due,
        )
        return transition.no_change(job, refusal)
    expired = expire(job, now)
    reason = RefusalReason.ENDED if expired.job.state.is_terminal else RefusalReason.SUPERSEDED
    return replace(
        expired, refusal=Refusal(reason=reason, message="the lease expired; another work item follows")
    )


def _grant_lease(job: Job, claim: Claim, now: datetime) -> Transition:
    after = job.transition(
        State.RUNNING,
        now,
        epoch=job.epoch + 1,
        charged=job.charged + 1,
        queue_stage=QueueStage.LEASED,
        due=now + claim.lease,
        worker=claim.worker,
        avoid_until=None,
        claim_id=claim.request_id,
        egress=claim.egress,
        progress=None,
        start_time=job.start_time or now,
    )
    attempt = Attempt(
        job=job.id,
        number=after.attempt,
        epoch=after.epoch,
        worker=claim.worker,
        engine_version=claim.engine_version,
        start_time=now,
    )
    return Transition(before=job, job=after, started_attempt=attempt)


def check_fence(job: Job, epoch: int) -> Refusal | None:
    """Return why the lease of *epoch* may not change *job*; None if it is the current one."""
    if job.is_leased and job.epoch == epoch:
        return None
    if job.epoch == epoch and job.state is State.PAUSED:
        return Refusal(reason=RefusalReason.PAUSED, message="a user paused the job")
    if job.epoch != epoch or not job.state.is_terminal:
        text = f"epoch {epoch} lost its lease"
        return Refusal(reason=RefusalReason.LOST, message=text, job_ended=job.state.is_terminal)
    return Refusal(reason=RefusalReason.ENDED, message=f"the job is {job.state.name}")


def _succeed(job: Job, succeeded: Succeeded, now: datetime) -> Job:
    progress = media_pb2.Progress()
    progress.CopyFrom(job.progress or media_pb2.Progress(attempt=job.attempt))
    progress.percent = 100
    progress.bytes_per_second = 0
    progress.ClearField("eta")
    return job.end(
        State.SUCCEEDED,
        now,
        progress=progress,
        error=None,
        media=succeeded.media,
        expansion=with_entry_count(job.expansion, succeeded.media),
        got=succeeded.got,
        artifacts=succeeded.artifacts,
        warnings=succeeded.warnings,
        confirm_time=now if succeeded.artifacts else None,
        **deliveries.start(job, succeeded.artifacts, now),
    )


def _fail(
    job: Job,
    error: status_pb2.Status,
    retry_after: timedelta | None,
    now: datetime,
    jitter: rate_limit.Jitter,
) -> Job:
    reason = retries.error_reason(error)
    name = ErrorReason.Name(reason)
    failures = {**job.failures, name: job.failures.get(name, 0) + 1}
    charged = job.charged if retries.is_charged(reason, failures) else max(0, job.charged - 1)
    delay = retries.retry_delay(
        job.retry,
        charged=charged,
        failures=failures,
        reason=reason,
        retry_after=retry_after,
        jitter=jitter,
    )
    if delay is None:
        return job.end(State.FAILED, now, error=error, failures=failures)
    return job.transition(
        State.RETRYING,
        now,
        attempt=job.attempt + 1,
        charged=charged,
        queue_stage=QueueStage.LATER,
        due=now + delay,
        error=error,
        failures=failures,
    )


def _requeue_blocked(job: Job, error: status_pb2.Status, retry_after: timedelta | None, now: datetime) -> Job:
    """Requeue *job* without charging the attempt: its site refuses all jobs.

    It goes behind the other jobs of its priority, so that another one is the next probe.
    """
    name = ErrorReason.Name(retries.error_reason(error))
    failures = {**job.failures, name: job.failures.get(name, 0) + 1}
    too_late = retry_after is not None and retry_after > rate_limit.MAX_RETRY_AFTER
    if too_late or failures[name] >= rate_limit.MAX_PARKS_PER_JOB:
        return job.end(State.FAILED, now, error=error, failures=failures)
    charged = max(0, job.charged - 1)
    return requeue(job, now, since=now, charged=charged, error=error, failures=failures)


def _end_attempt(
    before: Job,
    after: Job,
    state: AttemptState,
    outcome: Outcome,
    error: status_pb2.Status | None = None,
) -> Transition:
    attempt_outcome = AttemptOutcome(
        state=state,
        error=error,
        http_statuses=outcome.http_statuses,
        finished=True,
        received_bytes=outcome.received_bytes,
    )
    return Transition(before=before, job=after, attempt_outcome=attempt_outcome)


def _exclude_worker(job: Job) -> Job:
    """Reserve the next attempt of *job* for other workers; after a minute any worker may take it."""
    return job if job.due is None else job.replace_fields(avoid_until=job.due + _EXCLUSION)


def _exclusion_refusal(job: Job, worker: str, now: datetime) -> Refusal | None:
    """Return why *worker* may not have *job* now; None if it may."""
    if worker != job.worker or job.avoid_until is None or job.avoid_until <= now:
        return None
    return Refusal(
        reason=RefusalReason.SLOT_UNFIT,
        message=f"{worker} failed this job: another worker tries next",
        retry_delay=_EXCLUDED_RETRY_DELAY,
    )
