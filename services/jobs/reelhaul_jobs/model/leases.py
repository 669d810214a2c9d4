"""Claim, renew, finish, lapse: what a worker's lease does to a job. The epoch is the fence."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from google.rpc import status_pb2

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import rate_limit, retries, transition
from reelhaul_jobs.model.job import Attempt, AttemptOutcome, Job
from reelhaul_jobs.model.playlist_expansion import with_entry_count
from reelhaul_jobs.model.queue_transitions import complete_cancel, requeue
from reelhaul_jobs.model.states import AttemptState, QueueStage, State
from reelhaul_jobs.model.transition import Refusal, RefusalReason, Transition
from reelhaul_runtime import errors

# For so long its worker leaves the item to others, each time that it gets it.
_TO_OTHERS = timedelta(seconds=2)
# For so long after its next attempt could begin: then the worker may be the only one.
_AVOIDED = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker asks for an attempt of a job."""

    attempt: int
    worker: str
    request_id: str
    engine_version: str
    lease: timedelta
    #: The egress that the worker would use.
    egress: str = ""
    #: What it could use as well, the best first.
    other_egresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """The files are checked and stored."""

    media: media_pb2.MediaInfo
    got: media_pb2.DeliveredMedia | None = None
    artifacts: tuple[media_pb2.ArtifactInfo, ...] = ()
    warnings: tuple[media_pb2.Warning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """It went wrong; ``retry_after`` is the site's wish."""

    error: status_pb2.Status
    retry_after: timedelta | None = None
    #: Whom it concerns, where that is not the job's own site and egress.
    site: str = ""
    egress: str = ""
    #: The worker will not do better: another one is to try next.
    avoid_worker: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """Stopped, as the renewal asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Handed back unfinished, not before ``delay`` has passed; ``error``: why, if it is worth telling."""

    delay: timedelta = timedelta(0)
    error: status_pb2.Status | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a lease ended, as its worker says."""

    result: Succeeded | Failed | Cancelled | Released
    progress: media_pb2.Progress | None = None
    http_statuses: Mapping[int, int] = field(default_factory=dict)


def claim(job: Job, claim: Claim, now: datetime) -> Transition:
    """*job* leased to the worker, or the refusal that says what to do with the work item."""
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
        told = f"attempt {claim.attempt} is not the present one, {job.attempt}"
        return transition.no_change(job, Refusal(reason=RefusalReason.SUPERSEDED, message=told))
    if job.queue_stage is QueueStage.LATER and job.due is not None and job.due > now:
        refusal = Refusal(reason=RefusalReason.NOT_DUE, message=f"not before {job.due.isoformat()}")
        later = job.bump(now, attempt=job.attempt + 1)
        return Transition(before=job, job=later, refusal=refusal)
    if unfit := _exclusion_refusal(job, claim.worker, now):
        return transition.no_change(job, unfit)
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
    """*job* with its lease prolonged. A lapsed lease that nobody took yet is still the worker's."""
    if refusal := check_fence(job, epoch):
        return transition.no_change(job, refusal)
    kept = job.replace_fields(due=now + lease, progress=progress or job.progress)
    if media is not None and media != job.media:
        kept = kept.bump(now, media=media, expansion=with_entry_count(job.expansion, media))
    return Transition(before=job, job=kept)


def finish(
    job: Job, epoch: int, outcome: Outcome, now: datetime, jitter: rate_limit.Jitter = random.random
) -> Transition:
    """*job* after its lease's outcome; refused for a stale epoch."""
    if refusal := check_fence(job, epoch):
        return transition.no_change(job, refusal)
    held = job.replace_fields(progress=outcome.progress or job.progress)
    if job.state is State.CANCELLING:
        return _end_attempt(job, complete_cancel(held, now), AttemptState.CANCELLED, outcome)
    match outcome.result:
        case Succeeded() as good:
            return _end_attempt(job, _succeed(held, good, now), AttemptState.SUCCEEDED, outcome)
        case Failed() as bad:
            error = retries.normalize_error(bad.error)
            if errors.error_spec(retries.error_reason(error)).parks_site:
                after = _requeue_blocked(held, error, bad.retry_after, now)
                state = AttemptState.FAILED if after.state.is_terminal else AttemptState.RELEASED
                return _end_attempt(job, after, state, outcome, error)
            after = _fail(held, error, bad.retry_after, now, jitter)
            if bad.avoid_worker:
                after = _exclude_worker(after)
            return _end_attempt(job, after, AttemptState.FAILED, outcome, error)
        case Released() as back:
            charged = max(0, job.charged - 1)
            after = requeue(held, now, delay=back.delay, charged=charged, error=back.error)
            return _end_attempt(job, after, AttemptState.RELEASED, outcome, back.error)
        case Cancelled():
            # Nobody asked for it; what the user wants is the download.
            after = requeue(held, now, charged=max(0, job.charged - 1))
            return _end_attempt(job, after, AttemptState.RELEASED, outcome)


def expire(job: Job, now: datetime, grace: timedelta = timedelta(0)) -> Transition:
    """*job* taken back from a worker that went silent; unchanged if its lease is live."""
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


def _claim_leased(job: Job, claim: Claim, now: datetime) -> Transition:
    """A claim of an attempt that is leased: the same call again, another worker's, or too late."""
    live = job.due is not None and job.due > now
    if live and job.worker == claim.worker and job.claim_id == claim.request_id:
        return transition.no_change(job)
    if live and job.due is not None:
        refusal = Refusal(
            reason=RefusalReason.LEASED,
            message=f"leased to {job.worker}",
            retry_delay=job.due - now,
            lease_expire_time=job.due,
        )
        return transition.no_change(job, refusal)
    after = expire(job, now)
    reason = RefusalReason.ENDED if after.job.state.is_terminal else RefusalReason.SUPERSEDED
    return replace(after, refusal=Refusal(reason=reason, message="the lease lapsed; a later item follows"))


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
    if job.is_leased and job.epoch == epoch:
        return None
    if job.epoch == epoch and job.state is State.PAUSED:
        return Refusal(reason=RefusalReason.PAUSED, message="a user paused the job")
    if job.epoch != epoch or not job.state.is_terminal:
        return Refusal(reason=RefusalReason.LOST, message=f"epoch {epoch} lost its lease")
    return Refusal(reason=RefusalReason.ENDED, message=f"the job is {job.state.name}")


def _succeed(job: Job, good: Succeeded, now: datetime) -> Job:
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
        media=good.media,
        expansion=with_entry_count(job.expansion, good.media),
        got=good.got,
        artifacts=good.artifacts,
        warnings=good.warnings,
        confirm_time=now if good.artifacts else None,
    )


