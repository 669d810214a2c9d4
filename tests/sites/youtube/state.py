"""State of the stand-in: faults that end, URLs that expire, broadcasts that go on, and views of videos."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.sites.faults import NO_FAULTS, Faults
from tests.sites.youtube.catalogue import PLAYABLE, Playability, Video

#: Clients that get all metadata of a video but no URLs: they have to use YouTube's SABR protocol.
WEB_CLIENTS = {"WEB", "MWEB", "WEB_REMIX", "WEB_CREATOR"}


@dataclass(frozen=True)
class VideoView:
    """A video as one client sees it at one moment."""

    video: Video
    #: The client's name, e.g. ``WEB``.
    client: str
    #: Number of the player response about this video; its URLs carry it.
    serial: int
    #: Seconds until the event starts; 0 if it has started or is none.
    starts_in: float = 0
    is_live: bool = False
    signed_in: bool = False

    @property
    def playability(self) -> Playability:
        """Whether this client may play the video now."""
        if self.starts_in > 0:
            hours = round(self.starts_in / 3600)
            when = f"{hours} hours" if hours else f"{round(self.starts_in)} seconds"
            return Playability("LIVE_STREAM_OFFLINE", f"This live event will begin in {when}.")
        embedded = self.client == "WEB_EMBEDDED_PLAYER" and self.video.playable_embedded
        playable = embedded or (self.video.playable_signed_in and self.signed_in)
        return PLAYABLE if playable else self.video.playability


class ServerState:
    """Counts and first times of the requests for each video."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._first_requests: dict[str, float] = {}
        self._serials: Counter[str] = Counter()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._expired_serials: dict[str, int] = {}

    def age(self, video: Video) -> float:
        """Return the seconds since the first request for *video*."""
        now = self._now()
        return now - self._first_requests.setdefault(video.id, now)

    def view(self, video: Video, client: str, *, signed_in: bool) -> VideoView:
        """Return the view of *video* for a new player response."""
        age = self.age(video)
        self._serials[video.id] += 1
        return VideoView(
            video,
            client,
            self._serials[video.id],
            starts_in=max(0.0, video.starts_after - age),
            is_live=age < video.live,
            signed_in=signed_in,
        )

    def next_faults(self, kind: str, video: Video, faults: Faults) -> Faults:
        """Return *faults* for this request of *kind*; none after the first ``times`` requests."""
        index = self._next_index(kind, video)
        return NO_FAULTS if faults.times and index >= faults.times else faults

    def is_in_range(self, kind: str, video: Video, first: int, last: int) -> bool:
        """Return whether this request of *kind* is one of those from *first* to *last*, counted from 0."""
        return first <= self._next_index(kind, video) <= last

    def is_expired(self, video: Video, serial: int, start: int) -> bool:
        """Return whether a URL of player response *serial* is refused for bytes from *start* on."""
        if video.expires_from is None:
            return False
        if video.id not in self._expired_serials and start >= video.expires_from:
            self._expired_serials[video.id] = self._serials[video.id]
        return serial <= self._expired_serials.get(video.id, 0)

    def _next_index(self, kind: str, video: Video) -> int:
        index = self._counts[kind, video.id]
        self._counts[kind, video.id] += 1
        return index
