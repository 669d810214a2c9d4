"""Cancellation: stop a request when its client disconnects or the server drains."""

from __future__ import annotations

import asyncio
from typing import Literal, Self

from reelhaul_transcoding.errors import Draining
from reelhaul_transcoding.http.asgi import Receive

Reason = Literal["", "disconnected", "draining"]

# Most calls end sooner, and a task that watches costs a fifth of such a call.
_WATCH_AFTER_SECONDS = 0.05


class CancelScope:
    """Cancels the task that entered the block, and its RPC with it.

    It does so when the client disconnects, which is noticed after 50 ms at the earliest, or by
    ``cancel``. A cancellation by the scope does not leave the block; ``reason`` then says why.
    """

    def __init__(self, receive: Receive) -> None:
        self.reason: Reason = ""
        self._receive = receive
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_SECONDS, self._start_watcher)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self.reason and isinstance(error, asyncio.CancelledError) and self._task is not None:
            # A cancellation from elsewhere at the same moment still propagates.
            return self._task.uncancel() == 0
        return False

    def cancel(self, reason: Reason) -> None:
        """Cancel the task for *reason*; only the first call has an effect."""
        if not self.reason and self._task is not None:
            self.reason = reason
            self._task.cancel()

    def _start_watcher(self) -> None:
        self._watcher = asyncio.create_task(self._watch_disconnect())

    async def _watch_disconnect(self) -> None:
        while (await self._receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
            pass
        self.cancel("disconnected")


class OpenStreams:
    """The streams that are open, so that draining can end them."""

    def __init__(self) -> None:
        self._scopes: set[CancelScope] = set()
        self._draining = False

    def add(self, scope: CancelScope) -> None:
        """Register a stream. Raises Draining if the server is shutting down."""
        if self._draining:
            raise Draining
        self._scopes.add(scope)

    def remove(self, scope: CancelScope) -> None:
        """Remove a stream that ended."""
        self._scopes.discard(scope)

    async def end(self, seconds: float) -> None:
        """End those that are open now, one after the other, within *seconds*."""
        scopes = list(self._scopes)
        for scope in scopes:
            await asyncio.sleep(seconds / len(scopes))
            if scope in self._scopes:
                scope.cancel("draining")

    def drain(self) -> None:
        """End all streams and reject new ones."""
        self._draining = True
        for scope in list(self._scopes):
            scope.cancel("draining")
