"""Leases under rate limits: what a lease does to its site's rate limit, and what that answers to a claim."""

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
    """The rate limit of a job's site, seen from one egress."""

    rate_limit: SiteRateLimit
    #: Jobs of the site that are leased.
    leased_count: int = 0
    #: The rate limits of the other live egresses; empty if this one is the default.
    other_egresses: tuple[SiteRateLimit, ...] = ()


def claim(
    job: Job, claim: leases.Claim, view: RateLimitView, limits: SiteLimits, now: datetime
) -> Transition:
    """Lease *job* to the worker if its site allows it; else refuse, and requeue the job."""
    view = _choose_egress(view, claim, now)
    if claim.egress != view.rate_limit.egress:
        claim = replace(claim, egress=view.rate_limit.egress)
    change = leases.claim(job, claim, now)
    if change.started_attempt is None:
        return change
    if view.leased_count >= limits.max_running_at(job.site):
        return _requeue(job, now, f"{job.site} is at its limit of running jobs")
    if blocked_until := view.rate_limit.blocked_until(now):
        if any(limit.admits(now) for limit in view.other_egresses):
            refusal = Refusal(
                reason=RefusalReason.SLOT_UNFIT,
                message=f"{job.site} is blocked for this egress until {blocked_until.isoformat()}",
                retry_delay=rate_limit.OTHER_EGRESS_DELAY,
            )
            return Transition(before=job, job=job, refusal=refusal)
        return _requeue(job, now, f"{job.site} is blocked until {blocked_until.isoformat()}")
    started = rate_limit.record_start(view.rate_limit, job.id, now, limits.min_delay)
    return _with_rate_limit(change, view, started)


def renew(change: Transition, progress: media_pb2.Progress | None, view: RateLimitView) -> Transition:
    """Return *change*, a renewal, with the site unparked if the job is the probe and received bytes."""
    if change.refusal is not None or progress is None or not progress.downloaded_bytes:
        return change
    return _with_rate_limit(change, view, rate_limit.unpark(view.rate_limit, change.job.id))


def finish(
    job: Job,
    epoch: int,
    outcome: leases.Outcome,
    view: RateLimitView,
    limits: SiteLimits,
    now: datetime,
    jitter: rate_limit.Jitter = random.random,
) -> Transition:
    """Apply the outcome of the lease to *job* and to the rate limit of its site."""
    change = leases.finish(job, epoch, outcome, now, jitter)
    if change.refusal is not None:
        return change
    after = _next_rate_limit(view.rate_limit, job.id, outcome, limits, now, jitter)
    return _with_rate_limit(change, view, rate_limit.drop_past_start(after, now))


def rate_limit_key(job: Job, outcome: leases.Outcome) -> tuple[str, str]:
    """Return the site and the egress that *outcome* is about."""
    result = outcome.result
    if isinstance(result, leases.Failed):
        return result.site or job.site, result.egress or job.egress
    return job.site, job.egress


def _next_rate_limit(
    limit: SiteRateLimit,
    job_id: str,
    outcome: leases.Outcome,
    limits: SiteLimits,
    now: datetime,
    jitter: rate_limit.Jitter,
) -> SiteRateLimit:
    throttled = bool(outcome.http_statuses.get(_TOO_MANY_REQUESTS))
    match outcome.result:
        case leases.Succeeded():
            limit = rate_limit.unpark(limit, job_id)
            return rate_limit.slow_down(limit, now) if throttled else rate_limit.speed_up(limit)
        case leases.Failed() as failed:
            reason = retries.error_reason(failed.error)
            spec = errors.error_spec(reason)
            if spec.parks_site:
                return rate_limit.park(
                    limit,
                    job_id,
                    ErrorReason.Name(reason),
                    failed.retry_after,
                    now,
                    limits.first_cooldown,
                    jitter,
                )
            # A failure that is not retryable is the site's own answer: it serves us.
            served = not spec.retryable
            limit = (
                rate_limit.unpark(limit, job_id) if served else rate_limit.release_probe(limit, job_id, now)
            )
            return rate_limit.slow_down(limit, now) if throttled else limit
        case _:
            return rate_limit.release_probe(limit, job_id, now)


def _choose_egress(view: RateLimitView, claim: leases.Claim, now: datetime) -> RateLimitView:
    """Return *view* from the first egress of the claim that the site admits; unchanged if there is none."""
    if view.rate_limit.admits(now):
        return view
    by_egress = {limit.egress: limit for limit in view.other_egresses}
    candidates = (by_egress[name] for name in claim.other_egresses if name in by_egress)
    chosen = next((limit for limit in candidates if limit.admits(now)), None)
    return view if chosen is None else replace(view, rate_limit=chosen)


def _requeue(job: Job, now: datetime, message: str) -> Transition:
    """Refuse the claim and put *job* back to its place in the queue, as its next attempt."""
    refusal = Refusal(reason=RefusalReason.NOT_DUE, message=message)
    requeued = job.bump(
        now, attempt=job.attempt + 1, queue_stage=QueueStage.READY, due=job.rank(job.create_time)
    )
    return Transition(before=job, job=requeued, refusal=refusal)


def _with_rate_limit(change: Transition, view: RateLimitView, limit: SiteRateLimit) -> Transition:
    unchanged = limit is view.rate_limit or limit == view.rate_limit
    return change if unchanged else replace(change, rate_limit=limit)
