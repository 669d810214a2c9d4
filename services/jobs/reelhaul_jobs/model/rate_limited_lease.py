"""Passages: what a lease means to its site's gate, and what the gate says to a claim."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import leases, rate_limit, retries
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import Gate
from reelhaul_jobs.model.sites import SiteLimits
from reelhaul_jobs.model.states import Lane
from reelhaul_jobs.model.transition import Change, Refusal, RefusalReason
from reelhaul_runtime import errors

_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """How a job's site stands, seen from one egress."""

    gate: Gate
    #: Jobs of the site that workers hold.
    leased: int = 0
    #: The gates of the other live egresses; told only where this one is not plain.
    others: tuple[Gate, ...] = ()


def claimed(job: Job, claim: leases.Claim, passage: Passage, limits: SiteLimits, now: datetime) -> Change:
    """*job* leased to the worker if its site bears it; else the refusal, and the job queued anew."""
    passage = _by_another_egress(passage, claim, now)
    if claim.egress != passage.gate.egress:
        claim = replace(claim, egress=passage.gate.egress)
    change = leases.claimed(job, claim, now)
    if change.began is None:
        return change
    if passage.leased >= limits.most(job.site):
        return _not_due(job, now, f"{job.site} has as many jobs running as it may")
    if shut := passage.gate.shut_until(now):
        if any(gate.opens(now) for gate in passage.others):
            refusal = Refusal(
                reason=RefusalReason.SLOT_UNFIT,
                message=f"{job.site} lets this egress wait until {shut.isoformat()}",
                retry_delay=rate_limit.ANOTHER_EGRESS,
            )
            return Change(before=job, job=job, refusal=refusal)
        return _not_due(job, now, f"{job.site} is not to be asked before {shut.isoformat()}")
    return _with_gate(change, passage, rate_limit.passed(passage.gate, job.id, now, limits.delay))


def renewed(change: Change, progress: media_pb2.Progress | None, passage: Passage) -> Change:
    """*change*, a renewal: bytes that come to a probe are the site's welcome."""
    if change.refusal is not None or progress is None or not progress.downloaded_bytes:
        return change
    return _with_gate(change, passage, rate_limit.opened(passage.gate, change.job.id))


def finished(
    job: Job,
    epoch: int,
    outcome: leases.Outcome,
    passage: Passage,
    limits: SiteLimits,
    now: datetime,
    jitter: rate_limit.Jitter = random.random,
) -> Change:
    """*job* after its lease's outcome, and the gate after what the site said."""
    change = leases.finished(job, epoch, outcome, now, jitter)
    if change.refusal is not None:
        return change
    gate = _after(passage.gate, job.id, outcome, limits, now, jitter)
    return _with_gate(change, passage, rate_limit.cleared(gate, now))


def key_of(job: Job, outcome: leases.Outcome) -> tuple[str, str]:
    """Site and egress that *outcome* tells of."""
    told = outcome.result
    if isinstance(told, leases.Failed):
        return told.site or job.site, told.egress or job.egress
    return job.site, job.egress


def _after(
    gate: Gate,
    job_id: str,
    outcome: leases.Outcome,
    limits: SiteLimits,
    now: datetime,
    jitter: rate_limit.Jitter,
) -> Gate:
    complained = bool(outcome.http_statuses.get(_TOO_MANY_REQUESTS))
    match outcome.result:
        case leases.Succeeded():
            gate = rate_limit.opened(gate, job_id)
            return rate_limit.slowed(gate, now) if complained else rate_limit.hastened(gate)
        case leases.Failed() as bad:
            reason = retries.reason_of(bad.error)
            spec = errors.spec_of(reason)
            if spec.parks_site:
                name = ErrorReason.Name(reason)
                return rate_limit.parked(gate, job_id, name, bad.retry_after, now, limits.park, jitter)
            # What no time can change, the site itself has said: it talks to us.
            talks = not spec.retryable
            gate = rate_limit.opened(gate, job_id) if talks else rate_limit.unprobed(gate, job_id, now)
            return rate_limit.slowed(gate, now) if complained else gate
        case _:
            return rate_limit.unprobed(gate, job_id, now)


def _by_another_egress(passage: Passage, claim: leases.Claim, now: datetime) -> Passage:
    """*passage* by the first egress of the claim that the site lets in, where one does."""
    if passage.gate.opens(now):
        return passage
    gates_of = {gate.egress: gate for gate in passage.others}
    fit = (gates_of[name] for name in claim.other_egresses if name in gates_of)
    gate = next((gate for gate in fit if gate.opens(now)), None)
    return passage if gate is None else replace(passage, gate=gate)


def _not_due(job: Job, now: datetime, message: str) -> Change:
    """*job* in its place in the queue again, as its next attempt."""
    refusal = Refusal(reason=RefusalReason.NOT_DUE, message=message)
    back = job.changed(now, attempt=job.attempt + 1, lane=Lane.READY, due=job.rank(job.create_time))
    return Change(before=job, job=back, refusal=refusal)


def _with_gate(change: Change, passage: Passage, gate: Gate) -> Change:
    return change if gate is passage.gate or gate == passage.gate else replace(change, gate=gate)
