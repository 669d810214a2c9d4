"""Long bodies pass from socket to socket inside the kernel: half the work of copying them through Python."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: Bodies shorter than this are copied: a pipe for each would cost more than it saves.
WORTHWHILE = 4 << 20


async def splice(
    source: socket.socket, to: socket.socket, length: int | None, moving: Callable[[int], None]
) -> int:
    """Move *length* bytes (None: all until the end); how many it were, fewer where *source* ended before.

    *moving* is told of each piece before it is sent on; what it raises keeps the piece back.
    """
    total = turns = 0
    with _pipe() as (out, into):
        while length is None or total < length:
            wanted = _PIECE if length is None else min(length - total, _PIECE)
            count = await _when_ready(source, _READING, source.fileno(), into, wanted)
            if not count:
                break
            moving(count)
            total += count
            while count:
                count -= await _when_ready(to, _WRITING, out, to.fileno(), count)
            # Sockets that are always ready never suspend: one fast download would stop all others.
            turns += 1
            if turns % 8 == 0:
                await asyncio.sleep(0)
    return total


async def _when_ready(sock: socket.socket, writing: bool, source: int, to: int, count: int) -> int:
    while True:
        try:
            return os.splice(source, to, count, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            await _ready(sock, writing)


async def _ready(sock: socket.socket, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    if writing:
        loop.add_writer(sock, ready.set)
    else:
        loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        (loop.remove_writer if writing else loop.remove_reader)(sock)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    out, into = os.pipe()
    try:
        # Users have a share of pipe memory; where it is used up the small default must do.
        with suppress(OSError):
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIECE)
        yield out, into
    finally:
        os.close(out)
        os.close(into)


_PIECE = 1 << 20
_READING, _WRITING = False, True
