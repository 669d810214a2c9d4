"""Egresses: chooses the upstream proxy of each fetch by load, daily byte budget and per-site cool-downs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import unquote, urlsplit

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError, error_spec

#: ``cause`` in the metadata of failures of the egress itself: its proxy is down or rejects our credentials.
EGRESS_CAUSE = "egress"

#: Name of the only egress of a fetcher without upstream proxies: a direct connection.
DIRECT = ""

# A cool-down doubles each time the site still refuses.
_MIN_COOLDOWN, _MAX_COOLDOWN = timedelta(seconds=30), timedelta(minutes=30)
# The longest Retry-After that is honoured.
_MAX_RETRY_AFTER = timedelta(days=1)
# Key of cool-downs that hold for every site.
_EVERY_SITE = ""
# The cool-down that ends first is dropped beyond this.
_MAX_COOLDOWNS = 1000
# Egresses named in one claim.
_MAX_CANDIDATES = 16


def egress_name(url: str) -> str:
    """Return the name of the egress through the proxy at *url*: stable across restarts, without secrets.

    It depends on user, host and port, not on the password.
    """
    parts = urlsplit(url)
    identity = f"{unquote(parts.username or '')}@{(parts.hostname or '').lower()}:{parts.port or 80}"
    return f"egress-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Cooldown:
    """An egress is avoided *until* then; *length* is the present back-off, without Retry-After."""

    until: datetime
    length: timedelta


class Egresses:
    """The egresses of one fetcher, by name.

    *daily_bytes* is the budget of each per day (UTC); 0 means no limit. *carried* is what they have
    used of today's.
    """

    def __init__(
        self,
        names: Sequence[str] = (DIRECT,),
        daily_bytes: int = 0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        carried: Mapping[str, int] | None = None,
    ) -> None:
        self.names = tuple(names)
        self._daily_bytes, self._now = daily_bytes, now
        self._day = now().date()
        self._carried: Counter[str] = Counter(carried or {})
        self._running: Counter[str] = Counter()
        self._cooldowns: dict[tuple[str, str], Cooldown] = {}

    @property
    def exhausted(self) -> bool:
        """Whether every egress has used its budget of today."""
        return not any(self._within_budget(name) for name in self.names)

    @property
    def day(self) -> date:
        """The day that bytes are counted for."""
        if (today := self._now().date()) != self._day:
            self._day = today
            self._carried.clear()
        return self._day

    def bytes_today(self, name: str) -> int:
        """Return the bytes that *name* carried today."""
        return self._carried[name] if self.day else 0

    def candidates(self) -> list[str]:
        """Return the egresses to offer for the next job, least loaded first.

        If all are exhausted, all are returned: running work may still end.
        """
        within_budget = [name for name in self.names if self._within_budget(name)] or list(self.names)
        working = [name for name in within_budget if not self._cooldown(_EVERY_SITE, name)] or within_budget
        return sorted(working, key=self._load)[:_MAX_CANDIDATES]

    def choose(self, site: str) -> str:
        """Return the least loaded egress without a cool-down at *site*; else the one whose ends first.

        Raises UPSTREAM_UNAVAILABLE if all have used their budget of today.
        """
        if self.exhausted:
            text = "every egress has used its byte budget of today"
            metadata = {"host": site, "cause": EGRESS_CAUSE}
            raise ReelhaulError(ErrorReason.UPSTREAM_UNAVAILABLE, text, metadata=metadata)
        return min(
            (name for name in self.names if self._within_budget(name)),
            key=lambda name: (
                max(self._cooldown(site, name), self._cooldown(_EVERY_SITE, name)),
                *self._load(name),
            ),
        )

    def begin(self, name: str) -> None:
        """Count a fetch that begins to use *name*."""
        self._running[name] += 1

    def end(self, name: str) -> None:
        """Count the end of a fetch that used *name*."""
        self._running[name] -= 1

    def add_bytes(self, name: str, count: int) -> None:
        """Charge *count* bytes to *name*."""
        if self.day:
            self._carried[name] += count

    def record_result(self, site: str, name: str, failure: ReelhaulError | None) -> None:
        """Update the cool-downs of *name* after a fetch from *site*.

        A bot check or throttling starts one for that site; a failure of the egress itself, for every site.
        """
        if failure is None:
            for key in ((site, name), (_EVERY_SITE, name)):
                self._cooldowns.pop(key, None)
        elif failure.metadata.get("cause") == EGRESS_CAUSE:
            self._start_cooldown((_EVERY_SITE, name), timedelta())
        elif error_spec(failure.reason).parks_site:
            self._start_cooldown((site, name), min(failure.retry_delay or timedelta(), _MAX_RETRY_AFTER))

    def _start_cooldown(self, key: tuple[str, str], retry_after: timedelta) -> None:
        last, now = self._cooldowns.get(key), self._now()
        if last and last.until > now:
            # The fetch began before that cool-down: it says nothing new.
            return
        length = min(last.length * 2, _MAX_COOLDOWN) if last else _MIN_COOLDOWN
        self._cooldowns[key] = Cooldown(now + max(length, retry_after), length)
        if len(self._cooldowns) > _MAX_COOLDOWNS:
            del self._cooldowns[min(self._cooldowns, key=lambda key: self._cooldowns[key].until)]

    def _cooldown(self, site: str, name: str) -> timedelta:
        """Return how long the cool-down of *name* at *site* still lasts; 0 without one."""
        cooldown = self._cooldowns.get((site, name))
        return max(cooldown.until - self._now(), timedelta()) if cooldown else timedelta()

    def _load(self, name: str) -> tuple[int, int, str]:
        return self._running[name], self.bytes_today(name), name

    def _within_budget(self, name: str) -> bool:
        return not self._daily_bytes or self.bytes_today(name) < self._daily_bytes
