"""Notices a download that goes on for ever: each byte of a slow drip resets every timeout below us."""

from __future__ import annotations

from reelhaul.type.v1.media_pb2 import Progress

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
