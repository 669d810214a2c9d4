"""A relay in front of the S3 server that at times answers as a throttled S3 does: SlowDown, late, never."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
# Of the connections while it throttles: refused, and cut after some bytes; the others are late.
_REFUSED, _CUT = 0.5, 0.15
_DELAY_SECONDS = 1.0
_PIECE_BYTES = 65536


class S3Throttle:
    """Passes connections on to the server at *target*, until it throttles."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._rng = random.Random(target)
        self._throttles = False
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        #: Where it listens.
        self.port = 0
        #: Connections that were refused, cut and delayed.
        self.refused = self.cut = self.delayed = 0

    def begin(self) -> None:
        """Throttle, and cut the connections that are open."""
        self._throttles = True
        self._loop.call_soon_threadsafe(self._abort)

    def end(self) -> None:
        """Pass everything on again."""
        self._throttles = False
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def run(self, started: threading.Event) -> None:
        """Serve until ``stop``; set *started* when it listens."""
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        self._abort()
        self._loop.run_until_complete(_cancel_others())
        self._loop.close()

    def stop(self) -> None:
        """Let ``run`` return."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        limit: int | None = None
        try:
            if self._throttles:
                draw = self._rng.random()
                if draw < _REFUSED:
                    self.refused += 1
                    await self._refuse(reader, writer)
                    return
                self.delayed += 1
                await asyncio.sleep(_DELAY_SECONDS)
                if draw < _REFUSED + _CUT:
                    self.cut += 1
                    limit = self._rng.randrange(200_000)
            await self._pass_on(reader, writer, limit)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_SLOW_DOWN)
            await writer.drain()
            writer.write_eof()
            # An abort with unread bytes would be a reset, and the client might not see the answer.
            async with asyncio.timeout(1):
                while await reader.read(_PIECE_BYTES):
                    pass

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None
    ) -> None:
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(server_writer)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_copy(reader, server_writer, limit))
                    tasks.create_task(_copy(server_reader, writer, None))
            finally:
                server_writer.transport.abort()
                self._writers.discard(server_writer)


async def _cancel_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, limit: int | None) -> None:
    """Copy bytes until the end of *source*, or cut the connection after *limit* bytes."""
    copied = 0
    with suppress(OSError):
        while piece := await source.read(_PIECE_BYTES):
            copied += len(piece)
            if limit is not None and copied > limit:
                break
            sink.write(piece)
            await sink.drain()
    sink.transport.abort() if limit is not None else sink.close()


@contextmanager
def running_s3_throttle(target: int) -> Iterator[S3Throttle]:
    """Run a relay to port *target*, in a thread, until the block ends."""
    throttle, started = S3Throttle(target), threading.Event()
    thread = threading.Thread(target=throttle.run, args=(started,), name="s3-throttle", daemon=True)
    thread.start()
    started.wait()
    try:
        yield throttle
    finally:
        throttle.stop()
        thread.join()
