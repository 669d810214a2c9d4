"""Around guard and queue: bytes are counted for their egress; no work is taken when all are spent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from reelhaul.work.v1 import work_pb2
from reelhaul_fetcher.disk.egress_usage_log import EgressUsageLog
from reelhaul_fetcher.model.egresses import Egresses
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.ports import Delivery, Guard, WorkQueue

log = logging.getLogger(__name__)

_LOOK_SECONDS = 30.0
# Another worker may have bytes left.
_SPENT_DELAY = timedelta(seconds=5)


@dataclass(slots=True)
class _OpenSession:
    egress: str
    counted_bytes: int = 0


class MeteredGuard:
    """A guard whose passes are counted for the egress that they go by."""

    def __init__(self, inner: Guard, egresses: Egresses, spending: EgressUsageLog | None = None) -> None:
        self._inner, self._egresses, self._spending = inner, egresses, spending
        self._sessions: dict[str, _OpenSession] = {}

    async def open(self, name: str, byte_limit: int, egress: str = "", seconds: float = 0) -> str:
        """As ``ports.Guard.open``."""
        url = await self._inner.open(name, byte_limit, egress, seconds)
        self._sessions[name] = _OpenSession(egress)
        self._egresses.begin(egress)
        return url

    async def usage(self, name: str) -> Usage:
        """As ``ports.Guard.usage``."""
        used = await self._inner.usage(name)
        self._count(name, used)
        return used

    async def close(self, name: str) -> Usage:
        """As ``ports.Guard.close``."""
        try:
            used = await self._inner.close(name)
            self._count(name, used)
            return used
        finally:
            if session := self._sessions.pop(name, None):
                self._egresses.end(session.egress)

    def _count(self, name: str, used: Usage) -> None:
        session = self._sessions.get(name)
        if session is None or used.total_bytes <= session.counted_bytes:
            return
        new_bytes, session.counted_bytes = used.total_bytes - session.counted_bytes, used.total_bytes
        self._egresses.add_bytes(session.egress, new_bytes)
        if self._spending:
            self._spending.add(self._egresses.day, session.egress, new_bytes)


class BudgetedQueue:
    """A queue from which nothing is taken while every egress has carried what it may today."""

    def __init__(self, inner: WorkQueue, egresses: Egresses, look_seconds: float = _LOOK_SECONDS) -> None:
        self._inner, self._egresses, self._look_seconds = inner, egresses, look_seconds

    async def next(self) -> Delivery:
        """As ``ports.Queue.next``."""
        while True:
            await self._enough()
            delivery = await self._inner.next()
            # It may have come after hours, in which the last of the bytes were used.
            if not self._egresses.exhausted:
                return delivery
            await delivery.nak(_SPENT_DELAY)

    async def _enough(self) -> None:
        if not self._egresses.exhausted:
            return
        log.warning("no work is taken: every egress has carried what it may today")
        while self._egresses.exhausted:  # noqa: ASYNC110 - midnight sets no event
            await asyncio.sleep(self._look_seconds)
        log.info("work is taken again: a new day's bytes")

    def stop_hints(self) -> AsyncIterator[work_pb2.StopHint]:
        """As ``ports.Queue.hints``."""
        return self._inner.stop_hints()

    async def publish_progress(self, notice: work_pb2.ProgressNotice) -> None:
        """As ``ports.Queue.publish``."""
        await self._inner.publish_progress(notice)

    async def publish_worker(self, notice: work_pb2.WorkerNotice) -> None:
        """As ``ports.Queue.say``."""
        await self._inner.publish_worker(notice)
