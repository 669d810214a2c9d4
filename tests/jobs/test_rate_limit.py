"""Gates by themselves: pace, breaker, probe; and what a lease's outcome makes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import leases, queue_transitions, rate_limit, rate_limited_lease
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteLimits, SiteRateLimit, SiteStatus, free_slots
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import AttemptState, State

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LIMITS = SiteLimits(first_cooldown=timedelta(seconds=30))
OPEN = SiteRateLimit(site="a.example")


def running(job_id: str = "j1", failures: dict[str, int] | None = None) -> Job:
    job = queue_transitions.enqueue(
        Job(
            id=job_id,
            tenant="acme",
            url="https://a.example/",
            format=media_pb2.FormatSpec(),
            create_time=NOW,
            update_time=NOW,
            failures=failures or {},
        )
    )
    claim = leases.Claim(attempt=1, worker="w", request_id="r", engine_version="", lease=MINUTE)
    return rate_limited_lease.claim(job, claim, RateLimitView(rate_limit=OPEN), LIMITS, NOW).job


def failed(reason: ErrorReason.ValueType, asked: timedelta | None = None) -> leases.Outcome:
    return leases.Outcome(result=leases.Failed(error=error_status(reason, "no"), retry_after=asked))


def gate_after(
    gate: SiteRateLimit, outcome: leases.Outcome, job_id: str = "j1", now: datetime = NOW
) -> SiteRateLimit:
    """The gate after *outcome* of the job's lease, without jitter."""
    passage = RateLimitView(rate_limit=gate)
    return (
        rate_limited_lease.finish(running(job_id), 1, outcome, passage, LIMITS, now, lambda: 0.0).rate_limit
        or passage.rate_limit
    )


BLOCKED = failed(ErrorReason.UPSTREAM_BLOCKED)
GOOD = leases.Outcome(result=leases.Succeeded(media=media_pb2.MediaInfo()))


def test_each_probe_that_fails_doubles_the_wait():
    """30 s, a minute, two …, at most 30 minutes; a success ends it."""
    gate, now, waits = OPEN, NOW, []
    for number in range(9):
        gate = gate_after(gate, BLOCKED, f"j{number}", now)
        waits.append((gate.parked_until - now) / timedelta(seconds=1))
        now = gate.parked_until
        gate = rate_limit.record_start(gate, f"j{number + 1}", now, LIMITS.min_delay)
    assert waits == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    assert gate.parked_since == NOW
    opened = gate_after(gate, GOOD, "j9", now)
    assert not opened.is_parked
    assert opened.delay > timedelta(0)


def test_failures_of_those_that_ran_already_count_once():
    """Eight downloads that are refused at once park the site once, not eightfold."""
    gate = gate_after(OPEN, BLOCKED)
    for number in range(2, 9):
        assert gate_after(gate, BLOCKED, f"j{number}") == gate
    longer = gate_after(gate, failed(ErrorReason.UPSTREAM_THROTTLED, timedelta(hours=1)), "j9")
    assert longer.parked_until == NOW + timedelta(hours=1)
    assert longer.cooldown == gate.cooldown


def test_success_of_one_that_ran_before_opens_nothing():
    """A download that got through before the block says nothing about it."""
    gate = gate_after(OPEN, BLOCKED)
    assert gate_after(gate, GOOD, "j2").parked_until == gate.parked_until


def test_probe_shuts_the_gate_behind_it():
    """One job passes after the cool-down; nobody follows before it has told; bytes are the welcome."""
    gate = gate_after(OPEN, BLOCKED)
    now = gate.parked_until
    assert free_slots(SiteStatus(site="a.example", rate_limits=(gate,)), LIMITS, now) == 1
    assert free_slots(SiteStatus(site="a.example", rate_limits=(gate,), published=1), LIMITS, now) == 0
    probed = rate_limit.record_start(gate, "j1", now, LIMITS.min_delay)
    assert (
        free_slots(SiteStatus(site="a.example", rate_limits=(probed,), leased=1), LIMITS, now + MINUTE) == 0
    )
    renewal = leases.renew(running(), 1, NOW, MINUTE)
    silent = rate_limited_lease.renew(renewal, media_pb2.Progress(), RateLimitView(rate_limit=probed))
    assert silent.rate_limit is None
    welcome = rate_limited_lease.renew(
        renewal, media_pb2.Progress(downloaded_bytes=1), RateLimitView(rate_limit=probed)
    )
    assert not welcome.rate_limit.is_parked


