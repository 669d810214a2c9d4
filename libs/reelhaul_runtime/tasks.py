"""Ends asyncio tasks reliably."""

from __future__ import annotations

import asyncio
from typing import Any

_RETRY_SECONDS = 0.2


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel *tasks* and return when all have ended; what they raise is dropped.

    Cancelling once is not enough: before Python 3.12 ``asyncio.wait_for``, which nats-py uses, drops a
    cancellation that arrives together with its result (https://github.com/python/cpython/issues/86296).
    So a task whose cleanup takes longer than a fifth of a second is cancelled in its cleanup: cancel
    such a task by hand.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_RETRY_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # retrieved, so asyncio does not log it
