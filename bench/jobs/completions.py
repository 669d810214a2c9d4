"""Counts completed jobs: each worker, ours or Celery's, reports a completion in one datagram.

A datagram to a Unix socket costs the sender microseconds and no round trip, and is never dropped.
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

#: Environment variable with the path of the socket.
SOCKET_VARIABLE = "BENCH_COMPLETIONS"


class CompletionReporter:
    """Reports completed jobs from a worker process."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(os.environ[SOCKET_VARIABLE])

    def report(self) -> None:
        """Report that a job was completed now."""
        self._socket.send(struct.pack("d", time.time()))


class CompletionCounter:
    """Receives the times of completed jobs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Times of the completions since the last ``clear``, in seconds since the epoch.
        self.times: list[float] = []
        self._received = asyncio.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.setblocking(False)
        self._socket.bind(str(path))

    def clear(self) -> None:
        """Forget the completions so far."""
        self.times = []

    async def wait_for(self, number: int, seconds: float = 120.0) -> list[float]:
        """Wait for *number* completions; return their times in order. Raises TimeoutError."""
        try:
            async with asyncio.timeout(seconds):
                while len(self.times) < number:
                    self._received.clear()
                    await self._received.wait()
        except TimeoutError:
            raise TimeoutError(f"{len(self.times)} of {number} jobs completed in {seconds} s") from None
        return sorted(self.times)[:number]

    def _receive(self) -> None:
        try:
            while True:
                self.times.append(struct.unpack("d", self._socket.recv(8))[0])
        except BlockingIOError:
            self._received.set()

    @classmethod
    @contextmanager
    def listening(cls, path: Path) -> Iterator[CompletionCounter]:
        """Listen at *path* until the block ends."""
        counter = cls(path)
        loop = asyncio.get_running_loop()
        loop.add_reader(counter._socket, counter._receive)
        try:
            yield counter
        finally:
            loop.remove_reader(counter._socket)
            counter._socket.close()
