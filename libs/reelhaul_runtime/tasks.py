"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_SECONDS = 0.2


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel *task* and return when it is over; what it raised is dropped.

    Once is not enough: before Python 3.12 ``asyncio.wait_for``, which nats-py rests on, drops a
    cancellation that comes together with its result (https://github.com/python/cpython/issues/86296).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN_SECONDS)
    if not task.cancelled():
        task.exception()
