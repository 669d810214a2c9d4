"""Egresses: the ways out to the sites. Which is used how much, and which a site does not let in just now."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import unquote, urlsplit

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError, spec_of

#: The ``cause`` of a failure that is the egress's own: its proxy is away, or does not know us.
BROKEN = "egress"

#: The name of the only egress of a fetcher without upstream proxies: straight out.
STRAIGHT = ""

# The first rest of an egress that a site refuses, and the longest; doubled each time that it still does.
_FIRST_REST, _LONGEST_REST = timedelta(seconds=30), timedelta(minutes=30)
# Stands for every site.
_EVERYWHERE = ""
# Sites of which it is remembered; the one that rests the shortest is forgotten first.
_MOST_RESTS = 1000
# A claim need not name hundreds.
_MOST_OFFERED = 16


def name_of(url: str) -> str:
    """The name of the egress behind the proxy at *url*: the same at each start, and no secret.

    Proxies of one address are told apart by their users; the password has no part in it.
    """
    parts = urlsplit(url)
    told = f"{unquote(parts.username or '')}@{(parts.hostname or '').lower()}:{parts.port or 80}"
    return f"egress-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Cooldown:
    """An egress is not to be used at a site before then; *length* is how long this rest is."""

    until: datetime
    length: timedelta


class Egresses:
    """The ways out of one fetcher, by name; *daily_bytes* is what each may carry in a day (UTC), 0 any."""

    def __init__(
        self,
        names: Sequence[str] = (STRAIGHT,),
        daily_bytes: int = 0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        carried: Mapping[str, int] | None = None,
    ) -> None:
        self.names = tuple(names)
        self._daily_bytes, self._now = daily_bytes, now
        self._day = now().date()
        self._carried: Counter[str] = Counter(carried or {})
        self._running: Counter[str] = Counter()
        self._rests: dict[tuple[str, str], Cooldown] = {}

    @property
    def spent(self) -> bool:
        """Whether every egress has carried what it may today."""
        return not any(self._within_budget(name) for name in self.names)

    @property
    def day(self) -> date:
        """The day whose bytes are counted."""
        if (today := self._now().date()) != self._day:
            self._day = today
            self._carried.clear()
        return self._day

    def carried(self, name: str) -> int:
        """Bytes that *name* carried today."""
        return self._carried[name] if self.day else 0

    def candidates(self) -> list[str]:
        """Those that a job may have, the least busy first. One at least: what runs may end."""
        fit = [name for name in self.names if self._within_budget(name)] or list(self.names)
        works = [name for name in fit if not self._resting(_EVERYWHERE, name)] or fit
        return sorted(works, key=self._load)[:_MOST_OFFERED]

    def choice(self, site: str) -> str:
        """The least busy of those that *site* lets in; where it lets none in, the one that rests shortest.

        Raises UPSTREAM_UNAVAILABLE where all have carried what they may today.
        """
        if self.spent:
            text = "every egress has carried what it may today"
            known = {"host": site, "cause": BROKEN}
            raise ReelhaulError(ErrorReason.UPSTREAM_UNAVAILABLE, text, metadata=known)
        return min(
            (name for name in self.names if self._within_budget(name)),
            key=lambda name: (
                max(self._resting(site, name), self._resting(_EVERYWHERE, name)),
                *self._load(name),
            ),
        )

    def began(self, name: str) -> None:
        """A fetch goes out by *name*."""
        self._running[name] += 1

    def ended(self, name: str) -> None:
        """It does no more."""
        self._running[name] -= 1

    def count(self, name: str, number: int) -> None:
        """*number* more bytes went by *name*."""
        if self.day:
            self._carried[name] += number

    def record_result(self, site: str, name: str, failure: ReelhaulError | None) -> None:
        """How a fetch at *site* by *name* went.

        Where the site takes us for a robot or for too many, *name* rests there; one that does
        not even let us out rests everywhere.
        """
        if failure is None:
            for known in ((site, name), (_EVERYWHERE, name)):
                self._rests.pop(known, None)
        elif failure.metadata.get("cause") == BROKEN:
            self._rest((_EVERYWHERE, name), timedelta())
        elif spec_of(failure.reason).parks_site:
            self._rest((site, name), min(failure.retry_delay or timedelta(), timedelta(days=1)))

    def _rest(self, key: tuple[str, str], asked: timedelta) -> None:
        before, now = self._rests.get(key), self._now()
        if before and before.until > now:
            # This fetch had begun before the rest did: it says nothing new.
            return
        length = min(before.length * 2, _LONGEST_REST) if before else _FIRST_REST
        self._rests[key] = Cooldown(now + max(length, asked), length)
        if len(self._rests) > _MOST_RESTS:
            del self._rests[min(self._rests, key=lambda known: self._rests[known].until)]

    def _resting(self, site: str, name: str) -> timedelta:
        rest = self._rests.get((site, name))
        return max(rest.until - self._now(), timedelta()) if rest else timedelta()

    def _load(self, name: str) -> tuple[int, int, str]:
        return self._running[name], self.carried(name), name

    def _within_budget(self, name: str) -> bool:
        return not self._daily_bytes or self.carried(name) < self._daily_bytes
