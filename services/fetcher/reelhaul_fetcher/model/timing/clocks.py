"""Clocks: the relative starts of streams that were delivered separately, by their timestamps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

#: Seconds after which timestamps of MPEG-TS wrap: 33 bits of 90,000 ticks per second (ISO/IEC 13818-1).
MPEG_TS_PERIOD = 2**33 / 90_000

# Less than a video frame: the priming of audio encoders, which decoders skip.
_NEGLIGIBLE_SECONDS = 0.025
# Streams of unknown duration whose starts differ by more seconds than this have no common clock.
_MAX_UNPROVEN_SECONDS = 60.0
# Accuracy of the start times in playlists, in seconds.
_PLAYLIST_TOLERANCE = 10.0


@dataclass(frozen=True, slots=True)
class Clock:
    """The first timestamp of a stream (None: no timestamps) and its duration (0: unknown), in seconds."""

    start: float | None
    duration: float = 0.0
    #: Seconds after which the timestamps wrap; 0: never.
    period: float = 0.0

    def shifted(self, seconds: float) -> Clock:
        """Return this clock for a presentation that begins at *seconds* of it."""
        return self if self.start is None else replace(self, start=self.start - seconds)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The times, in seconds, at which streams play in the output file.

    A stream with a negative delay begins before the file does. *end* is where all streams are cut,
    *longest_gap* the longest gap in a stream.
    """

    delays: tuple[float, ...]
    length: float
    end: float = math.inf
    longest_gap: float = 0.0


def plan_timeline(clocks: Sequence[Clock]) -> Timeline:
    """Return the timeline of complete streams: from the first start to the last end."""
    delays = align(clocks)
    return Timeline(tuple(delays), max(_ends(delays, clocks), default=0.0))


def plan_recorded_timeline(
    clocks: Sequence[Clock], playlist_starts: Sequence[float], playlist_end: float
) -> Timeline:
    """Return the timeline of streams recorded from *playlist_starts* to *playlist_end*, by their playlists.

    The file begins with the first stream, the video, and ends at *playlist_end*, or later if all streams do.
    """
    delays = align(clocks, playlist_starts)
    delays = [delay - delays[0] for delay in delays]
    ends = _ends(delays, clocks)
    length, are_known = max(ends, default=0.0), len(ends) == len(clocks)
    end = max(playlist_end - playlist_starts[0], min(ends)) if are_known else math.inf
    return Timeline(tuple(delays), min(end, length), end if end < length else math.inf)


def wrap(seconds: float, period: float = MPEG_TS_PERIOD) -> float:
    """Return *seconds* wrapped to a clock with *period*, between plus and minus half of it."""
    return (seconds + period / 2) % period - period / 2


def _ends(delays: Sequence[float], clocks: Sequence[Clock]) -> list[float]:
    """Return the ends of the streams with a known duration."""
    return [delay + clock.duration for delay, clock in zip(delays, clocks, strict=True) if clock.duration]


def align(clocks: Sequence[Clock], playlist_starts: Sequence[float] | None = None) -> list[float]:
    """Return how many seconds after the earliest stream each one begins.

    *playlist_starts* are the starts by the playlists, in seconds. They are used for a stream without
    timestamps, and for one whose timestamps contradict them. Without them, a stream that has no timestamps,
    or has another clock than the first stream, begins with the first stream.
    """
    starts = [0.0]
    for number, clock in enumerate(clocks[1:], 1):
        difference = _difference(clocks[0], clock)
        if playlist_starts is not None:
            playlist_start = playlist_starts[number] - playlist_starts[0]
            contradicts = difference is None or abs(difference - playlist_start) > _PLAYLIST_TOLERANCE
            difference = playlist_start if contradicts else difference
        elif difference is not None and not _overlap(clocks[0], clock, difference):
            difference = None
        starts.append(difference or 0.0)
    delays = [start - min(starts) for start in starts]
    return [delay if delay > _NEGLIGIBLE_SECONDS else 0.0 for delay in delays]


def _difference(first: Clock, second: Clock) -> float | None:
    """Return the seconds from the start of *first* to that of *second*; None without timestamps."""
    if first.start is None or second.start is None:
        return None
    difference = second.start - first.start
    period = max(first.period, second.period)
    return wrap(difference, period) if period else difference


def _overlap(first: Clock, second: Clock, difference: float) -> bool:
    """Return whether the streams play at the same time if *second* begins *difference* after *first*."""
    first_seconds, second_seconds = (clock.duration or _MAX_UNPROVEN_SECONDS for clock in (first, second))
    return -second_seconds < difference < first_seconds
