"""EventLoopThread: runs the async client for programs without asyncio, as fsspec and others do."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

# An interrupted coroutine is waited for so long: it may still cancel its job.
_INTERRUPTED_SECONDS = 15.0
_END = object()


class EventLoopThread:
    """An event loop in a thread of its own, until ``close``. Any thread may call it but its own."""

    def __init__(self) -> None:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(
            target=asyncio.run, args=(_serve(started),), name="reelhaul-client", daemon=True
        )
        self._thread.start()
        self._loop, self._stop = started.result()

    @property
    def is_running(self) -> bool:
        """Whether ``close`` has not been called."""
        return self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* to its end; return or raise what it does.

        An exception in this thread meanwhile, KeyboardInterrupt for example, cancels it and is raised once it
        has ended.
        """
        if not self.is_running:
            coroutine.close()
            raise RuntimeError("the client is closed")
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_note_end(coroutine, ended), self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                ended.wait(_INTERRUPTED_SECONDS)
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield what *items* yields; close it when the iterator ends or is closed."""
        try:
            while (item := self.run(_next(items))) is not _END:
                yield item  # type: ignore[misc]
        finally:
            # The garbage collector comes here in any thread, and when the interpreter ends.
            is_own_thread = threading.current_thread() is self._thread
            if self.is_running and not is_own_thread and not sys.is_finalizing():
                self.run(_close(items))

    def close(self) -> None:
        """End the loop and its thread."""
        if self.is_running:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()


async def _serve(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()


async def _note_end(coroutine: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    try:
        return await coroutine
    finally:
        ended.set()


async def _next(items: AsyncGenerator[T, None]) -> T | object:
    return await anext(items, _END)


async def _close(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
