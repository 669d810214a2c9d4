"""Disk space: measures a worker's free space and decides whether it takes work."""

from __future__ import annotations

import asyncio
import logging

from reelhaul_fetcher.model.disk_limits import RESUME_FACTOR, DiskThresholds
from reelhaul_fetcher.ports import Scratch
from reelhaul_runtime.errors import Unavailable

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1.0


class DiskMonitor:
    """The free space of *scratch*, and whether it suffices to take work."""

    def __init__(self, scratch: Scratch, thresholds: DiskThresholds) -> None:
        self._scratch = scratch
        self.thresholds = thresholds
        #: Bytes that attempts may still write, as last measured.
        self.free_bytes = scratch.free_bytes()
        #: Whether that is too little to take work.
        self.short = False

    async def measure(self) -> bool:
        """Measure the free space; return whether it is too little to take work.

        If it is, media kept for later attempts is deleted first.
        """
        await self._measure_free_bytes()
        if self.thresholds.is_short(self.free_bytes, before=self.short):
            await self.make_space(int(self.thresholds.pause * RESUME_FACTOR))
        before, self.short = self.short, self.thresholds.is_short(self.free_bytes, before=self.short)
        fields = {"free_bytes": self.free_bytes, "wanted_bytes": self.thresholds.pause}
        if self.short and not before:
            log.warning("short of disk space; no work is taken", extra=fields)
        elif before and not self.short:
            log.info("disk space again; work is taken", extra=fields)
        return self.short

    async def make_space(self, free_bytes: int) -> None:
        """Delete kept media until *free_bytes* are free, and measure again."""
        await self._scratch.make_space(free_bytes)
        await self._measure_free_bytes()

    async def wait_for_space(self) -> None:
        """Return when there is enough space to take work."""
        while await self.measure():  # noqa: ASYNC110 - a disk sends no event
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def _measure_free_bytes(self) -> None:
        try:
            self.free_bytes = await asyncio.to_thread(self._scratch.free_bytes)
        except OSError:
            log.exception("cannot measure the free disk space")
            self.free_bytes = 0

    async def check(self) -> None:
        """Return if there was enough space when last measured. Raises Unavailable."""
        if self.short:
            text = (
                f"short of disk space: {self.free_bytes} bytes are free of {self.thresholds.pause} required"
            )
            raise Unavailable("fetcher", text)
