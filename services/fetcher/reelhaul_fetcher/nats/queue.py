"""``ports.WorkQueue`` on NATS: work items by priority from JetStream, hints and progress over core NATS."""

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
# Every eighth pull begins with bulk: its guaranteed share.
_BULK_SHARE = 8


class JetStreamQueue:
    """The work queue of *pool*, over one connection."""

    def __init__(self, client: Client, pool: str) -> None:
        self._client = client
        self._consumers = [
            PullConsumer(client, f"work-{priority}-{pool}", lambda: self._has_free_slot)
            for priority in _PRIORITIES
        ]
        self._counter = itertools.count(1)
        self._has_free_slot = False

    @classmethod
    @asynccontextmanager
    async def open(cls, client: Client, pool: str) -> AsyncIterator[JetStreamQueue]:
        """Open the queue of *pool*; its pulls are cancelled when the block exits."""
        queue = cls(client, pool)
        try:
            yield queue
        finally:
            for consumer in queue._consumers:
                await consumer.close()

    async def next(self) -> JetStreamDelivery:
        consumers = list(self._consumers)
        if next(self._counter) % _BULK_SHARE == 0:
            consumers.insert(0, consumers.pop())
        self._has_free_slot = True
        delivery: JetStreamDelivery | None = None
        try:
            if not any(consumer.pulling for consumer in consumers):
                delivery = await self._pull_no_wait(consumers)
            while delivery is None:
                delivery = await self._wait_for_pull(consumers)
            return delivery
        finally:
            self._has_free_slot = False
            for consumer in self._consumers:
                if (surplus := consumer.take_result()) is not None:
                    await surplus.nak(timedelta())

    async def _pull_no_wait(self, consumers: list[PullConsumer]) -> JetStreamDelivery | None:
        """Return an item of the first of *consumers* that has one now."""
        for consumer in consumers:
            if (delivery := await consumer.pull_no_wait()) is not None:
                return delivery
        return None

    async def _wait_for_pull(self, consumers: list[PullConsumer]) -> JetStreamDelivery | None:
        """Return an item of the first of *consumers* that has one; None if a pull ended without."""
        pulls = {consumer.start_pull() for consumer in consumers}
        await asyncio.wait(pulls, return_when=asyncio.FIRST_COMPLETED)
        results = (consumer.take_result() for consumer in consumers)
        return next((delivery for delivery in results if delivery is not None), None)

    async def stop_hints(self) -> AsyncIterator[work_pb2.StopHint]:
        while True:
            # The subscription survives reconnections; only creating it needs a broker.
            with suppress(NatsError):
                subscription = await self._client.subscribe("control.*")
                async for message in subscription.messages:
                    with suppress(DecodeError):
                        yield work_pb2.StopHint.FromString(message.data)
            await asyncio.sleep(RETRY_SECONDS)

    async def publish_progress(self, notice: work_pb2.ProgressNotice) -> None:
        """Publish without waiting for the broker: the next notice follows a quarter of a second later."""
        with suppress(NatsError):
            subject = f"progress.{notice.job.removeprefix('jobs/')}"
            await self._client.publish(subject, notice.SerializeToString())

    async def publish_worker(self, notice: work_pb2.WorkerNotice) -> None:
        """Publish without waiting for the broker: the notice is repeated."""
        with suppress(NatsError):
            await self._client.publish(f"workers.{_token(notice.worker)}", notice.SerializeToString())

    async def check(self) -> None:
        """Return if the broker answers. Raises Unavailable."""
        try:
            await self._client.flush(timeout=2)
        except (NatsError, TimeoutError) as error:
            raise Unavailable("nats", "the broker does not answer") from error


def _token(name: str) -> str:
    """Return *name* as one token of a subject: host names contain dots."""
    return name.replace(".", "-")
