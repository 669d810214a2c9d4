"""One honest percentage: weights fixed when the plan is made, never falling, never 100."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf import duration_pb2

from reelhaul.type.v1.media_pb2 import Progress

Stage = Progress.Stage

#: Percent at which each stage begins and ends. Only Finish makes 100.
SHARES: dict[Stage.ValueType, tuple[float, float]] = {
    Stage.DOWNLOADING: (2.0, 85.0),
    Stage.POSTPROCESSING: (85.0, 92.0),
    Stage.VERIFYING: (92.0, 94.0),
    Stage.UPLOADING: (94.0, 99.9),
}

_WINDOW_SECONDS = 5.0


@dataclass(slots=True)
class _Part:
    weight: float | None
    received: int = 0
    fraction: float | None = None

    def done(self) -> float | None:
        """0..1, or None where it cannot be told."""
        if self.fraction is not None:
            return min(self.fraction, 1.0)
        return min(self.received / self.weight, 1.0) if self.weight else None


class ProgressTracker:
    """Progress of one fetch. *tell* hears of it at most four times a second, and of each new stage.

    Safe to call from several threads: fragments arrive in many.
    """

    def __init__(
        self, tell: Callable[[Progress], None], now: Callable[[], float], interval: float = 0.25
    ) -> None:
        self._tell, self._now, self._interval = tell, now, interval
        self._lock = threading.Lock()
        self._parts: dict[str, _Part] = {}
        self._total_bytes: int | None = None
        self._stage: Stage.ValueType = Stage.STAGE_UNSPECIFIED
        self._detail = ""
        self._within = 0.0
        self._percent: float | None = None
        self._told_at = float("-inf")
        self._marks: deque[tuple[float, int]] = deque()

    @property
    def received(self) -> int:
        """Bytes received so far, over all parts."""
        return sum(part.received for part in self._parts.values())

    def stage(self, stage: Stage.ValueType, detail: str = "") -> None:
        """Begin *stage*."""
        with self._lock:
            self._stage, self._detail, self._within = stage, detail, 0.0
            self._say(at_once=True)

    def plan(self, weights: Mapping[str, float | None], total_bytes: int | None) -> None:
        """Fix what each part weighs (bytes, or None where unknown) and all bytes to come."""
        with self._lock:
            self._parts = {part: _Part(weight) for part, weight in weights.items()}
            self._total_bytes = total_bytes

    def receive(self, part: str, received: int, fraction: float | None = None) -> None:
        """*part* has *received* bytes, which is *fraction* of it where that is known better."""
        with self._lock:
            known = self._parts.setdefault(part, _Part(None))
            known.received, known.fraction = max(received, known.received), fraction
            self._say()

    def advance(self, fraction: float) -> None:
        """The present stage is done to *fraction*."""
        with self._lock:
            self._within = min(max(fraction, self._within), 1.0)
            self._say()

    def _say(self, *, at_once: bool = False) -> None:
        now = self._now()
        if not at_once and now - self._told_at < self._interval:
            return
        self._told_at = now
        self._tell(self._progress(now))

    def _progress(self, now: float) -> Progress:
        told = Progress(stage=self._stage, detail=self._detail, downloaded_bytes=self.received)
        told.bytes_per_second = self._speed(now)
        if (percent := self._share()) is not None:
            self._percent = max(percent, self._percent or 0.0)
            told.percent = round(self._percent, 2)
        if self._total_bytes is not None:
            told.total_bytes = max(self._total_bytes, self.received)
            left = self._total_bytes - self.received
            if self._stage == Stage.DOWNLOADING and told.bytes_per_second > 0 and left >= 0:
                told.eta.CopyFrom(duration_pb2.Duration(seconds=round(left / told.bytes_per_second)))
        return told

    def _share(self) -> float | None:
        if self._stage not in SHARES:
            return self._percent
        begin, end = SHARES[self._stage]
        within = self._downloaded() if self._stage == Stage.DOWNLOADING else self._within
        return None if within is None else begin + (end - begin) * within

    def _downloaded(self) -> float | None:
        parts = list(self._parts.values())
        if len(parts) == 1:
            return parts[0].done()
        total = 0.0
        for part in parts:
            done = part.done()
            if not part.weight or (done is None):
                return None
            total += part.weight * done
        weight = sum(part.weight or 0.0 for part in parts)
        return total / weight if weight else None

    def _speed(self, now: float) -> int:
        """Bytes a second over the last seconds; 0 outside of the download."""
        if self._stage not in (Stage.DOWNLOADING, Stage.RECORDING):
            self._marks.clear()
            return 0
        self._marks.append((now, self.received))
        while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW_SECONDS:
            self._marks.popleft()
        began, before = self._marks[0]
        return int((self.received - before) / (now - began)) if now > began else 0


# Stages whose bytes come from a site; in the others the machine works for itself.
_FROM_SITE = frozenset(
    {
        Progress.STAGE_UNSPECIFIED,
        Progress.PROBING,
        Progress.EXPANDING,
        Progress.FETCHING_EXTRAS,
        Progress.DOWNLOADING,
        Progress.RECORDING,
    }
)
# Less than this in each second of the whole patience is no download.
_TRICKLE_BYTES = 1024


class Watchdog:
    """Told of bytes from time to time, says whether they came too slowly for *patience* seconds."""

    def __init__(self, patience: float, now: float) -> None:
        self._patience = patience
        self._since, self._before = now, 0
        self._stage: Progress.Stage.ValueType = Progress.STAGE_UNSPECIFIED

    def stalled(self, now: float, stage: Progress.Stage.ValueType, received: int) -> bool:
        """Whether *stage* has stalled, *received* bytes having come in all."""
        waited = now - self._since
        moved = received - self._before >= _TRICKLE_BYTES * max(waited, 1.0)
        if stage != self._stage or stage not in _FROM_SITE or moved:
            self._since, self._before, self._stage = now, received, stage
            return False
        return waited > self._patience
