"""A socket with a buffer: heads are read from it, bodies pass through it without being copied."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from contextlib import suppress
from typing import Protocol

from reelhaul_fetcher.guard import splice
from reelhaul_fetcher.guard.errors import Malformed
from reelhaul_fetcher.guard.http.chunks import Chunks
from reelhaul_fetcher.guard.http.fields import CHUNKED, UNTIL_CLOSE


class Meter(Protocol):
    """Counts what passes; raises ``Refused`` when it is too much."""

    def received(self, count: int) -> None:
        """*count* bytes came in from outside."""

    def sent(self, count: int) -> None:
        """*count* bytes are about to go out."""


class Ended(OSError):
    """The other side has closed in the middle of a message."""


class BufferedSocket:
    """One end of a connection. *meter* counts its bytes, on the side that faces outward."""

    def __init__(self, sock: socket.socket, meter: Meter | None = None) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        #: Monotonic time at which bytes last moved here.
        self.moved = time.monotonic()
        self._meter = meter
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._turns = 0

    async def head(self, limit: int) -> bytes:
        """Bytes up to and with the next empty line; empty when the other side closed before the first.

        Raises ``Malformed`` when no end is found within *limit* bytes.
        """
        while not (end := _HEAD_END.search(self._buffer, self._start, self._end)):
            if self._end - self._start >= limit:
                raise Malformed("head-size")
            if not await self.fill():
                if self._start == self._end:
                    return b""
                raise Ended("closed within a head")
        if end.end() - self._start > limit:
            raise Malformed("head-size")
        head = bytes(self._view[self._start : end.end()])
        self._start = end.end()
        return head

    async def relay(self, to: BufferedSocket, length: int) -> None:
        """Pass a body of *length* (or CHUNKED, or UNTIL_CLOSE) on. Raises ``Ended`` if it is cut short."""
        if length == UNTIL_CLOSE:
            await self._relay_bytes(to, None)
        elif length == CHUNKED:
            await self._relay_chunks(to)
        else:
            await self._relay_bytes(to, length)

    async def fill(self) -> int:
        """Read more into the buffer; how many bytes, 0 at the end."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == _BUFFER:
            kept = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, len(kept)
            self._view[: len(kept)] = kept
        count = await asyncio.get_running_loop().sock_recv_into(self.socket, self._view[self._end :])
        self._end += count
        self.moved = time.monotonic()
        if self._meter:
            self._meter.received(count)
        await self._yield_sometimes()
        return count

    async def send(self, content: bytes | memoryview) -> None:
        """Send all of *content*; waits as long as the other side does not take it."""
        if self._meter:
            self._meter.sent(len(content))
        await asyncio.get_running_loop().sock_sendall(self.socket, content)
        self.moved = time.monotonic()

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    async def linger(self) -> None:
        """Say goodbye and read on for a moment: closing on unread bytes would destroy our last words."""
        self.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while await self.fill():
                    self._start = self._end

    def close(self) -> None:
        """Close in order."""
        self.socket.close()

    def abort(self) -> None:
        """Close so that the other side sees a failure, and takes no half of a file for the whole."""
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()

    @property
    def stale(self) -> bool:
        """Whether an idle connection was closed, or spoken on out of turn, by the other side."""
        try:
            return self._start != self._end or self.socket.recv(1, socket.MSG_PEEK) is not None
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def _relay_bytes(self, to: BufferedSocket, length: int | None) -> None:
        passed = 0
        while length is None or passed < length:
            if self._start == self._end and passed >= splice.WORTHWHILE:
                passed += await self._relay_bulk(to, None if length is None else length - passed)
                break
            if self._start == self._end and not await self.fill():
                break
            end = self._end if length is None else min(self._start + length - passed, self._end)
            passed += end - self._start
            await self._flush(to, end)
        if length is not None and passed < length:
            raise Ended("closed within a body")

    async def _relay_bulk(self, to: BufferedSocket, length: int | None) -> int:
        def moving(count: int) -> None:
            self.moved = to.moved = time.monotonic()
            if self._meter:
                self._meter.received(count)
            if to._meter:
                to._meter.sent(count)

        return await splice.splice(self.socket, to.socket, length, moving)

    async def _relay_chunks(self, to: BufferedSocket) -> None:
        chunks = Chunks()
        while not chunks.done:
            if self._start == self._end and not await self.fill():
                raise Ended("closed within a chunked body")
            await self._flush(to, chunks.feed(self._buffer, self._start, self._end))

    async def _flush(self, to: BufferedSocket, end: int) -> None:
        if end > self._start:
            start, self._start = self._start, end
            await to.send(self._view[start:end])

    async def _yield_sometimes(self) -> None:
        # Sockets that are always ready never suspend: one fast download would stop all others.
        self._turns += 1
        if self._turns % 16 == 0:
            await asyncio.sleep(0)


_BUFFER = 128 * 1024
_HEAD_END = re.compile(rb"\n\r?\n")
