"""Ending: a request that stops before it is answered, since its client left or the server leaves."""

from __future__ import annotations

import asyncio
from typing import Literal, Self

from reelhaul_transcoding.http.asgi import Receive

Reason = Literal["", "gone", "draining"]


class CancelScope:
    """Cancels the task that it is entered in; its RPC is cancelled with it.

    With *receive*, a client that hangs up is such an end. On leaving the block the
    cancellation that came from here is swallowed, and ``reason`` tells of it.
    """

    def __init__(self, receive: Receive | None = None) -> None:
        self.reason: Reason = ""
        self._receive = receive
        self._task: asyncio.Task[object] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        if self._receive is not None:
            self._watch = asyncio.create_task(self._hang_up(self._receive))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if self._watch is not None:
            self._watch.cancel()
        if self.reason and isinstance(error, asyncio.CancelledError) and self._task is not None:
            # Another's cancellation that came at the same moment goes on.
            return self._task.uncancel() == 0
        return False

    def end(self, reason: Reason) -> None:
        """Stop the task, for *reason*; only the first time counts."""
        if not self.reason and self._task is not None:
            self.reason = reason
            self._task.cancel()

    async def _hang_up(self, receive: Receive) -> None:
        while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
            pass
        self.end("gone")
