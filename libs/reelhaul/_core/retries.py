"""Retries: whether and when a failed call is made again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from grpc import aio

from reelhaul.backoff import Backoff
from reelhaul.client import _errors
from reelhaul.client._errors import CallFailed

T = TypeVar("T")


class Retries:
    """Waits between tries of one operation, for *seconds* after the server last answered."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._backoff = Backoff(jitter=0.5)
        self._last_answer = time.monotonic()

    def reset(self) -> None:
        """Note that the server has answered."""
        self._backoff.reset()
        self._last_answer = time.monotonic()

    async def wait(self, failure: CallFailed) -> None:
        """Return when it is time to try again; raise *failure* if that would not help."""
        if not failure.transient or time.monotonic() - self._last_answer > self._seconds:
            raise failure
        delay = self._backoff.next_delay()
        if failure.retry_delay is not None:
            delay = max(delay, min(failure.retry_delay.total_seconds(), self._seconds))
        await asyncio.sleep(delay)


async def call_with_retries(call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Return the response of *call*, which may be repeated. Raises CallFailed."""
    retries = Retries(seconds)
    while True:
        try:
            return await call()
        except aio.AioRpcError as error:
            await retries.wait(_errors.of_rpc(error))
