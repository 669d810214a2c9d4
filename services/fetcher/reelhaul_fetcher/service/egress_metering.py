"""Egress metering: charges traffic to egresses, and takes no work while their budgets are used up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import date, timedelta

from reelhaul.work.v1 import work_pb2
from reelhaul_fetcher.model.egresses import Egresses
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.ports import Delivery, Guard, WorkQueue

log = logging.getLogger(__name__)

_CHECK_SECONDS = 30.0
# Another worker may have budget left.
_EXHAUSTED_DELAY = timedelta(seconds=5)


@dataclass(slots=True)
class _OpenSession:
    egress: str
    counted_bytes: int = 0


class MeteredGuard:
    """A guard that charges the traffic of its sessions to their egress.

    *record* is called with day, egress and the bytes to add, so that a restart does not forget them.
    """

    def __init__(
        self, inner: Guard, egresses: Egresses, record: Callable[[date, str, int], None] | None = None
    ) -> None:
        self._inner, self._egresses, self._record = inner, egresses, record
        self._sessions: dict[str, _OpenSession] = {}

    async def open(self, name: str, byte_limit: int, egress: str = "", seconds: float = 0) -> str:
        url = await self._inner.open(name, byte_limit, egress, seconds)
        self._sessions[name] = _OpenSession(egress)
        self._egresses.begin(egress)
        return url

    async def usage(self, name: str) -> Usage:
        usage = await self._inner.usage(name)
        self._charge(name, usage)
        return usage

    async def close(self, name: str) -> Usage:
        try:
            usage = await self._inner.close(name)
            self._charge(name, usage)
            return usage
        finally:
            if session := self._sessions.pop(name, None):
                self._egresses.end(session.egress)

    def _charge(self, name: str, usage: Usage) -> None:
        session = self._sessions.get(name)
        if session is None or usage.total_bytes <= session.counted_bytes:
            return
        new_bytes, session.counted_bytes = usage.total_bytes - session.counted_bytes, usage.total_bytes
        self._egresses.add_bytes(session.egress, new_bytes)
        if self._record:
            self._record(self._egresses.day, session.egress, new_bytes)


class BudgetedQueue:
    """A queue that delivers no work while every egress has used its budget of today."""

    def __init__(self, inner: WorkQueue, egresses: Egresses, check_seconds: float = _CHECK_SECONDS) -> None:
        self._inner, self._egresses, self._check_seconds = inner, egresses, check_seconds

    async def next(self) -> Delivery:
        while True:
            await self._wait_for_budget()
            delivery = await self._inner.next()
            # That may have taken hours, in which the last of the budget may have been used.
            if not self._egresses.exhausted:
                return delivery
            await delivery.nak(_EXHAUSTED_DELAY)

    async def _wait_for_budget(self) -> None:
        if not self._egresses.exhausted:
            return
        log.warning("no work is taken: every egress has used its byte budget of today")
        while self._egresses.exhausted:  # noqa: ASYNC110 - midnight sets no event
            await asyncio.sleep(self._check_seconds)
        log.info("work is taken again: the egresses have a new day's budget")

    def stop_hints(self) -> AsyncIterator[work_pb2.StopHint]:
        return self._inner.stop_hints()

    async def publish_progress(self, notice: work_pb2.ProgressNotice) -> None:
        await self._inner.publish_progress(notice)

    async def publish_worker(self, notice: work_pb2.WorkerNotice) -> None:
        await self._inner.publish_worker(notice)
