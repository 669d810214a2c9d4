"""The room on a worker's disk: work waits where it is short, and leaves where it runs out."""

from __future__ import annotations

import asyncio
import logging

from reelhaul_fetcher.model.disk_limits import DiskThresholds
from reelhaul_fetcher.ports import Scratch
from reelhaul_runtime.errors import Unavailable

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class DiskMonitor:
    """How much of the disk is left, and whether that is enough to take work."""

    def __init__(self, scratch: Scratch, marks: DiskThresholds) -> None:
        self._scratch = scratch
        self.thresholds = marks
        #: Bytes that attempts may still write, and whether work is not taken for want of them; as of
        #: the last look.
        self.free_bytes = scratch.free_bytes()
        self.short = False

    async def measure(self) -> bool:
        """Measure; whether there is too little to take work."""
        try:
            self.free_bytes = await asyncio.to_thread(self._scratch.free_bytes)
        except OSError:
            log.exception("the disk cannot be looked at")
            self.free_bytes = 0
        before, self.short = self.short, self.thresholds.is_short(self.free_bytes, before=self.short)
        told = {"free_bytes": self.free_bytes, "wanted_bytes": self.thresholds.pause}
        if self.short and not before:
            log.warning("short of disk space; no work is taken", extra=told)
        elif before and not self.short:
            log.info("disk space again; work is taken", extra=told)
        return self.short

    async def wait_for_space(self) -> None:
        """Return when there is enough to take work."""
        while await self.measure():  # noqa: ASYNC110 - a disk sends no event
            await asyncio.sleep(_LOOK_SECONDS)

    async def check(self) -> None:
        """Return if there is enough, as of the last look. Raises Unavailable."""
        if self.short:
            told = f"{self.free_bytes} bytes are free of {self.thresholds.pause} that work is taken for"
            raise Unavailable("fetcher", f"short of disk space: {told}")