@pytest.mark.parametrize(
    "outcome", [failed(ErrorReason.UPSTREAM_STALLED), leases.Outcome(result=leases.Released())]
)
def test_probe_without_an_answer(outcome):
    """A probe that ends without a word of the site counts for nothing: the next may try, at its pace."""
    probed = rate_limit.record_start(gate_after(OPEN, BLOCKED), "j1", NOW + MINUTE, LIMITS.min_delay)
    after = gate_after(probed, outcome, "j1", NOW + MINUTE)
    assert after.is_parked
    assert after.admits(NOW + MINUTE + timedelta(seconds=1))
    assert after.cooldown == probed.cooldown


def test_an_answer_about_the_media_opens_too():
    """A site that says "no such video" talks to us again."""
    probed = rate_limit.record_start(gate_after(OPEN, BLOCKED), "j1", NOW + MINUTE, LIMITS.min_delay)
    assert not gate_after(probed, failed(ErrorReason.MEDIA_NOT_FOUND), "j1", NOW + MINUTE).is_parked


def test_pace_rises_and_decays():
    """Each complaint doubles the delay, successes take it back until nothing is remembered."""
    complaint = replace(GOOD, http_statuses={429: 1})
    gate = OPEN
    for seconds in (1, 2, 4):
        gate = gate_after(gate, complaint)
        assert gate.delay == timedelta(seconds=seconds)
    assert not gate.admits(NOW)
    later = NOW + timedelta(hours=1)
    for _ in range(20):
        gate = gate_after(gate, GOOD, now=later)
    assert gate.is_default


def test_parking_is_not_charged():
    """Who meets the block is queued again, uncharged and behind the others, its attempt RELEASED."""
    change = rate_limited_lease.finish(
        running(), 1, BLOCKED, RateLimitView(rate_limit=OPEN), LIMITS, NOW + MINUTE
    )
    job = change.job
    assert (job.state, job.charged, job.attempt, job.due) == (State.QUEUED, 0, 2, NOW + MINUTE)
    assert change.attempt_outcome.state is AttemptState.RELEASED


def test_parking_ends():
    """A job that parks its site again and again, or whose site wants days, fails and says why."""
    often = running(failures={"UPSTREAM_BLOCKED": rate_limit.MAX_PARKS_PER_JOB - 1})
    change = rate_limited_lease.finish(often, 1, BLOCKED, RateLimitView(rate_limit=OPEN), LIMITS, NOW)
    assert (change.job.state, change.attempt_outcome.state) == (State.FAILED, AttemptState.FAILED)
    days = failed(ErrorReason.UPSTREAM_THROTTLED, timedelta(days=3))
    change = rate_limited_lease.finish(running(), 1, days, RateLimitView(rate_limit=OPEN), LIMITS, NOW)
    assert change.job.state is State.FAILED
    assert change.rate_limit.parked_until == NOW + rate_limit.MAX_RETRY_AFTER


def test_full_site_refuses_a_claim():
    """A claim of a site that is full by now is refused, and its job queued as the next attempt."""
    job = replace(running(), state=State.QUEUED, charged=0)
    claim = leases.Claim(attempt=1, worker="w", request_id="r2", engine_version="", lease=MINUTE)
    change = rate_limited_lease.claim(
        job, claim, RateLimitView(rate_limit=OPEN, leased_count=2), SiteLimits(max_running=2), NOW
    )
    assert change.refusal.reason.name == "NOT_DUE"
    assert (change.job.attempt, change.job.charged, change.job.state) == (2, 0, State.QUEUED)
