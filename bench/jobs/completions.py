"""The tally: who did a job says so in one datagram, the same way for us and for the rival.

A datagram to a socket file costs the sender microseconds and no round trip, and is never dropped.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Environment variable that names the socket to those who are counted.
SOCKET = "BENCH_TALLY"


class Teller:
    """Says ``one more``, from a worker."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(os.environ[SOCKET])

    def one(self) -> None:
        """One more is done, now."""
        self._socket.send(struct.pack("d", time.time()))


class Tally:
    """Hears when each one was done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: When each was done, by this machine's clock, since ``clear``.
        self.times: list[float] = []
        self._bell = asyncio.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.setblocking(False)
        self._socket.bind(str(path))

    def clear(self) -> None:
        """Begin anew."""
        self.times = []

    async def reach(self, number: int, seconds: float = 120.0) -> list[float]:
        """When *number* are done: their times, in order. TimeoutError, with how far it came."""
        try:
            async with asyncio.timeout(seconds):
                while len(self.times) < number:
                    self._bell.clear()
                    await self._bell.wait()
        except TimeoutError:
            raise TimeoutError(f"{len(self.times)} of {number} were done in {seconds} s") from None
        return sorted(self.times)[:number]

    def _heard(self) -> None:
        try:
            while True:
                self.times.append(struct.unpack("d", self._socket.recv(8))[0])
        except BlockingIOError:
            self._bell.set()

    @classmethod
    @contextmanager
    def at(cls, path: Path) -> Iterator[Tally]:
        """A tally that listens at *path* until the block ends."""
        tally = cls(path)
        loop = asyncio.get_running_loop()
        loop.add_reader(tally._socket, tally._heard)
        try:
            yield tally
        finally:
            loop.remove_reader(tally._socket)
            tally._socket.close()
