"""Sites: whom we download from, what we ask of one at a time, and whether it lets us in now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from urllib.parse import urlsplit

from reelhaul_jobs.model.rate_limit import SiteRateLimit

#: As many as you like.
UNLIMITED = 10**9

#: Hosts of one house: what throttles us at one of them throttles us at all.
_HOUSES: Mapping[str, str] = {
    "youtu.be": "youtube.com",
    "youtube-nocookie.com": "youtube.com",
    "youtubekids.com": "youtube.com",
    "twitter.com": "x.com",
    "fb.watch": "facebook.com",
    "fb.com": "facebook.com",
    "dai.ly": "dailymotion.com",
    "redd.it": "reddit.com",
    "b23.tv": "bilibili.com",
    "vm.tiktok.com": "tiktok.com",
} | {
    site: site
    for site in (
        "youtube.com",
        "x.com",
        "facebook.com",
        "dailymotion.com",
        "reddit.com",
        "bilibili.com",
        "tiktok.com",
        "vimeo.com",
        "twitch.tv",
        "instagram.com",
        "soundcloud.com",
    )
}
# URLs are many, and their hosts few: of these urlsplit() would say the same.
_PLAIN = re.compile(r"https?://([A-Za-z0-9._-]+)(?:[/?#]|\Z)")
_SAME_HOST = ("www.", "m.", "mobile.")


def site_of(url: str) -> str:
    """The site that *url* belongs to: its house, or its host without ``www.`` and the like."""
    plain = _PLAIN.match(url)
    return _site_at(plain[1].lower() if plain else urlsplit(url).hostname or "")


@lru_cache(maxsize=1024)
def _site_at(host: str) -> str:
    host = host.rstrip(".")
    for prefix in _SAME_HOST:
        if host.startswith(prefix) and "." in host.removeprefix(prefix):
            host = host.removeprefix(prefix)
            break
    parts = host.split(".")
    for start in range(len(parts) - 1):
        house = _HOUSES.get(".".join(parts[start:]))
        if house:
            return house
    return host[:255]


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
