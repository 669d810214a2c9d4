"""A socket with a read buffer: heads are read from the buffer, bodies are relayed without being copied."""

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
from reelhaul_fetcher.guard.http.chunks import ChunkScanner
from reelhaul_fetcher.guard.http.fields import CHUNKED, UNTIL_CLOSE


class Meter(Protocol):
    """Counts the bytes of a connection; raises ``Refused`` above its limit."""

    def received(self, count: int) -> None:
        """*count* bytes came in from outside."""

    def sent(self, count: int) -> None:
        """*count* bytes are about to go out."""


class ClosedEarly(OSError):
    """The other side closed the connection within a message."""


class BufferedSocket:
    """One end of a connection. *meter* counts its bytes if it faces outward."""

    def __init__(self, sock: socket.socket, meter: Meter | None = None) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        #: Monotonic time of the last byte in either direction.
        self.last_activity = time.monotonic()
        self._meter = meter
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._reads = 0

    async def read_head(self, limit: int) -> bytes:
        """Return the bytes up to and including the next empty line; empty if the other side closed before.

        Raises ``Malformed`` if *limit* bytes hold no empty line, ``ClosedEarly`` on the end within a head.
        """
        unread = 0
        # Each byte is searched once: a head may arrive byte by byte. Its end may begin in the last two.
        while not (end := _HEAD_END.search(self._buffer, self._start + max(unread - 2, 0), self._end)):
            if self._end - self._start >= limit:
                raise Malformed("head-size")
            unread = self._end - self._start
            if not await self.fill():
                if self._start == self._end:
                    return b""
                raise ClosedEarly("closed within a head")
        if end.end() - self._start > limit:
            raise Malformed("head-size")
        head = bytes(self._view[self._start : end.end()])
        self._start = end.end()
        return head

    async def relay(self, target: BufferedSocket, length: int) -> None:
        """Send the next *length* bytes (or CHUNKED, or UNTIL_CLOSE) to *target*. Raises ``ClosedEarly``."""
        if length == UNTIL_CLOSE:
            await self._relay_bytes(target, None)
        elif length == CHUNKED:
            await self._relay_chunks(target)
        else:
            await self._relay_bytes(target, length)

    async def fill(self) -> int:
        """Read more into the buffer; return how many bytes, 0 at the end."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == _BUFFER_BYTES:
            unread = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, len(unread)
            self._view[: len(unread)] = unread
        count = await asyncio.get_running_loop().sock_recv_into(self.socket, self._view[self._end :])
        self._end += count
        self.last_activity = time.monotonic()
        if self._meter:
            self._meter.received(count)
        # Sockets that are always ready never suspend: one fast download would block all others.
        self._reads += 1
        if self._reads % 16 == 0:
            await asyncio.sleep(0)
        return count

    async def send(self, content: bytes | memoryview) -> None:
        """Send all of *content*; wait for as long as the other side does not read."""
        if self._meter:
            self._meter.sent(len(content))
        await asyncio.get_running_loop().sock_sendall(self.socket, content)
        self.last_activity = time.monotonic()

    def shutdown_write(self) -> None:
        """Signal that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    async def linger(self) -> None:
        """Shut down writing and read for up to a second more.

        Closing a socket with unread bytes resets the connection, and the last response would be lost.
        """
        self.shutdown_write()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while await self.fill():
                    self._start = self._end

    def close(self) -> None:
        """Close the connection in order."""
        self.socket.close()

    def abort(self) -> None:
        """Reset the connection, so that nobody takes a part of a file for the whole."""
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()

    @property
    def stale(self) -> bool:
        """Whether the other side has closed an idle connection, or sent something unasked."""
        try:
            return self._start != self._end or self.socket.recv(1, socket.MSG_PEEK) is not None
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def _relay_bytes(self, target: BufferedSocket, length: int | None) -> None:
        relayed = 0
        while length is None or relayed < length:
            if self._start == self._end and relayed >= splice.MIN_BYTES:
                relayed += await self._splice(target, None if length is None else length - relayed)
                break
            if self._start == self._end and not await self.fill():
                break
            end = self._end if length is None else min(self._start + length - relayed, self._end)
            relayed += end - self._start
            await self._flush(target, end)
        if length is not None and relayed < length:
            raise ClosedEarly("closed within a body")

    async def _splice(self, target: BufferedSocket, length: int | None) -> int:
        def on_bytes(count: int) -> None:
            self.last_activity = target.last_activity = time.monotonic()
            if self._meter:
                self._meter.received(count)
            if target._meter:
                target._meter.sent(count)

        return await splice.splice(self.socket, target.socket, length, on_bytes)

    async def _relay_chunks(self, target: BufferedSocket) -> None:
        scanner = ChunkScanner()
        while not scanner.done:
            if self._start == self._end and not await self.fill():
                raise ClosedEarly("closed within a chunked body")
            await self._flush(target, scanner.feed(self._buffer, self._start, self._end))
            if self._start != self._end:
                # Sockets that are always ready never suspend, and tiny chunks take long to scan.
                await asyncio.sleep(0)

    async def _flush(self, target: BufferedSocket, end: int) -> None:
        if end > self._start:
            start, self._start = self._start, end
            await target.send(self._view[start:end])


_BUFFER_BYTES = 128 * 1024
_HEAD_END = re.compile(rb"\n\r?\n")
