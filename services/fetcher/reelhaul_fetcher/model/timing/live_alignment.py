"""Live alignment: chooses the first segment of each stream of a broadcast, so that all begin together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from reelhaul_fetcher.model.hls_playlist import Playlist, Segment
from reelhaul_fetcher.model.timing.clocks import wrap

#: A recording begins this many segments behind the live edge, as players do.
EDGE_SEGMENTS = 3
# A shorter rest of a segment, in seconds, is skipped.
_MIN_SECONDS = 0.1

# Streams whose newest segments differ by more seconds than this have no common clock.
_MAX_LAG_SECONDS = 300.0
# Relative difference up to which the play times of segments with common numbers are equal.
_LENGTH_TOLERANCE = 0.1

#: Returns the first timestamp, in seconds, of a segment of the stream with that index; None if it has none.
Measure = Callable[[int, Segment], float | None]


@dataclass(frozen=True, slots=True)
class Anchor:
    """The first segment for a recorder, and its start in seconds after that of the recording."""

    number: int = 0
    position: float = 0.0


def is_over(segment: Segment, end: float) -> bool:
    """Return whether too little of *segment* remains if a recording begins *end* seconds before its end."""
    return end <= min(_MIN_SECONDS, segment.seconds / 2)


class _Window:
    """The segments of a playlist, with their start times on a clock in seconds."""

    def __init__(self, playlist: Playlist, preferred: int, start: float) -> None:
        self.segments = playlist.segments
        #: Start of the segment at which this stream alone would begin.
        self.start = start
        elapsed = list(accumulate((segment.seconds for segment in playlist.segments), initial=0.0))
        #: Start of each segment, and end of the newest one.
        self.times = [start + seconds - elapsed[preferred] for seconds in elapsed]

    def anchor(self, begin: float) -> Anchor:
        """Return the segment that contains *begin*, or the first or last one if *begin* is outside all."""
        # The last time is the start of a future segment.
        ends = zip(self.segments, self.times[1:-1], strict=False)
        index = sum(is_over(segment, end - begin) for segment, end in ends)
        return Anchor(self.segments[index].number, self.times[index] - begin)


def align(playlists: Sequence[Playlist], measure: Measure, *, from_start: bool) -> list[Anchor]:
    """Return the anchor of each recorder; the first stream is the video, if there is one.

    All recorders begin at the start of one of its segments: near the live edge that every playlist has
    reached, or with *from_start* as far back as every playlist reaches. A stream with an empty playlist is
    not aligned.
    """
    anchors = [Anchor() for _ in playlists]
    filled = [index for index, playlist in enumerate(playlists) if playlist.segments]
    windows = _place(filled, playlists, measure, from_start=from_start)
    if windows:
        earliest = max(window.times[0] for window in windows)
        begin = max(earliest, min(window.start for window in windows))
        times = windows[0].times
        begin = next((time for time in times if time >= begin - _MIN_SECONDS), times[-1])
        for index, window in zip(filled, windows, strict=True):
            anchors[index] = window.anchor(begin)
    return anchors


def _place(
    filled: list[int], playlists: Sequence[Playlist], measure: Measure, *, from_start: bool
) -> list[_Window]:
    """Return the windows of the playlists with the indexes *filled*, on one clock.

    The clock is the first of these that all have: EXT-X-PROGRAM-DATE-TIME, timestamps, the media sequence
    numbers of segments of one length, or the live edge.
    """
    preferred = [_preferred(playlists[index], from_start=from_start) for index in filled]

    def place(starts: Sequence[float | None]) -> list[_Window]:
        """Return the windows if the preferred segments can begin at *starts*; otherwise none."""
        windows = [
            _Window(playlists[index], number, start)
            for index, number, start in zip(filled, preferred, starts, strict=True)
            if start is not None
        ]
        edges = [window.times[-1] for window in windows]
        is_common = len(edges) == len(filled) and max(edges) - min(edges) <= _MAX_LAG_SECONDS
        return windows if is_common else []

    if len(filled) <= 1:
        return place([0.0] * len(filled)) if filled else []
    segments = [playlists[index].segments[start] for index, start in zip(filled, preferred, strict=True)]
    at_edge = [
        -sum(s.seconds for s in playlists[index].segments[start:])
        for index, start in zip(filled, preferred, strict=True)
    ]
    return (
        place([segment.time for segment in segments])
        or place(_unwrap([measure(index, s) for index, s in zip(filled, segments, strict=True)]))
        or place(_number_times(segments))
        or place(at_edge)
    )


def _preferred(playlist: Playlist, *, from_start: bool) -> int:
    """Return the index of the segment at which the stream alone would begin."""
    return 0 if from_start or playlist.ended else max(0, len(playlist.segments) - EDGE_SEGMENTS)


def _number_times(segments: Sequence[Segment]) -> list[float | None]:
    """Return the starts of *segments* by their media sequence numbers; None if these are not comparable."""
    first = segments[0]
    tolerance = _LENGTH_TOLERANCE * first.seconds
    is_common = all(abs(segment.seconds - first.seconds) <= tolerance for segment in segments)
    return [(s.number - first.number) * first.seconds if is_common else None for s in segments]


def _unwrap(starts: Sequence[float | None]) -> list[float | None]:
    """Return *starts* without the step where timestamps of MPEG-TS wrap."""
    first = next((start for start in starts if start is not None), 0.0)
    return [None if start is None else first + wrap(start - first) for start in starts]
