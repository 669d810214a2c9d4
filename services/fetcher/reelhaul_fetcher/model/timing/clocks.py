"""Clocks: when streams that were delivered apart begin, relative to each other, by their timestamps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

#: Timestamps of MPEG-TS have 33 bits and 90,000 ticks per second (ISO/IEC 13818-1), and begin again after.
MPEG_TS_PERIOD = 2**33 / 90_000

# Less than a video frame: what encoders of audio add in front, which decoders skip.
_NEGLIGIBLE_SECONDS = 0.025
# Streams of unknown duration that begin further apart than this have no common clock.
_MAX_UNPROVEN_SECONDS = 60.0
# A playlist tells when its segments begin about as exactly as this.
_PLAYLIST_TOLERANCE = 10.0


@dataclass(frozen=True, slots=True)
class Clock:
    """When a stream begins by its timestamps, in seconds; None: it has none. *duration* 0 means unknown."""

    start: float | None
    duration: float = 0.0
    #: Seconds after which the timestamps begin again; 0: never.
    period: float = 0.0

    def shifted(self, seconds: float) -> Clock:
        """Return this clock for a presentation that begins at *seconds* of it."""
        return self if self.start is None else replace(self, start=self.start - seconds)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When streams play in the file that is made of them, in seconds.

    A stream with a negative delay begins before the file does. *end* is where all streams are cut,
    *longest_gap* the longest time of which a stream has nothing.
    """

    delays: tuple[float, ...]
    length: float
    end: float = math.inf
    longest_gap: float = 0.0


def plan_timeline(clocks: Sequence[Clock]) -> Timeline:
    """Return the timeline of streams that were received as a whole: from the first start to the last end."""
    delays = align(clocks)
    return Timeline(tuple(delays), max(_ends(delays, clocks), default=0.0))


def plan_recorded_timeline(
    clocks: Sequence[Clock], told_starts: Sequence[float], told_end: float
) -> Timeline:
    """Return the timeline of streams recorded from *told_starts* to *told_end*, by their playlists.

    The file begins with the first stream, the video, and ends at *told_end*, or later if all streams do.
    """
    delays = align(clocks, told_starts)
    delays = [delay - delays[0] for delay in delays]
    ends = _ends(delays, clocks)
    length, are_known = max(ends, default=0.0), len(ends) == len(clocks)
    end = max(told_end - told_starts[0], min(ends)) if are_known else math.inf
    return Timeline(tuple(delays), min(end, length), end if end < length else math.inf)


def _ends(delays: Sequence[float], clocks: Sequence[Clock]) -> list[float]:
    """Return when the streams end whose duration is known."""
    return [delay + clock.duration for delay, clock in zip(delays, clocks, strict=True) if clock.duration]


def align(clocks: Sequence[Clock], told: Sequence[float] | None = None) -> list[float]:
    """Return how many seconds after the earliest stream each one begins.

    *told* is what the playlists tell about that, relative to the first stream. It counts for a stream without
    timestamps, and for one whose timestamps contradict it. If nothing is told, a stream without timestamps,
    or whose timestamps show that it is on another clock than the first stream, begins with that one.
    """
    starts = [0.0]
    for number, clock in enumerate(clocks[1:], 1):
        difference = _difference(clocks[0], clock)
        if told is not None:
            told_start = told[number] - told[0]
            contradicts = difference is None or abs(difference - told_start) > _PLAYLIST_TOLERANCE
            difference = told_start if contradicts else difference
        elif difference is not None and not _overlap(clocks[0], clock, difference):
            difference = None
        starts.append(difference or 0.0)
    delays = [start - min(starts) for start in starts]
    return [delay if delay > _NEGLIGIBLE_SECONDS else 0.0 for delay in delays]


def _difference(first: Clock, second: Clock) -> float | None:
    """Return how long after *first* *second* begins; None if their timestamps do not tell."""
    if first.start is None or second.start is None:
        return None
    difference = second.start - first.start
    period = max(first.period, second.period)
    return (difference + period / 2) % period - period / 2 if period else difference


def _overlap(first: Clock, second: Clock, difference: float) -> bool:
    """Return whether the streams play at the same time if *second* begins *difference* after *first*."""
    first_seconds, second_seconds = (clock.duration or _MAX_UNPROVEN_SECONDS for clock in (first, second))
    return -second_seconds < difference < first_seconds
