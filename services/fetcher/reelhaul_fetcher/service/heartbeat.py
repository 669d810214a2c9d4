"""Presence: a worker says that it lives, and what keeps it from taking work, so that users are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from reelhaul.work.v1.work_pb2 import WorkerNotice
from reelhaul_fetcher.model.egresses import Egresses
from reelhaul_fetcher.ports import Queue
from reelhaul_fetcher.service.disk_space import DiskMonitor

_LOOK_SECONDS = 1.0
_SAID_AGAIN_SECONDS = 10.0


class WorkerHeartbeat:
    """What there is to say of *worker*, which has so many *slots* for work, none once it is drained."""

    def __init__(
        self,
        worker: str,
        slots: Callable[[], int],
        room: DiskMonitor,
        egresses: Egresses,
        now: Callable[[], datetime],
    ) -> None:
        self._worker, self._slots = worker, slots
        self._room, self._egresses, self._now = room, egresses, now

    def notice(self) -> WorkerNotice:
        """How it stands."""
        made = WorkerNotice(worker=self._worker, slot_count=self._slots())
        if self._egresses.spent:
            made.shortage = WorkerNotice.EGRESS
            tomorrow = self._now().astimezone(UTC) + timedelta(days=1)
            made.until.FromDatetime(tomorrow.replace(hour=0, minute=0, second=0, microsecond=0))
        elif self._room.short:
            made.shortage = WorkerNotice.DISK
        return made

    async def say(self, queue: Queue) -> None:
        """Say it at each change and from time to time, until cancelled; then that it leaves."""
        said, last = WorkerNotice(), 0.0
        try:
            while True:
                notice = self.notice()
                if notice != said or time.monotonic() - last >= _SAID_AGAIN_SECONDS:
                    said, last = notice, time.monotonic()
                    await queue.say(notice)
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await queue.say(WorkerNotice(worker=self._worker))