def _fail(
    job: Job, error: status_pb2.Status, asked: timedelta | None, now: datetime, jitter: rate_limit.Jitter
) -> Job:
    reason = retries.error_reason(error)
    name = ErrorReason.Name(reason)
    failures = {**job.failures, name: job.failures.get(name, 0) + 1}
    wait = retries.retry_delay(
        job.retry, charged=job.charged, failures=failures, reason=reason, retry_after=asked, jitter=jitter
    )
    if wait is None:
        return job.end(State.FAILED, now, error=error, failures=failures)
    return job.transition(
        State.RETRYING,
        now,
        attempt=job.attempt + 1,
        queue_stage=QueueStage.LATER,
        due=now + wait,
        error=error,
        failures=failures,
    )


def _requeue_blocked(job: Job, error: status_pb2.Status, asked: timedelta | None, now: datetime) -> Job:
    """*job* back in the queue, uncharged: its site refuses us all. Behind the others of its priority,
    so that another one is the next probe.
    """
    name = ErrorReason.Name(retries.error_reason(error))
    failures = {**job.failures, name: job.failures.get(name, 0) + 1}
    given_up = asked is not None and asked > rate_limit.MAX_RETRY_AFTER
    if given_up or failures[name] >= rate_limit.MAX_PARKS_PER_JOB:
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
    ending = AttemptOutcome(state=state, error=error, http_statuses=outcome.http_statuses, finished=True)
    return Transition(before=before, job=after, attempt_outcome=ending)


def _exclude_worker(job: Job) -> Job:
    """*job*, its next attempt not for the worker that held it, unless no other takes it in time."""
    return job if job.due is None else job.replace_fields(avoid_until=job.due + _AVOIDED)


def _exclusion_refusal(job: Job, worker: str, now: datetime) -> Refusal | None:
    """Why *worker* is not to have *job* now; None if it may."""
    if worker != job.worker or job.avoid_until is None or job.avoid_until <= now:
        return None
    return Refusal(
        reason=RefusalReason.SLOT_UNFIT,
        message=f"{worker} could not do it: another worker is to try",
        retry_delay=_TO_OTHERS,
    )
