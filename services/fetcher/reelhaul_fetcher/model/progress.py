"""Progress of a fetch: one percentage over all streams and stages, and detection of stalled downloads.

The weights of the streams are fixed when the plan is made. The percentage never falls; only Finish makes
it 100.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf import duration_pb2

from reelhaul.type.v1.media_pb2 import Progress

Stage = Progress.Stage

#: Percent at which each stage begins and ends.
STAGE_PERCENTAGES: dict[Stage.ValueType, tuple[float, float]] = {
    Stage.DOWNLOADING: (2.0, 85.0),
    Stage.POSTPROCESSING: (85.0, 92.0),
    Stage.VERIFYING: (92.0, 94.0),
    Stage.UPLOADING: (94.0, 99.9),
}

# A year: the sizes that sites state may be absurd.
_MAX_ETA_SECONDS = 365 * 86_400
# Seconds over which the speed is averaged.
_SPEED_WINDOW = 5.0

# Stages in which a job fails if the site sends nothing. The other stages are local, and sidecars have their
# own limit, ``ytdlp.extras.sidecar_timer``.
_NETWORK_STAGES = frozenset(
    {
        Stage.STAGE_UNSPECIFIED,
        Stage.PROBING,
        Stage.EXPANDING,
        Stage.DOWNLOADING,
        Stage.RECORDING,
    }
)
# Stages whose speed depends on the site. Recordings are excluded: they take no slot and run at play speed.
_DOWNLOAD_STAGES = frozenset({Stage.FETCHING_EXTRAS, Stage.DOWNLOADING})
# Fewer bytes per second than this, over the whole timeout, count as stalled.
_MIN_BYTES_PER_SECOND = 1024


def stage_name(stage: Stage.ValueType) -> str:
    """Return the name of *stage*, which a child reports: its number if there is no such stage."""
    return Progress.Stage.Name(stage) if stage in Progress.Stage.values() else str(stage)


@dataclass(slots=True)
class _Part:
    weight: float | None
    received: int = 0
    fraction: float | None = None

    def completed(self) -> float | None:
        """Return the completed fraction, 0..1; None if it is unknown."""
        if self.fraction is not None:
            return min(self.fraction, 1.0)
        return min(self.received / self.weight, 1.0) if self.weight else None


class ProgressTracker:
    """Computes the progress of one fetch.

    *on_progress* is called at most every *interval* seconds, and at once when a stage begins.
    Thread-safe: fragments arrive in many threads.
    """

    def __init__(
        self, on_progress: Callable[[Progress], None], now: Callable[[], float], interval: float = 0.25
    ) -> None:
        self._on_progress, self._now, self._interval = on_progress, now, interval
        self._lock = threading.Lock()
        self._parts: dict[str, _Part] = {}
        self._total_bytes: int | None = None
        self._stage: Stage.ValueType = Stage.STAGE_UNSPECIFIED
        self._detail = ""
        self._stage_fraction = 0.0
        self._percent: float | None = None
        self._reported_at = float("-inf")
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def received(self) -> int:
        """Bytes received so far, over all parts."""
        return sum(part.received for part in self._parts.values())

    def begin_stage(self, stage: Stage.ValueType, detail: str = "") -> None:
        """Begin *stage* and report it at once."""
        with self._lock:
            self._stage, self._detail, self._stage_fraction = stage, detail, 0.0
            self._report(at_once=True)

    def set_plan(self, weights: Mapping[str, float | None], total_bytes: int | None) -> None:
        """Fix the weight of each part (bytes; None if unknown) and the total bytes to come."""
        with self._lock:
            self._parts = {name: _Part(weight) for name, weight in weights.items()}
            self._total_bytes = total_bytes

    def update_part(self, name: str, received: int, fraction: float | None = None) -> None:
        """Set the bytes received of part *name*; *fraction* overrides what its weight implies."""
        with self._lock:
            part = self._parts.setdefault(name, _Part(None))
            part.received, part.fraction = max(received, part.received), fraction
            self._report()

    def resume_part(self, name: str, received: int) -> int:
        """Count *received* bytes of part *name* from an earlier attempt; they make no transfer rate.

        Returns how many of them were not counted before.
        """
        with self._lock:
            part = self._parts.setdefault(name, _Part(None))
            new = max(0, received - part.received)
            part.received += new
            self._samples.clear()
            self._report()
        return new

    def update_stage(self, fraction: float) -> None:
        """Set the completed fraction of the current stage; it never falls."""
        with self._lock:
            self._stage_fraction = min(max(fraction, self._stage_fraction), 1.0)
            self._report()

    def _report(self, *, at_once: bool = False) -> None:
        now = self._now()
        if not at_once and now - self._reported_at < self._interval:
            return
        self._reported_at = now
        self._on_progress(self._progress(now))

    def _progress(self, now: float) -> Progress:
        progress = Progress(stage=self._stage, detail=self._detail, downloaded_bytes=self.received)
        progress.bytes_per_second = self._speed(now)
        if (percent := self._current_percent()) is not None:
            self._percent = max(percent, self._percent or 0.0)
            progress.percent = round(self._percent, 2)
        if self._total_bytes is not None:
            progress.total_bytes = max(self._total_bytes, self.received)
            left = self._total_bytes - self.received
            if self._stage == Stage.DOWNLOADING and progress.bytes_per_second > 0 and left >= 0:
                seconds = min(round(left / progress.bytes_per_second), _MAX_ETA_SECONDS)
                progress.eta.CopyFrom(duration_pb2.Duration(seconds=seconds))
        return progress

    def _current_percent(self) -> float | None:
        if self._stage not in STAGE_PERCENTAGES:
            return self._percent
        begin, end = STAGE_PERCENTAGES[self._stage]
        fraction = self._downloaded() if self._stage == Stage.DOWNLOADING else self._stage_fraction
        return None if fraction is None else begin + (end - begin) * fraction

    def _downloaded(self) -> float | None:
        """Return the downloaded fraction over all parts; None if one of several has no known size."""
        parts = list(self._parts.values())
        if len(parts) == 1:
            return parts[0].completed()
        total = 0.0
        for part in parts:
            completed = part.completed()
            if not part.weight or (completed is None):
                return None
            total += part.weight * completed
        weight = sum(part.weight or 0.0 for part in parts)
        return total / weight if weight else None

    def _speed(self, now: float) -> int:
        """Return bytes per second over the last seconds; 0 outside of a download."""
        if self._stage not in (Stage.DOWNLOADING, Stage.RECORDING):
            self._samples.clear()
            return 0
        self._samples.append((now, self.received))
        while len(self._samples) > 2 and now - self._samples[0][0] > _SPEED_WINDOW:
            self._samples.popleft()
        began, before = self._samples[0]
        return int((self.received - before) / (now - began)) if now > began else 0


class Watchdog:
    """Detects downloads that have stalled for *timeout* seconds.

    Socket timeouts do not: each byte of a slow trickle resets them.
    """

    def __init__(self, timeout: float, now: float) -> None:
        self._timeout = timeout
        self._since, self._received = now, 0
        self._stage: Stage.ValueType = Stage.STAGE_UNSPECIFIED

    def is_stalled(self, now: float, stage: Stage.ValueType, received: int) -> bool:
        """Return whether *stage* has stalled, with *received* bytes in total so far."""
        elapsed = now - self._since
        moving = received - self._received >= _MIN_BYTES_PER_SECOND * max(elapsed, 1.0)
        if stage != self._stage or stage not in _NETWORK_STAGES or moving:
            self._since, self._received, self._stage = now, received, stage
            return False
        return elapsed > self._timeout


class PaceMonitor:
    """Detects sites that occupy a slot for too long by sending slowly without stalling.

    A page may take *extraction_seconds* until its media is known, and a download must reach *min_rate* bytes
    per second (0: none) on average in each window of *window* seconds.
    """

    def __init__(self, extraction_seconds: float, min_rate: int, now: float, window: float = 300.0) -> None:
        self._extraction_seconds, self._min_rate, self._window = extraction_seconds, min_rate, window
        self._last, self._extracting, self._downloading = now, 0.0, 0.0
        self._received, self._window_received = 0, 0

    def find_fault(self, now: float, stage: Stage.ValueType, received: int) -> str:
        """Return why a site that has sent *received* bytes by *now* is too slow in *stage*; empty if not."""
        elapsed, new = now - self._last, received - self._received
        self._last, self._received = now, received
        if stage in (Stage.STAGE_UNSPECIFIED, Stage.PROBING):
            self._extracting += elapsed
            if self._extracting > self._extraction_seconds:
                return f"the site did not describe its media within {self._extraction_seconds:.0f} s"
        elif stage in _DOWNLOAD_STAGES:
            self._downloading += elapsed
            self._window_received += new
            if self._downloading >= self._window:
                rate = self._window_received / self._downloading
                self._downloading, self._window_received = 0.0, 0
                if rate < self._min_rate:
                    return f"the site sent only {rate:.0f} bytes per second for {self._window:.0f} s"
        return ""
