"""Gates: the way to a site by one egress. How fast jobs may pass, and the breaker that parks it.

A site that throttles or blocks us looks at our address, not at the job: so the pair of site and
egress is parked, and after a cool-down one job, the probe, finds out whether it lets us in again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

#: Draws from [0, 1).
Jitter = Callable[[], float]

#: A site that asks for a longer wait than this has refused.
MAX_RETRY_AFTER = timedelta(hours=24)

#: A site is asked again after so long at the latest, unless it named a longer time.
MAX_COOLDOWN = timedelta(minutes=30)

#: A probe that says nothing for so long counts for nothing: the next may try.
PROBE_TIMEOUT = timedelta(minutes=2)

#: A worker that neither claimed nor renewed for so long is gone, and its egress with it.
WORKER_TIMEOUT = timedelta(seconds=60)

#: A worker whose egress is not let in leaves the item to others for so long.
OTHER_EGRESS_DELAY = timedelta(seconds=1)

#: A job that alone has parked its site so often fails: it is not the site, then.
MAX_PARKS_PER_JOB = 10

_SLOWED = timedelta(seconds=1)
_SLOWEST = timedelta(seconds=60)
_NO_DELAY_BELOW = timedelta(milliseconds=50)
_NONE = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRateLimit:
    """How one egress stands with one site. A gate of which nothing is known is open."""

    site: str
    egress: str = ""
    #: Between two starts, as the site's answers have made it.
    delay: timedelta = _NONE
    #: The next may start then.
    next_start: datetime | None = None
    #: No job passes before; then one does. None: not parked.
    parked_until: datetime | None = None
    #: The first of the failures that keep it parked.
    parked_since: datetime | None = None
    cooldown: timedelta = _NONE
    #: ErrorReason name of the last of them.
    reason: str = ""
    #: The job that finds out whether the site lets us in again.
    probe: str = ""

    @property
    def is_parked(self) -> bool:
        """Whether only probes pass."""
        return self.parked_until is not None

    @property
    def is_default(self) -> bool:
        """Whether it says nothing that needs to be remembered."""
        return not self.is_parked and self.delay == _NONE and self.next_start is None

    def blocked_until(self, now: datetime) -> datetime | None:
        """When the next job may pass; None if it may now."""
        times = [time for time in (self.parked_until, self.next_start) if time is not None and time > now]
        return max(times, default=None)

    def admits(self, now: datetime) -> bool:
        """Whether a job may pass now."""
        return self.blocked_until(now) is None

    def is_unlimited(self, now: datetime, delay: timedelta) -> bool:
        """Whether any number may pass now; *delay* is the least that every gate has."""
        return not self.is_parked and max(self.delay, delay) == _NONE and self.admits(now)


def record_start(gate: SiteRateLimit, job_id: str, now: datetime, delay: timedelta) -> SiteRateLimit:
    """*gate*, which is not shut, after the job went through it; *delay* is the least between two."""
    wait = max(gate.delay, delay)
    next_start = now + wait if wait > _NONE else None
    after = gate if gate.next_start == next_start else replace(gate, next_start=next_start)
    if gate.is_parked:
        # Shut behind the probe: nobody follows before it has told how it went.
        return replace(after, parked_until=now + max(gate.cooldown, PROBE_TIMEOUT), probe=job_id)
    return after


def park(
    gate: SiteRateLimit,
    job_id: str,
    reason: str,
    asked: timedelta | None,
    now: datetime,
    first: timedelta,
    jitter: Jitter,
) -> SiteRateLimit:
    """*gate* after the site refused us for *reason*, and *asked* to be left alone for so long."""
    asked = min(asked or _NONE, MAX_RETRY_AFTER)
    if gate.is_parked and gate.probe != job_id:
        # One of those that had passed before it was parked; it knows nothing new but the wait.
        assert gate.parked_until is not None
        return replace(gate, parked_until=max(gate.parked_until, now + asked))
    cooldown = min(MAX_COOLDOWN, gate.cooldown * 2 if gate.is_parked else first)
    until = now + max(cooldown * (1 + jitter() / 4), asked)
    return replace(
        slow_down(gate, now),
        parked_until=until,
        parked_since=gate.parked_since or now,
        cooldown=cooldown,
        reason=reason,
        probe="",
    )


def slow_down(gate: SiteRateLimit, now: datetime) -> SiteRateLimit:
    """*gate* after the site asked to slow down."""
    delay = min(_SLOWEST, max(_SLOWED, gate.delay * 2))
    return replace(gate, delay=delay, next_start=now + delay)


def speed_up(gate: SiteRateLimit) -> SiteRateLimit:
    """*gate* after a job went well: what a complaint doubled, successes take back little by little."""
    if gate.delay == _NONE:
        return gate
    delay = gate.delay * 0.75
    return replace(gate, delay=delay if delay >= _NO_DELAY_BELOW else _NONE)


def unpark(gate: SiteRateLimit, job_id: str) -> SiteRateLimit:
    """*gate* after the site answered *job_id*: open again if that was the probe."""
    if not gate.is_parked or gate.probe != job_id:
        return gate
    return replace(gate, parked_until=None, parked_since=None, cooldown=_NONE, reason="", probe="")


def release_probe(gate: SiteRateLimit, job_id: str, now: datetime) -> SiteRateLimit:
    """*gate* after *job_id*, if it was the probe, ended without a word of the site: the next may try."""
    if not gate.is_parked or gate.probe != job_id:
        return gate
    return replace(gate, parked_until=now, probe="")


def drop_past_start(gate: SiteRateLimit, now: datetime) -> SiteRateLimit:
    """*gate* without what needs no memory: a start that has passed, where none is to follow it slowly."""
    over = gate.delay == _NONE and gate.next_start is not None and gate.next_start <= now
    return replace(gate, next_start=None) if over else gate


#: As many as you like.
UNLIMITED = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLimits:
    """What may be asked of a site."""

    #: Jobs in hand at once; 0 means any number.
    max_running: int = 0
    max_running_by_site: Mapping[str, int] = field(default_factory=dict)
    #: Between two starts by one egress, while the site has not asked to slow down.
    min_delay: timedelta = timedelta(0)
    #: How long a site is left alone that blocks us; doubled each time that it still does.
    first_cooldown: timedelta = timedelta(seconds=30)

    @property
    def limits_running(self) -> bool:
        """Whether there is a limit of running jobs at all."""
        return self.max_running > 0 or bool(self.max_running_by_site)

    def max_running_at(self, site: str) -> int:
        """How many jobs of *site* may be in hand."""
        return self.max_running_by_site.get(site, self.max_running) or UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """How a site stands: jobs of it in hand, and its gates, one for each live egress."""

    site: str
    published: int = 0
    leased: int = 0
    rate_limits: tuple[SiteRateLimit, ...] = ()


def free_slots(site: SiteStatus, limits: SiteLimits, now: datetime) -> int:
    """How many more jobs of *site* may be published now."""
    left = limits.max_running_at(site.site) - site.published - site.leased
    gates = site.rate_limits or (SiteRateLimit(site=site.site),)
    if not any(gate.is_unlimited(now, limits.min_delay) for gate in gates):
        # One at each gate: a probe, or the next after its delay.
        left = min(left, sum(gate.admits(now) for gate in gates) - site.published)
    return max(0, left)


def next_opening(site: SiteStatus, now: datetime) -> datetime | None:
    """When the first of its gates lets a job through again; None where one does now."""
    times = [gate.blocked_until(now) for gate in site.rate_limits]
    shut = [time for time in times if time is not None]
    return min(shut) if shut and len(shut) == len(times) else None
