"""How long, and how often, to try again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from grpc import aio

from reelhaul.client import _errors
from reelhaul.client._errors import CallFailed

T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0


class Backoff:
    """Waits between tries: 0.2 to 5 s with jitter, for *seconds* after the last good word."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tries = 0
        self._heard = time.monotonic()

    def reset(self) -> None:
        """The server is there: the next break is a first one."""
        self._tries = 0
        self._heard = time.monotonic()

    async def after(self, failure: CallFailed) -> None:
        """Return when it is time to try again; raises *failure* where that would not help."""
        if not failure.transient or time.monotonic() - self._heard > self._seconds:
            raise failure
        # Jitter, or all who were cut off come back at the same moment.
        wait = min(_FIRST_WAIT * 2**self._tries, _LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311
        self._tries = min(self._tries + 1, 10)
        if failure.retry_delay is not None:
            wait = max(wait, min(failure.retry_delay.total_seconds(), self._seconds))
        await asyncio.sleep(wait)


async def answered(call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """What *call*, which may be repeated, answers. Raises CallFailed."""
    patience = Backoff(seconds)
    while True:
        try:
            return await call()
        except aio.AioRpcError as error:
            await patience.after(_errors.of_rpc(error))
