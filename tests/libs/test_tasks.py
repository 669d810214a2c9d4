"""Cancelling tasks, also those that drop a cancellation."""

from __future__ import annotations

import asyncio

from reelhaul_runtime.tasks import cancel_and_wait


async def test_dropped_cancellation_is_repeated():
    """A task that drops the first cancellation, as wait_for may before Python 3.12, is cancelled again."""
    dropped = 0

    async def drop_one() -> None:
        nonlocal dropped
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            dropped += 1
        await asyncio.sleep(60)

    tasks = [asyncio.create_task(drop_one()), asyncio.create_task(asyncio.sleep(60))]
    await asyncio.sleep(0)
    await cancel_and_wait(*tasks)
    assert dropped == 1
    assert all(task.cancelled() for task in tasks)


async def test_errors_are_dropped():
    """A task that has failed, or fails when cancelled, raises nothing."""

    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("no")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    await cancel_and_wait(task)
    assert task.done()
