"""Batches: calls that come while one of their kind runs share the next run, instead of one each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any

_MAX_BATCH = 64


class Batches:
    """Runs calls in batches, one batch of each key at a time.

    A run begins after the calls that it serves, so that it sees whatever happened before them.
    """

    def __init__(self) -> None:
        #: Arguments and futures of the calls that wait, of each key with a task that runs its batches.
        self._waiting: dict[Hashable, list[tuple[Any, asyncio.Future[Any]]]] = {}
        self._tasks = set[asyncio.Task[None]]()

    async def call(
        self, key: Hashable, argument: Any, run: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
    ) -> Any:
        """Return the result for *argument* of *run*, which returns one for each of the batch's arguments.

        What *run* raises, all calls of the batch raise. *run* is the same for all calls of *key*.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if (waiting := self._waiting.get(key)) is not None:
            waiting.append((argument, future))
        else:
            self._waiting[key] = [(argument, future)]
            task = asyncio.create_task(self._run_batches(key, run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _run_batches(
        self, key: Hashable, run: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
    ) -> None:
        """Run batches of *key* until no call waits."""
        waiting = self._waiting[key]
        try:
            while waiting:
                batch = waiting[:_MAX_BATCH]
                del waiting[:_MAX_BATCH]
                await _run_batch(batch, run)
        finally:
            del self._waiting[key]
            for _, future in waiting:
                future.cancel()


async def _run_batch(
    batch: Sequence[tuple[Any, asyncio.Future[Any]]], run: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
) -> None:
    """Set the futures of *batch*; those of callers that were cancelled are done already."""
    try:
        results = await run([argument for argument, _ in batch])
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
    except Exception as error:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)
    finally:
        # Those of a batch that is cancelled with its event loop.
        for _, future in batch:
            future.cancel()
