"""Publishing: many messages into a stream at once, with one wait for all their acknowledgements."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

log = logging.getLogger(__name__)

# So long the broker may be silent before what it has not acknowledged counts as lost.
_SILENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Message:
    """What is put on a *subject*; the stream takes it once for each *id*."""

    subject: str
    content: bytes
    id: str


class Publisher:
    """Puts messages into a stream. The broker's acknowledgements come to one inbox, a token for each.

    A request of the client's own costs several times as much: a future, a timer and a task.
    """

    def __init__(self, client: Client, inbox: str) -> None:
        self._client, self._inbox = client, inbox
        self._number = 0
        #: Tokens of what is not acknowledged so far.
        self._waiting: dict[str, PendingAcks] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, client: Client) -> AsyncIterator[Publisher]:
        """A publisher over *client*, until the block ends."""
        made = cls(client, client.new_inbox())
        heard = await client.subscribe(f"{made._inbox}.*", cb=made._answered)
        try:
            yield made
        finally:
            if client.is_connected:
                await heard.unsubscribe()

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Of each of *messages* whether it is stored for sure. Never raises for want of a broker."""
        batch = PendingAcks()
        try:
            for message in messages:
                await self._send(message, batch)
            await batch.complete()
        finally:
            for token in batch.waiting:
                del self._waiting[token]
        if lost := len(messages) - len(batch.stored):
            log.warning("items were not published", extra={"items": lost, "cause": batch.cause})
        return [message.id in batch.stored for message in messages]

    async def _send(self, message: Message, batch: PendingAcks) -> None:
        self._number += 1
        token = str(self._number)
        header = {"Nats-Msg-Id": message.id}
        reply = f"{self._inbox}.{token}"
        # Before it is sent: the acknowledgement may be quicker than we are.
        batch.waiting[token] = message.id
        self._waiting[token] = batch
        try:
            await self._client.publish(message.subject, message.content, reply=reply, headers=header)
        except (nats.errors.Error, OSError) as error:
            self._settle(token, repr(error))

    async def _answered(self, message: Msg) -> None:
        self._settle(message.subject.rpartition(".")[2], _refusal(message))

    def _settle(self, token: str, refusal: str) -> None:
        batch = self._waiting.pop(token, None)
        if batch is not None:
            batch.settle(token, refusal)


class PendingAcks:
    """Messages whose acknowledgements are waited for together."""

    def __init__(self) -> None:
        #: Token -> id.
        self.waiting: dict[str, str] = {}
        #: Ids.
        self.stored: set[str] = set()
        #: What the broker said of one that it did not store.
        self.cause = ""
        self._settled = asyncio.Event()

    def settle(self, token: str, refusal: str) -> None:
        """The message of *token* is stored, or why it is not."""
        told = self.waiting.pop(token)
        if refusal:
            self.cause = refusal
        else:
            self.stored.add(told)
        if not self.waiting:
            self._settled.set()

    async def complete(self) -> None:
        """Return when all are settled, or the broker has gone silent."""
        while left := len(self.waiting):
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await self._settled.wait()
            except TimeoutError:
                if len(self.waiting) == left:
                    self.cause = "the broker is silent"
                    return


def _refusal(answer: Msg) -> str:
    """Why the message is not stored; empty: it is."""
    if status := (answer.headers or {}).get("Status"):
        return f"status {status}: there is no such stream"
    try:
        told = json.loads(answer.data)
    except ValueError:
        return "the broker's answer is no acknowledgement"
    if "error" in told:
        return str(told["error"])
    return "" if told.get("stream") else "the broker's answer is no acknowledgement"
