"""Passages: what a lease means to its site's gate, and what the gate says to a claim."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import leases, rate_limit, retries
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteLimits, SiteRateLimit
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.model.transition import Refusal, RefusalReason, Transition
from reelhaul_runtime import errors

_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitView:
    """How a job's site stands, seen from one egress."""

    rate_limit: SiteRateLimit
    #: Jobs of the site that workers hold.
    leased_count: int = 0
    #: The gates of the other live egresses; told only where this one is not plain.
    other_egresses: tuple[SiteRateLimit, ...] = ()


def claim(
    job: Job, claim: leases.Claim, passage: RateLimitView, limits: SiteLimits, now: datetime
) -> Transition:
    """*job* leased to the worker if its site bears it; else the refusal, and the job queued anew."""
    passage = _choose_egress(passage, claim, now)
    if claim.egress != passage.rate_limit.egress:
        claim = replace(claim, egress=passage.rate_limit.egress)
    change = leases.claim(job, claim, now)
    if change.started_attempt is None:
        return change
    if passage.leased_count >= limits.max_running_at(job.site):
        return _requeue(job, now, f"{job.site} has as many jobs running as it may")
    if shut := passage.rate_limit.blocked_until(now):
        if any(gate.admits(now) for gate in passage.other_egresses):
            refusal = Refusal(
                reason=RefusalReason.SLOT_UNFIT,
                message=f"{job.site} lets this egress wait until {shut.isoformat()}",
                retry_delay=rate_limit.OTHER_EGRESS_DELAY,
            )
            return Transition(before=job, job=job, refusal=refusal)
        return _requeue(job, now, f"{job.site} is not to be asked before {shut.isoformat()}")
    return _with_rate_limit(
        change, passage, rate_limit.record_start(passage.rate_limit, job.id, now, limits.min_delay)
    )


def renew(change: Transition, progress: media_pb2.Progress | None, passage: RateLimitView) -> Transition:
    """*change*, a renewal: bytes that come to a probe are the site's welcome."""
    if change.refusal is not None or progress is None or not progress.downloaded_bytes:
        return change
    return _with_rate_limit(change, passage, rate_limit.unpark(passage.rate_limit, change.job.id))


def finish(
    job: Job,
    epoch: int,
    outcome: leases.Outcome,
    passage: RateLimitView,
    limits: SiteLimits,
    now: datetime,
    jitter: rate_limit.Jitter = random.random,
) -> Transition:
    """*job* after its lease's outcome, and the gate after what the site said."""
    change = leases.finish(job, epoch, outcome, now, jitter)
    if change.refusal is not None:
        return change
    gate = _next_rate_limit(passage.rate_limit, job.id, outcome, limits, now, jitter)
    return _with_rate_limit(change, passage, rate_limit.drop_past_start(gate, now))


def rate_limit_key(job: Job, outcome: leases.Outcome) -> tuple[str, str]:
    """Site and egress that *outcome* tells of."""
    told = outcome.result
    if isinstance(told, leases.Failed):
        return told.site or job.site, told.egress or job.egress
    return job.site, job.egress


def _next_rate_limit(
    gate: SiteRateLimit,
    job_id: str,
    outcome: leases.Outcome,
    limits: SiteLimits,
    now: datetime,
    jitter: rate_limit.Jitter,
) -> SiteRateLimit:
    complained = bool(outcome.http_statuses.get(_TOO_MANY_REQUESTS))
    match outcome.result:
        case leases.Succeeded():
            gate = rate_limit.unpark(gate, job_id)
            return rate_limit.slow_down(gate, now) if complained else rate_limit.speed_up(gate)
        case leases.Failed() as bad:
            reason = retries.error_reason(bad.error)
            spec = errors.error_spec(reason)
            if spec.parks_site:
                name = ErrorReason.Name(reason)
                return rate_limit.park(
                    gate, job_id, name, bad.retry_after, now, limits.first_cooldown, jitter
                )
            # What no time can change, the site itself has said: it talks to us.
            talks = not spec.retryable
            gate = rate_limit.unpark(gate, job_id) if talks else rate_limit.release_probe(gate, job_id, now)
            return rate_limit.slow_down(gate, now) if complained else gate
        case _:
            return rate_limit.release_probe(gate, job_id, now)


def _choose_egress(passage: RateLimitView, claim: leases.Claim, now: datetime) -> RateLimitView:
    """*passage* by the first egress of the claim that the site lets in, where one does."""
    if passage.rate_limit.admits(now):
        return passage
    gates_of = {gate.egress: gate for gate in passage.other_egresses}
    fit = (gates_of[name] for name in claim.other_egresses if name in gates_of)
    gate = next((gate for gate in fit if gate.admits(now)), None)
    return passage if gate is None else replace(passage, rate_limit=gate)


def _requeue(job: Job, now: datetime, message: str) -> Transition:
    """*job* in its place in the queue again, as its next attempt."""
    refusal = Refusal(reason=RefusalReason.NOT_DUE, message=message)
    back = job.bump(now, attempt=job.attempt + 1, queue_stage=QueueStage.READY, due=job.rank(job.create_time))
    return Transition(before=job, job=back, refusal=refusal)


def _with_rate_limit(change: Transition, passage: RateLimitView, gate: SiteRateLimit) -> Transition:
    return (
        change
        if gate is passage.rate_limit or gate == passage.rate_limit
        else replace(change, rate_limit=gate)
    )
