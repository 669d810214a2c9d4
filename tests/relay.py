"""A TCP relay that cuts its connections when told to: a bad network between two honest programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from reelhaul_runtime.tasks import cancel_and_wait


class Relay:
    """Passes bytes between whoever connects and one server on loopback."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        #: Where to connect; set while it runs.
        self.port = 0
        #: Connections cut so far.
        self.cuts = 0

    def cut(self) -> None:
        """Break every connection, as a pulled cable does: without a goodbye."""
        self.cuts += bool(self._writers)
        self.close()

    def close(self) -> None:
        """End every connection at once."""
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        """From now on bytes get stuck, and nobody is told."""
        self._passing.clear()

    def go_on(self) -> None:
        """Pass bytes again."""
        self._passing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        self._writers.add(writer)
        with suppress(OSError):
            beyond = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(beyond[1])
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, beyond[1]))
                both.create_task(self._pass(beyond[0], writer))
            self._writers.discard(beyond[1])
        self._writers.discard(writer)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                await self._passing.wait()
                sink.write(piece)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def relaying(target: int) -> AsyncIterator[Relay]:
    """A relay to port *target*, until the block ends."""
    relay = Relay(target)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        relay.close()


@asynccontextmanager
async def cutting(relay: Relay, seconds: float) -> AsyncIterator[None]:
    """Cuts *relay* every so many seconds while the block runs."""

    async def cut() -> None:
        while True:
            await asyncio.sleep(seconds)
            relay.cut()

    task = asyncio.create_task(cut())
    try:
        yield
    finally:
        await cancel_and_wait(task)
