"""Cuts: which time ranges of the media are kept, and where its moments are in the result."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from reelhaul.type.v1.media_pb2 import FormatSpec

#: Shorter ranges are dropped, because they cannot be perceived.
MIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From *start* to *end*, in seconds."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Cut:
    """The time ranges to keep, sorted and disjoint. The last may be infinite: up to the end."""

    ranges: tuple[TimeRange, ...] = (TimeRange(0.0, math.inf),)

    @property
    def length(self) -> float:
        """Seconds that are kept; infinite if the last range is."""
        return sum(kept.length for kept in self.ranges)

    @property
    def removes_something(self) -> bool:
        """Whether anything is cut away."""
        return self != Cut()

    def limited_to(self, duration: float) -> Cut:
        """Return this cut for media of *duration* seconds (0: unknown); ``Cut()`` if it keeps all of them.

        Without ranges, if the media ends before the first of them.
        """
        if duration <= 0:
            return self
        limited = (TimeRange(kept.start, min(kept.end, duration)) for kept in self.ranges)
        ranges = tuple(kept for kept in limited if kept.length >= MIN_SECONDS)
        whole = len(ranges) == 1 and ranges[0].start == 0 and ranges[0].end >= duration - MIN_SECONDS
        return Cut() if whole else Cut(ranges)

    def kept_seconds(self, duration: float) -> float:
        """Return the play time in seconds of media of *duration* seconds after this cut."""
        return self.length if self.removes_something else duration

    def map_time(self, seconds: float) -> float:
        """Return where *seconds* is in the result; if it is cut away, where that cut is."""
        return sum(max(0.0, min(seconds, kept.end) - kept.start) for kept in self.ranges)

    def map_range(self, source: TimeRange) -> TimeRange | None:
        """Return where *source* is in the result; None if nothing is left of it."""
        result = TimeRange(self.map_time(source.start), self.map_time(source.end))
        return result if result.length >= MIN_SECONDS else None


def make_cut(clip: TimeRange | None, removed: Iterable[TimeRange]) -> Cut:
    """Return what is left of *clip* (None: everything) without *removed*.

    If nothing is left, nothing is removed.
    """
    kept = [clip or TimeRange(0.0, math.inf)]
    for gap in sorted(removed, key=lambda gap: gap.start):
        # The earlier parts end before a gap that starts before this one.
        if kept:
            kept.extend(_subtract(kept.pop(), gap))
    return Cut(tuple(kept)) if kept else Cut((clip,) if clip else Cut().ranges)


def clip_range(spec: FormatSpec) -> TimeRange | None:
    """Return the range that *spec* requests; None if it requests everything."""
    if not spec.HasField("clip"):
        return None
    start = spec.clip.start.ToTimedelta().total_seconds()
    end = spec.clip.end.ToTimedelta().total_seconds() if spec.clip.HasField("end") else math.inf
    return TimeRange(start, end)


def _subtract(source: TimeRange, gap: TimeRange) -> list[TimeRange]:
    if gap.end <= source.start or gap.start >= source.end:
        return [source]
    parts = [
        TimeRange(source.start, min(source.end, gap.start)),
        TimeRange(max(source.start, gap.end), source.end),
    ]
    return [part for part in parts if part.length >= MIN_SECONDS]
