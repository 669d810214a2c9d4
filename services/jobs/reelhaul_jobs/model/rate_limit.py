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
LONGEST_WAIT = timedelta(hours=24)

#: A site is asked again after so long at the latest, unless it named a longer time.
LONGEST_PARK = timedelta(minutes=30)

#: A probe that says nothing for so long counts for nothing: the next may try.
PROBING = timedelta(minutes=2)

#: A worker that neither claimed nor renewed for so long is gone, and its egress with it.
WORKER_GONE = timedelta(seconds=60)

#: A worker whose egress is not let in leaves the item to others for so long.
ANOTHER_EGRESS = timedelta(seconds=1)

#: A job that alone has parked its site so often fails: it is not the site, then.
MOST_PARKS = 10

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
    def parked(self) -> bool:
        """Whether only probes pass."""
        return self.parked_until is not None

    @property
    def plain(self) -> bool:
        """Whether it says nothing that needs to be remembered."""
        return not self.parked and self.delay == _NONE and self.next_start is None

    def blocked_until(self, now: datetime) -> datetime | None:
        """When the next job may pass; None if it may now."""
        times = [time for time in (self.parked_until, self.next_start) if time is not None and time > now]
        return max(times, default=None)

    def admits(self, now: datetime) -> bool:
        """Whether a job may pass now."""
        return self.blocked_until(now) is None

    def open(self, now: datetime, delay: timedelta) -> bool:
        """Whether any number may pass now; *delay* is the least that every gate has."""
        return not self.parked and max(self.delay, delay) == _NONE and self.admits(now)


def passed(gate: SiteRateLimit, job_id: str, now: datetime, delay: timedelta) -> SiteRateLimit:
    """*gate*, which is not shut, after the job went through it; *delay* is the least between two."""
    wait = max(gate.delay, delay)
    next_start = now + wait if wait > _NONE else None
    after = gate if gate.next_start == next_start else replace(gate, next_start=next_start)
    if gate.parked:
        # Shut behind the probe: nobody follows before it has told how it went.
        return replace(after, parked_until=now + max(gate.cooldown, PROBING), probe=job_id)
    return after


def parked(
    gate: SiteRateLimit,
    job_id: str,
    reason: str,
    asked: timedelta | None,
    now: datetime,
    first: timedelta,
    jitter: Jitter,
) -> SiteRateLimit:
    """*gate* after the site refused us for *reason*, and *asked* to be left alone for so long."""
    asked = min(asked or _NONE, LONGEST_WAIT)
    if gate.parked and gate.probe != job_id:
        # One of those that had passed before it was parked; it knows nothing new but the wait.
        assert gate.parked_until is not None
        return replace(gate, parked_until=max(gate.parked_until, now + asked))
    cooldown = min(LONGEST_PARK, gate.cooldown * 2 if gate.parked else first)
    until = now + max(cooldown * (1 + jitter() / 4), asked)
    return replace(
        slowed(gate, now),
        parked_until=until,
        parked_since=gate.parked_since or now,
        cooldown=cooldown,
        reason=reason,
        probe="",
    )


def slowed(gate: SiteRateLimit, now: datetime) -> SiteRateLimit:
    """*gate* after the site asked to slow down."""
    delay = min(_SLOWEST, max(_SLOWED, gate.delay * 2))
    return replace(gate, delay=delay, next_start=now + delay)


def speed_up(gate: SiteRateLimit) -> SiteRateLimit:
    """*gate* after a job went well: what a complaint doubled, successes take back little by little."""
    if gate.delay == _NONE:
        return gate
    delay = gate.delay * 0.75
    return replace(gate, delay=delay if delay >= _NO_DELAY_BELOW else _NONE)


def opened(gate: SiteRateLimit, job_id: str) -> SiteRateLimit:
    """*gate* after the site answered *job_id*: open again if that was the probe."""
    if not gate.parked or gate.probe != job_id:
        return gate
    return replace(gate, parked_until=None, parked_since=None, cooldown=_NONE, reason="", probe="")


def clear_probe(gate: SiteRateLimit, job_id: str, now: datetime) -> SiteRateLimit:
    """*gate* after *job_id*, if it was the probe, ended without a word of the site: the next may try."""
    if not gate.parked or gate.probe != job_id:
        return gate
    return replace(gate, parked_until=now, probe="")


def cleared(gate: SiteRateLimit, now: datetime) -> SiteRateLimit:
    """*gate* without what needs no memory: a start that has passed, where none is to follow it slowly."""
    over = gate.delay == _NONE and gate.next_start is not None and gate.next_start <= now
    return replace(gate, next_start=None) if over else gate


#: As many as you like.
UNLIMITED = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLimits:
    """What may be asked of a site."""

    #: Jobs in hand at once; 0 means any number.
    running: int = 0
    running_of: Mapping[str, int] = field(default_factory=dict)
    #: Between two starts by one egress, while the site has not asked to slow down.
    delay: timedelta = timedelta(0)
    #: How long a site is left alone that blocks us; doubled each time that it still does.
    park: timedelta = timedelta(seconds=30)

    @property
    def any(self) -> bool:
        """Whether there is a limit of running jobs at all."""
        return self.running > 0 or bool(self.running_of)

    def most(self, site: str) -> int:
        """How many jobs of *site* may be in hand."""
        return self.running_of.get(site, self.running) or UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteNow:
    """How a site stands: jobs of it in hand, and its gates, one for each live egress."""

    site: str
    published: int = 0
    leased: int = 0
    gates: tuple[SiteRateLimit, ...] = ()


def room(site: SiteNow, limits: SiteLimits, now: datetime) -> int:
    """How many more jobs of *site* may be published now."""
    left = limits.most(site.site) - site.published - site.leased
    gates = site.gates or (SiteRateLimit(site=site.site),)
    if not any(gate.open(now, limits.delay) for gate in gates):
        # One at each gate: a probe, or the next after its delay.
        left = min(left, sum(gate.admits(now) for gate in gates) - site.published)
    return max(0, left)


def opens_at(site: SiteNow, now: datetime) -> datetime | None:
    """When the first of its gates lets a job through again; None where one does now."""
    times = [gate.blocked_until(now) for gate in site.gates]
    shut = [time for time in times if time is not None]
    return min(shut) if shut and len(shut) == len(times) else None
