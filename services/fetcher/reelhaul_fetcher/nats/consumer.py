"""One consumer of the WORK stream, pulled from one item at a time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from reelhaul.work.v1 import work_pb2
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

_STREAM = "WORK"
# A pull that waits is asked anew this often: so long may a broker's restart go unnoticed.
_WAIT_SECONDS = 5.0
#: Between two tries to reach what is not there yet.
RETRY_SECONDS = 0.5
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


class PullConsumer:
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
            await cancel_and_wait(self._waiting)

    async def _wait(self) -> JetStreamDelivery | None:
        nanoseconds = round(_WAIT_SECONDS * 1e9)
        try:
            found = await self._pull({"batch": 1, "expires": nanoseconds}, _WAIT_SECONDS + 1)
        except (NatsError, TimeoutError):
            # No consumer yet, or the broker is away: jobs makes the one, time mends the other.
            await asyncio.sleep(RETRY_SECONDS)
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
