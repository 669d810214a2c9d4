"""What comes from the queue, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

from reelhaul.work.v1 import work_pb2


class MemoryDelivery:
    """A work item that writes down what is done with it in *log*."""

    def __init__(self, item: work_pb2.WorkItem, log: list[str]) -> None:
        self.item = item
        self._log = log

    async def ack(self) -> None:
        """As ``ports.Delivery.ack``."""
        self._log.append("ack")

    async def nak(self, delay: timedelta) -> None:
        """As ``ports.Delivery.nak``."""
        self._log.append(f"nak {delay.total_seconds():g}")

    async def in_progress(self) -> None:
        """As ``ports.Delivery.in_progress``."""
        self._log.append("in progress")


class MemoryQueue:
    """Work items, hints and progress in lists. *log* is shared with its deliveries."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.published: list[work_pb2.ProgressNotice] = []
        self.said: asyncio.Queue[work_pb2.WorkerNotice] = asyncio.Queue()
        self._items: asyncio.Queue[work_pb2.WorkItem] = asyncio.Queue()
        self._hints: asyncio.Queue[work_pb2.StopHint] = asyncio.Queue()

    def put(self, item: work_pb2.WorkItem) -> None:
        """Queue *item*."""
        self._items.put_nowait(item)

    def hint(self, hint: work_pb2.StopHint) -> None:
        """Send *hint*."""
        self._hints.put_nowait(hint)

    async def next(self) -> MemoryDelivery:
        """As ``ports.Queue.next``."""
        return MemoryDelivery(await self._items.get(), self.log)

    async def hints(self) -> AsyncIterator[work_pb2.StopHint]:
        """As ``ports.Queue.hints``."""
        while True:
            yield await self._hints.get()

    async def publish(self, notice: work_pb2.ProgressNotice) -> None:
        """As ``ports.Queue.publish``."""
        kept = work_pb2.ProgressNotice()
        kept.CopyFrom(notice)
        self.published.append(kept)

    async def say(self, notice: work_pb2.WorkerNotice) -> None:
        """As ``ports.Queue.say``."""
        self.said.put_nowait(notice)
