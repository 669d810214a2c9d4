"""What is left of media after a cut, and where its moments are then."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from reelhaul.type.v1.media_pb2 import FormatSpec

# Less than this is no stretch: nobody sees or hears it.
_SHORTEST = 0.05


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A stretch from *start* to *end*, in seconds."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The stretches to keep, in order and apart. The end of the last may be infinite: up to the end."""

    ranges: tuple[TimeRange, ...] = (TimeRange(0.0, math.inf),)

    @property
    def length(self) -> float:
        """Seconds that are kept; infinite where the end is open."""
        return sum(span.end - span.start for span in self.ranges)

    @property
    def removes_something(self) -> bool:
        """Whether anything is cut away."""
        return self != Cut()

    def limited_to(self, duration: float) -> Cut:
        """The same cut of media that last *duration* seconds; ``Cut()`` where all of them are kept."""
        ended = (TimeRange(span.start, min(span.end, duration)) for span in self.ranges)
        spans = tuple(span for span in ended if span.end - span.start >= _SHORTEST)
        whole = len(spans) == 1 and spans[0].start == 0 and spans[0].end >= duration - _SHORTEST
        return Cut() if whole else Cut(spans)

    def map_time(self, moment: float) -> float:
        """Where *moment* is afterwards; of one that is cut away, where the cut is."""
        return sum(max(0.0, min(moment, span.end) - span.start) for span in self.ranges)

    def map_range(self, span: TimeRange) -> TimeRange | None:
        """Where *span* is afterwards; None where nothing is left of it."""
        after = TimeRange(self.map_time(span.start), self.map_time(span.end))
        return after if after.end - after.start >= _SHORTEST else None


def make_cut(clip: TimeRange | None, removed: Iterable[TimeRange]) -> Cut:
    """What stays of *clip*, or of everything, without *removed*. Nothing at all is no cut."""
    left = [clip or TimeRange(0.0, math.inf)]
    for gone in sorted(removed, key=lambda span: span.start):
        left = [part for span in left for part in _without(span, gone)]
    return Cut(tuple(left)) if left else Cut((clip,) if clip else Cut().ranges)


def clip_range(spec: FormatSpec) -> TimeRange | None:
    """The stretch that *spec* asks for; None where it asks for everything."""
    if not spec.HasField("clip"):
        return None
    start = spec.clip.start.ToTimedelta().total_seconds()
    end = spec.clip.end.ToTimedelta().total_seconds() if spec.clip.HasField("end") else math.inf
    return TimeRange(start, end)


def _without(span: TimeRange, gone: TimeRange) -> list[TimeRange]:
    parts = [TimeRange(span.start, min(span.end, gone.start)), TimeRange(max(span.start, gone.end), span.end)]
    if gone.end <= span.start or gone.start >= span.end:
        return [span]
    return [part for part in parts if part.end - part.start >= _SHORTEST]
