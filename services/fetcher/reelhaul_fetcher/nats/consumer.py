"""JetStream consumer: pulls one work item at a time from one durable consumer of the WORK stream.

This is not ``pull_subscribe_bind``, because ``PullSubscription.fetch(1)``

- cannot ask with ``no_wait``: without it an empty high-priority consumer delays the next one, or three
  open pulls deliver items of which two must be handed back;
- stops waiting at the moment when the broker's pull expires: an item sent at the last moment would stay
  unacknowledged in the subscription until the next fetch, for up to ``ack_wait``.
"""

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
# An open pull is renewed this often: for so long a restart of the broker may go unnoticed.
_PULL_SECONDS = 5.0
#: Between two attempts to reach a broker or consumer that is not there yet.
RETRY_SECONDS = 0.5
_ACK_SECONDS = 2.0
# Statuses: no messages; the pull has expired.
_NO_MESSAGE_STATUSES = ("404", "408")


class JetStreamDelivery:
    """``ports.Delivery`` of a message of the WORK stream."""

    def __init__(self, message: Msg, item: work_pb2.WorkItem) -> None:
        self.item = item
        self._message = message

    async def ack(self) -> None:
        """Acknowledge, and wait for the broker's confirmation: a lost ack would cost a second claim."""
        with suppress(NatsError, TimeoutError):
            await self._message.ack_sync(timeout=_ACK_SECONDS)

    async def nak(self, delay: timedelta) -> None:
        with suppress(NatsError):
            await self._message.nak(delay=max(delay.total_seconds(), 0.001))

    async def in_progress(self) -> None:
        with suppress(NatsError):
            await self._message.in_progress()


class PullConsumer:
    """The durable consumer *durable*. *has_free_slot* says whether an item that arrives can be taken."""

    def __init__(self, client: Client, durable: str, has_free_slot: Callable[[], bool]) -> None:
        self._client, self._has_free_slot = client, has_free_slot
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{_STREAM}.{durable}"
        self._inbox: Subscription | None = None
        self._pull_task: asyncio.Task[JetStreamDelivery | None] | None = None

    @property
    def pulling(self) -> bool:
        """Whether a pull is open."""
        return self._pull_task is not None and not self._pull_task.done()

    async def pull_no_wait(self) -> JetStreamDelivery | None:
        """Return the next item if there is one now."""
        with suppress(NatsError, TimeoutError):
            return await self._pull({"batch": 1, "no_wait": True}, 2.0)
        return None

    def start_pull(self) -> asyncio.Task[JetStreamDelivery | None]:
        """Return the open pull. It outlives its caller: the broker does not take a pull back."""
        if self._pull_task is None:
            self._pull_task = asyncio.create_task(self._pull_and_wait())
        return self._pull_task

    def take_result(self) -> JetStreamDelivery | None:
        """Return the item of a pull that has ended, if it has one."""
        if self._pull_task is None or not self._pull_task.done():
            return None
        ended, self._pull_task = self._pull_task, None
        return None if ended.cancelled() else ended.result()

    async def close(self) -> None:
        """Cancel the open pull."""
        if self._pull_task is not None:
            await cancel_and_wait(self._pull_task)

    async def _pull_and_wait(self) -> JetStreamDelivery | None:
        expires_nanoseconds = round(_PULL_SECONDS * 1e9)
        try:
            delivery = await self._pull({"batch": 1, "expires": expires_nanoseconds}, _PULL_SECONDS + 1)
        except (NatsError, TimeoutError):
            # The consumer does not exist yet (jobs creates it), or the broker is away.
            await asyncio.sleep(RETRY_SECONDS)
            return None
        if delivery is not None and not self._has_free_slot():
            # An item of another priority took the slot meanwhile: another worker may have one.
            await delivery.nak(timedelta())
            return None
        return delivery

    async def _pull(self, request: dict[str, object], timeout: float) -> JetStreamDelivery | None:
        # Not Client.request(): work items arrive under their own subject, so it cannot match the response.
        if self._inbox is None:
            self._inbox = await self._client.subscribe(self._client.new_inbox())
        await self._client.publish(self._subject, json.dumps(request).encode(), reply=self._inbox.subject)
        return await _parse(await self._inbox.next_msg(timeout=timeout))


async def _parse(message: Msg) -> JetStreamDelivery | None:
    """Return the work item in *message*, None if it holds none. An invalid item is removed from the stream.

    Raises NatsError for any other status: the consumer does not exist.
    """
    status = (message.headers or {}).get("Status")
    if status in _NO_MESSAGE_STATUSES:
        return None
    if status is not None or not message.reply:
        raise NatsError(f"no work can be pulled: {status}")
    try:
        return JetStreamDelivery(message, work_pb2.WorkItem.FromString(message.data))
    except DecodeError:
        log.error("removed an invalid work item", extra={"subject": message.subject})
        with suppress(NatsError):
            await message.term()
        return None
