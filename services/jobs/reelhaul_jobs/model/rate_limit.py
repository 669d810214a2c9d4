"""Rate limits of sites: concurrency, pace, and a circuit breaker for each pair of site and egress.

A site that throttles or blocks us looks at our address, not at the job. So the pair of site and egress is
parked; after a cool-down one job, the probe, finds out whether the site serves us again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

#: Returns a random number from [0, 1).
Jitter = Callable[[], float]

#: A site that asks for a longer wait has refused.
MAX_RETRY_AFTER = timedelta(hours=24)

#: Longest cool-down, unless the site itself names a longer wait.
MAX_COOLDOWN = timedelta(minutes=30)

#: A probe without a result after this time is given up: the next job may probe.
PROBE_TIMEOUT = timedelta(minutes=2)

#: A worker that neither claimed nor renewed for this long is gone, and its egress with it.
WORKER_TIMEOUT = timedelta(seconds=60)

#: A worker whose egress is blocked returns the work item for this long.
OTHER_EGRESS_DELAY = timedelta(seconds=1)

#: A job that parked its site this often fails: it is not the site, then.
MAX_PARKS_PER_JOB = 10

#: Stands for no limit of concurrent jobs.
UNLIMITED = 10**9

_FIRST_DELAY = timedelta(seconds=1)
_MAX_DELAY = timedelta(seconds=60)
_MIN_DELAY = timedelta(milliseconds=50)
_NONE = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRateLimit:
    """Rate limit of one site for one egress. By default there is none."""

    site: str
    egress: str = ""
    #: Minimum time between two starts, learned from the site's answers.
    delay: timedelta = _NONE
    #: When the next job may start.
    next_start: datetime | None = None
    #: No job may start before; then one may. None: not parked.
    parked_until: datetime | None = None
    #: When it was parked.
    parked_since: datetime | None = None
    cooldown: timedelta = _NONE
    #: ErrorReason name of the last refusal.
    reason: str = ""
    #: Id of the job that finds out whether the site serves us again.
    probe: str = ""

    @property
    def is_parked(self) -> bool:
        """Whether only probes may start."""
        return self.parked_until is not None

    @property
    def is_default(self) -> bool:
        """Whether nothing of it needs to be stored."""
        return not self.is_parked and self.delay == _NONE and self.next_start is None

    def blocked_until(self, now: datetime) -> datetime | None:
        """Return when the next job may start; None if it may now."""
        times = [time for time in (self.parked_until, self.next_start) if time is not None and time > now]
        return max(times, default=None)

    def admits(self, now: datetime) -> bool:
        """Return whether a job may start now."""
        return self.blocked_until(now) is None

    def is_unlimited(self, now: datetime, min_delay: timedelta) -> bool:
        """Return whether any number of jobs may start now; *min_delay* is configured."""
        return not self.is_parked and max(self.delay, min_delay) == _NONE and self.admits(now)


def record_start(limit: SiteRateLimit, job_id: str, now: datetime, min_delay: timedelta) -> SiteRateLimit:
    """Return *limit*, which is not blocked, after the job started."""
    delay = max(limit.delay, min_delay)
    next_start = now + delay if delay > _NONE else None
    after = limit if limit.next_start == next_start else replace(limit, next_start=next_start)
    if limit.is_parked:
        # No job follows the probe before its result is known.
        return replace(after, parked_until=now + max(limit.cooldown, PROBE_TIMEOUT), probe=job_id)
    return after


def park(
    limit: SiteRateLimit,
    job_id: str,
    reason: str,
    retry_after: timedelta | None,
    now: datetime,
    first_cooldown: timedelta,
    jitter: Jitter,
) -> SiteRateLimit:
    """Return *limit* after the site refused the job for *reason*; each failed probe doubles the cool-down."""
    retry_after = min(retry_after or _NONE, MAX_RETRY_AFTER)
    if limit.is_parked and limit.probe != job_id:
        # The job started before it was parked: only its Retry-After is news.
        assert limit.parked_until is not None
        return replace(limit, parked_until=max(limit.parked_until, now + retry_after))
    cooldown = min(MAX_COOLDOWN, limit.cooldown * 2 if limit.is_parked else first_cooldown)
    until = now + max(cooldown * (1 + jitter() / 4), retry_after)
    return replace(
        slow_down(limit, now),
        parked_until=until,
        parked_since=limit.parked_since or now,
        cooldown=cooldown,
        reason=reason,
        probe="",
    )


def slow_down(limit: SiteRateLimit, now: datetime) -> SiteRateLimit:
    """Return *limit* after the site asked to slow down: the delay doubles."""
    delay = min(_MAX_DELAY, max(_FIRST_DELAY, limit.delay * 2))
    return replace(limit, delay=delay, next_start=now + delay)


def speed_up(limit: SiteRateLimit) -> SiteRateLimit:
    """Return *limit* after a job succeeded: the delay shrinks by a quarter."""
    if limit.delay == _NONE:
        return limit
    delay = limit.delay * 0.75
    return replace(limit, delay=delay if delay >= _MIN_DELAY else _NONE)


def unpark(limit: SiteRateLimit, job_id: str) -> SiteRateLimit:
    """Return *limit* after the site served *job_id*: not parked any more if that was the probe."""
    if not limit.is_parked or limit.probe != job_id:
        return limit
    return replace(limit, parked_until=None, parked_since=None, cooldown=_NONE, reason="", probe="")


def release_probe(limit: SiteRateLimit, job_id: str, now: datetime) -> SiteRateLimit:
    """Return *limit* after *job_id* ended without an answer of the site: another job may probe."""
    if not limit.is_parked or limit.probe != job_id:
        return limit
    return replace(limit, parked_until=now, probe="")


def drop_past_start(limit: SiteRateLimit, now: datetime) -> SiteRateLimit:
    """Return *limit* without a next_start that has passed and that no delay follows."""
    past = limit.delay == _NONE and limit.next_start is not None and limit.next_start <= now
    return replace(limit, next_start=None) if past else limit


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLimits:
    """The configured limits of sites."""

    #: Published and leased jobs at once; 0: unlimited.
    max_running: int = 0
    max_running_by_site: Mapping[str, int] = field(default_factory=dict)
    #: Minimum time between two starts by one egress.
    min_delay: timedelta = timedelta(0)
    #: First cool-down of a site that blocks us; doubled each time that it still does.
    first_cooldown: timedelta = timedelta(seconds=30)

    @property
    def limits_running(self) -> bool:
        """Whether the number of running jobs is limited at all."""
        return self.max_running > 0 or bool(self.max_running_by_site)

    def max_running_at(self, site: str) -> int:
        """Return how many jobs of *site* may be published and leased at once."""
        return self.max_running_by_site.get(site, self.max_running) or UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """Jobs of a site in flight, and its rate limits, one for each live egress."""

    site: str
    published: int = 0
    leased: int = 0
    rate_limits: tuple[SiteRateLimit, ...] = ()


def free_slots(status: SiteStatus, limits: SiteLimits, now: datetime) -> int:
    """Return how many more jobs of the site may be published now."""
    slots = limits.max_running_at(status.site) - status.published - status.leased
    rate_limits = status.rate_limits or (SiteRateLimit(site=status.site),)
    if not any(limit.is_unlimited(now, limits.min_delay) for limit in rate_limits):
        # One job per egress that admits one: a probe, or the next after its delay.
        slots = min(slots, sum(limit.admits(now) for limit in rate_limits) - status.published)
    return max(0, slots)


def next_opening(status: SiteStatus, now: datetime) -> datetime | None:
    """Return when the first of the site's egresses admits a job; None if one does now."""
    times = [limit.blocked_until(now) for limit in status.rate_limits]
    blocked = [time for time in times if time is not None]
    return min(blocked) if blocked and len(blocked) == len(times) else None
