"""Work from JetStream, hints and progress over core NATS."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from reelhaul.work.v1 import work_pb2
from reelhaul_fetcher.service.ending import ended
from reelhaul_runtime.errors import Unavailable

log = logging.getLogger(__name__)

_STREAM = "WORK"
_PRIORITIES = ("high", "normal", "bulk")
# Every so many pulls begin with bulk: its guaranteed share.
_BULK_SHARE = 8
# A pull that waits is asked anew this often: so long may a broker's restart go unnoticed.
_WAIT_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_ACK_SECONDS = 2.0
# Statuses of a pull that found no message, and of one that has waited long enough.
_NOTHING = ("404", "408")


class JetStreamDelivery:
    """A message of the WORK stream."""

    def __init__(self, message: Msg, item: work_pb2.WorkItem) -> None:
        self.item = item
        self._message = message

    async def ack(self) -> None:
        """As ``ports.Delivery.ack``. Asks for an answer: a lost ack would cost a second claim."""
        with suppress(NatsError, TimeoutError):
            await self._message.ack_sync(timeout=_ACK_SECONDS)

    async def nak(self, delay: timedelta) -> None:
        """As ``ports.Delivery.nak``."""
        with suppress(NatsError):
            await self._message.nak(delay=max(delay.total_seconds(), 0.001))

    async def in_progress(self) -> None:
        """As ``ports.Delivery.in_progress``."""
        with suppress(NatsError):
            await self._message.in_progress()


class _Lane:
    """One durable consumer, pulled from one message at a time."""

    def __init__(self, client: Client, durable: str, wanted: Callable[[], bool]) -> None:
        self._client, self._wanted = client, wanted
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{_STREAM}.{durable}"
        self._inbox: Subscription | None = None
        self._waiting: asyncio.Task[JetStreamDelivery | None] | None = None

    @property
    def asked(self) -> bool:
        """Whether a pull waits already."""
        return self._waiting is not None and not self._waiting.done()

    async def at_once(self) -> JetStreamDelivery | None:
        """What is there now, if anything."""
        with suppress(NatsError, TimeoutError):
            return await self._pull({"batch": 1, "no_wait": True}, 2.0)
        return None

    def waiting(self) -> asyncio.Task[JetStreamDelivery | None]:
        """The pull that waits. It outlives its caller: the broker does not take a pull back."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._wait())
        return self._waiting

    def taken(self) -> JetStreamDelivery | None:
        """What an ended pull brought."""
        if self._waiting is None or not self._waiting.done():
            return None
        ended, self._waiting = self._waiting, None
        return None if ended.cancelled() else ended.result()

    async def close(self) -> None:
        """Stop waiting."""
        if self._waiting is not None:
            await ended(self._waiting)

    async def _wait(self) -> JetStreamDelivery | None:
        nanoseconds = round(_WAIT_SECONDS * 1e9)
        try:
            found = await self._pull({"batch": 1, "expires": nanoseconds}, _WAIT_SECONDS + 1)
        except (NatsError, TimeoutError):
            # No consumer yet, or the broker is away: jobs makes the one, time mends the other.
            await asyncio.sleep(_RETRY_SECONDS)
            return None
        if found is not None and not self._wanted():
            # Its slot was taken by another lane's message meanwhile: another worker may have one.
            await found.nak(timedelta())
            return None
        return found

    async def _pull(self, asked: dict[str, object], seconds: float) -> JetStreamDelivery | None:
        # Not request(): work comes under its own subject, by which that cannot match it.
        if self._inbox is None:
            self._inbox = await self._client.subscribe(self._client.new_inbox())
        await self._client.publish(self._subject, json.dumps(asked).encode(), reply=self._inbox.subject)
        return await _read(await self._inbox.next_msg(timeout=seconds))


class JetStreamQueue:
    """As ``ports.Queue``, over one connection."""

    def __init__(self, client: Client, pool: str) -> None:
        self._client = client
        self._lanes = [_Lane(client, f"work-{prio}-{pool}", lambda: self._wanted) for prio in _PRIORITIES]
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

    async def _pulled(self, order: list[_Lane]) -> JetStreamDelivery | None:
        """The first message of the best lane that has one; None where a wait ended without."""
        if not any(lane.asked for lane in order):
            for lane in order:
                if (found := await lane.at_once()) is not None:
                    return found
        await asyncio.wait({lane.waiting() for lane in order}, return_when=asyncio.FIRST_COMPLETED)
        return next((found for lane in order if (found := lane.taken()) is not None), None)

    async def hints(self) -> AsyncIterator[work_pb2.StopHint]:
        """As ``ports.Queue.hints``."""
        while True:
            # The subscription outlives reconnections; only making it needs a broker.
            with suppress(NatsError):
                subscription = await self._client.subscribe("control.*")
                async for message in subscription.messages:
                    with suppress(DecodeError):
                        yield work_pb2.StopHint.FromString(message.data)
            await asyncio.sleep(_RETRY_SECONDS)

    async def publish(self, notice: work_pb2.ProgressNotice) -> None:
        """As ``ports.Queue.publish``. Not awaited by the broker: the next one is a quarter second away."""
        with suppress(NatsError):
            subject = f"progress.{notice.job.removeprefix('jobs/')}"
            await self._client.publish(subject, notice.SerializeToString())

    async def check(self) -> None:
        """Return if the broker answers. Raises Unavailable."""
        try:
            await self._client.flush(timeout=2)
        except (NatsError, TimeoutError) as error:
            raise Unavailable("nats", "the broker does not answer") from error


async def _read(message: Msg) -> JetStreamDelivery | None:
    """A work item; None where there is nothing. What cannot be read is taken out.

    Raises NatsError for any other answer: there is no such consumer.
    """
    status = (message.headers or {}).get("Status")
    if status in _NOTHING:
        return None
    if status is not None or not message.reply:
        raise NatsError(f"no work can be pulled: {status}")
    try:
        return JetStreamDelivery(message, work_pb2.WorkItem.FromString(message.data))
    except DecodeError:
        log.error("a work item that cannot be read", extra={"subject": message.subject})
        with suppress(NatsError):
            await message.term()
        return None
