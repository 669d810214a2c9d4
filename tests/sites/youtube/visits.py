"""What the stand-in remembers of its visitors: faults that pass, URLs that expire, broadcasts that go on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from tests.sites.faults import WELL, Faults
from tests.sites.youtube.catalogue import Video
from tests.sites.youtube.showing import Showing


class Visits:
    """How often and since when each video was asked for."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun: dict[str, float] = {}
        self._serials: Counter[str] = Counter()
        self._turns: Counter[tuple[str, str]] = Counter()
        self._expired: dict[str, int] = {}

    def seconds(self, video: Video) -> float:
        """Since *video* was first asked for."""
        now = self._now()
        return now - self._begun.setdefault(video.id, now)

    def showing(self, video: Video, client: str, *, signed_in: bool) -> Showing:
        """One more answer about *video*, as of now."""
        passed = self.seconds(video)
        self._serials[video.id] += 1
        return Showing(
            video,
            client,
            self._serials[video.id],
            begins_in=max(0.0, video.begins_after - passed),
            on_air=passed < video.live,
            signed_in=signed_in,
        )

    def faults(self, kind: str, video: Video, faults: Faults) -> Faults:
        """*faults*, or none where they have passed: they end after their first ``times`` of a *kind*."""
        turn = self._turns[kind, video.id]
        self._turns[kind, video.id] += 1
        return WELL if faults.times and turn >= faults.times else faults

    def within(self, kind: str, video: Video, first: int, last: int) -> bool:
        """Whether this request of a *kind* is one of those from *first* to *last*, counted from 0."""
        turn = self._turns[kind, video.id]
        self._turns[kind, video.id] += 1
        return first <= turn <= last

    def expired(self, video: Video, serial: int, start: int) -> bool:
        """Whether the URL of answer *serial* is refused from byte *start* on."""
        if video.expires_from is None:
            return False
        if video.id not in self._expired and start >= video.expires_from:
            self._expired[video.id] = self._serials[video.id]
        return serial <= self._expired.get(video.id, 0)
