"""Sites: whom we download from, what we ask of one at a time, and whether it lets us in now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reelhaul_jobs.model.rate_limit import SiteRateLimit

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
