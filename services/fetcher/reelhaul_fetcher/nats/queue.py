"""Work from JetStream, hints and progress over core NATS."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.errors import Error as NatsError

from reelhaul.work.v1 import work_pb2
from reelhaul_fetcher.nats.consumer import RETRY_SECONDS, JetStreamDelivery, PullConsumer
from reelhaul_runtime.errors import Unavailable

log = logging.getLogger(__name__)

_PRIORITIES = ("high", "normal", "bulk")
# Every so many pulls begin with bulk: its guaranteed share.
_BULK_SHARE = 8


class JetStreamQueue:
    """As ``ports.Queue``, over one connection."""

    def __init__(self, client: Client, pool: str) -> None:
        self._client = client
        self._lanes = [
            PullConsumer(client, f"work-{prio}-{pool}", lambda: self._wanted) for prio in _PRIORITIES
        ]
        self._turns = itertools.count(1)
        self._wanted = False

    @classmethod
    @asynccontextmanager
    async def open(cls, client: Client, pool: str) -> AsyncIterator[JetStreamQueue]:
        """The queue of *pool*; it waits for nothing after the block."""
        queue = cls(client, pool)
        try:
            yield queue
        finally:
            for lane in queue._lanes:
                await lane.close()

    async def next(self) -> JetStreamDelivery:
        """As ``ports.Queue.next``."""
        order = list(self._lanes)
        if next(self._turns) % _BULK_SHARE == 0:
            order.insert(0, order.pop())
        self._wanted = True
        found: JetStreamDelivery | None = None
        try:
            while found is None:
                found = await self._pulled(order)
            return found
        finally:
            self._wanted = False
            for lane in self._lanes:
                if (spare := lane.taken()) is not None:
                    await spare.nak(timedelta())

    async def _pulled(self, order: list[PullConsumer]) -> JetStreamDelivery | None:
        """The first message of the best lane that has one; None where a wait ended without."""
        if not any(lane.asked for lane in order):
            for lane in order:
                if (found := await lane.at_once()) is not None:
                    return found
        await asyncio.wait({lane.waiting() for lane in order}, return_when=asyncio.FIRST_COMPLETED)
        return next((found for lane in order if (found := lane.taken()) is not None), None)

    async def stop_hints(self) -> AsyncIterator[work_pb2.StopHint]:
        """As ``ports.Queue.hints``."""
        while True:
            # The subscription outlives reconnections; only making it needs a broker.
            with suppress(NatsError):
                subscription = await self._client.subscribe("control.*")
                async for message in subscription.messages:
                    with suppress(DecodeError):
                        yield work_pb2.StopHint.FromString(message.data)
            await asyncio.sleep(RETRY_SECONDS)

    async def publish_progress(self, notice: work_pb2.ProgressNotice) -> None:
        """As ``ports.Queue.publish``. Not awaited by the broker: the next one is a quarter second away."""
        with suppress(NatsError):
            subject = f"progress.{notice.job.removeprefix('jobs/')}"
            await self._client.publish(subject, notice.SerializeToString())

    async def publish_worker(self, notice: work_pb2.WorkerNotice) -> None:
        """As ``ports.Queue.say``. Not awaited by the broker: it is said again."""
        with suppress(NatsError):
            await self._client.publish(f"workers.{_token(notice.worker)}", notice.SerializeToString())

    async def check(self) -> None:
        """Return if the broker answers. Raises Unavailable."""
        try:
            await self._client.flush(timeout=2)
        except (NatsError, TimeoutError) as error:
            raise Unavailable("nats", "the broker does not answer") from error


def _token(name: str) -> str:
    """*name* as one token of a subject: host names have dots."""
    return name.replace(".", "-")
