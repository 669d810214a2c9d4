"""Rate limits by themselves: pace, circuit breaker, probe; and what the outcome of a lease does to them."""

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
DEFAULT = SiteRateLimit(site="a.example")


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
    return rate_limited_lease.claim(job, claim, RateLimitView(rate_limit=DEFAULT), LIMITS, NOW).job


def failed(reason: ErrorReason.ValueType, retry_after: timedelta | None = None) -> leases.Outcome:
    return leases.Outcome(result=leases.Failed(error=error_status(reason, "no"), retry_after=retry_after))


def limit_after(
    limit: SiteRateLimit, outcome: leases.Outcome, job_id: str = "j1", now: datetime = NOW
) -> SiteRateLimit:
    """Return the rate limit after *outcome* of the job's lease, without jitter."""
    view = RateLimitView(rate_limit=limit)
    change = rate_limited_lease.finish(running(job_id), 1, outcome, view, LIMITS, now, lambda: 0.0)
    return change.rate_limit or limit


def slots(limit: SiteRateLimit, now: datetime, **in_flight: int) -> int:
    return free_slots(SiteStatus(site="a.example", rate_limits=(limit,), **in_flight), LIMITS, now)


BLOCKED = failed(ErrorReason.UPSTREAM_BLOCKED)
SUCCEEDED = leases.Outcome(result=leases.Succeeded(media=media_pb2.MediaInfo()))


def test_each_failed_probe_doubles_the_cooldown():
    """The cool-down is 30 s, 1 min, 2 min …, at most 30 minutes; a success ends it."""
    limit, now, waits = DEFAULT, NOW, []
    for number in range(9):
        limit = limit_after(limit, BLOCKED, f"j{number}", now)
        waits.append((limit.parked_until - now) / timedelta(seconds=1))
        now = limit.parked_until
        limit = rate_limit.record_start(limit, f"j{number + 1}", now, LIMITS.min_delay)
    assert waits == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    assert limit.parked_since == NOW
    unparked = limit_after(limit, SUCCEEDED, "j9", now)
    assert not unparked.is_parked
    assert unparked.delay > timedelta(0)


def test_failures_of_jobs_already_running_count_once():
    """Eight downloads that are refused at once park the site once, not eightfold."""
    parked = limit_after(DEFAULT, BLOCKED)
    for number in range(2, 9):
        assert limit_after(parked, BLOCKED, f"j{number}") == parked
    longer = limit_after(parked, failed(ErrorReason.UPSTREAM_THROTTLED, timedelta(hours=1)), "j9")
    assert longer.parked_until == NOW + timedelta(hours=1)
    assert longer.cooldown == parked.cooldown


def test_success_of_a_job_that_ran_before_does_not_unpark():
    """A download that started before the block tells nothing about it."""
    parked = limit_after(DEFAULT, BLOCKED)
    assert limit_after(parked, SUCCEEDED, "j2").parked_until == parked.parked_until


def test_one_probe_at_a_time():
    """One job starts after the cool-down, and none before its result; received bytes unpark the site."""
    parked = limit_after(DEFAULT, BLOCKED)
    now = parked.parked_until
    assert slots(parked, now) == 1
    assert slots(parked, now, published=1) == 0
    probed = rate_limit.record_start(parked, "j1", now, LIMITS.min_delay)
    assert slots(probed, now + MINUTE, leased=1) == 0
    renewal, view = leases.renew(running(), 1, NOW, MINUTE), RateLimitView(rate_limit=probed)
    without_bytes = rate_limited_lease.renew(renewal, media_pb2.Progress(), view)
    assert without_bytes.rate_limit is None
    with_bytes = rate_limited_lease.renew(renewal, media_pb2.Progress(downloaded_bytes=1), view)
    assert not with_bytes.rate_limit.is_parked


@pytest.mark.parametrize(
    "outcome", [failed(ErrorReason.UPSTREAM_STALLED), leases.Outcome(result=leases.Released())]
)
def test_probe_without_an_answer(outcome):
    """A probe that ends without an answer of the site counts for nothing: the next job may probe."""
    probed = rate_limit.record_start(limit_after(DEFAULT, BLOCKED), "j1", NOW + MINUTE, LIMITS.min_delay)
    after = limit_after(probed, outcome, "j1", NOW + MINUTE)
    assert after.is_parked
    assert after.admits(NOW + MINUTE + timedelta(seconds=1))
    assert after.cooldown == probed.cooldown


def test_an_answer_about_the_media_unparks():
    """A site that answers "no such video" serves us again."""
    probed = rate_limit.record_start(limit_after(DEFAULT, BLOCKED), "j1", NOW + MINUTE, LIMITS.min_delay)
    assert not limit_after(probed, failed(ErrorReason.MEDIA_NOT_FOUND), "j1", NOW + MINUTE).is_parked


def test_delay_grows_and_shrinks():
    """Each 429 doubles the delay, successes shrink it until nothing is left to store."""
    throttled = replace(SUCCEEDED, http_statuses={429: 1})
    limit = DEFAULT
    for seconds in (1, 2, 4):
        limit = limit_after(limit, throttled)
        assert limit.delay == timedelta(seconds=seconds)
    assert not limit.admits(NOW)
    later = NOW + timedelta(hours=1)
    for _ in range(20):
        limit = limit_after(limit, SUCCEEDED, now=later)
    assert limit.is_default


def test_a_blocked_attempt_is_not_charged():
    """A job that meets the block is requeued, uncharged and behind the others, its attempt RELEASED."""
    view = RateLimitView(rate_limit=DEFAULT)
    change = rate_limited_lease.finish(running(), 1, BLOCKED, view, LIMITS, NOW + MINUTE)
    job = change.job
    assert (job.state, job.charged, job.attempt, job.due) == (State.QUEUED, 0, 2, NOW + MINUTE)
    assert change.attempt_outcome.state is AttemptState.RELEASED


def test_a_job_that_parks_its_site_too_often_fails():
    """A job that parks its site again and again, or whose site asks for days, fails with the reason."""
    view = RateLimitView(rate_limit=DEFAULT)
    often = running(failures={"UPSTREAM_BLOCKED": rate_limit.MAX_PARKS_PER_JOB - 1})
    change = rate_limited_lease.finish(often, 1, BLOCKED, view, LIMITS, NOW)
    assert (change.job.state, change.attempt_outcome.state) == (State.FAILED, AttemptState.FAILED)
    days = failed(ErrorReason.UPSTREAM_THROTTLED, timedelta(days=3))
    change = rate_limited_lease.finish(running(), 1, days, view, LIMITS, NOW)
    assert change.job.state is State.FAILED
    assert change.rate_limit.parked_until == NOW + rate_limit.MAX_RETRY_AFTER


def test_a_full_site_refuses_a_claim():
    """A claim at a site that is full by now is refused, and its job requeued for the next attempt."""
    job = replace(running(), state=State.QUEUED, charged=0)
    claim = leases.Claim(attempt=1, worker="w", request_id="r2", engine_version="", lease=MINUTE)
    view = RateLimitView(rate_limit=DEFAULT, leased_count=2)
    change = rate_limited_lease.claim(job, claim, view, SiteLimits(max_running=2), NOW)
    assert change.refusal.reason.name == "NOT_DUE"
    assert (change.job.attempt, change.job.charged, change.job.state) == (2, 0, State.QUEUED)
