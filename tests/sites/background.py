"""A server of the tests on a loop and thread of its own, so that tests of any kind can use it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager


@contextmanager
def in_background(start: Callable[[], Awaitable[asyncio.Server]], name: str) -> Iterator[None]:
    """What *start* starts, serving for as long as the block lasts. Raises what *start* raises."""
    running: Future[Callable[[], object]] = Future()

    async def serve() -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        async with await start():
            running.set_result(lambda: loop.call_soon_threadsafe(ended.set))
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:
            running.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    end = running.result()
    try:
        yield
    finally:
        end()
        thread.join()
