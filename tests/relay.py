"""A TCP relay that can cut or hold its connections: a bad network between client and server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from reelhaul_runtime.tasks import cancel_and_wait


class Relay:
    """Passes bytes between its clients and one server on loopback."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        #: The port to connect to; set while it runs.
        self.port = 0
        #: How often connections were cut.
        self.cuts = 0

    def cut(self) -> None:
        """Break every connection without a FIN, as a pulled cable does."""
        self.cuts += bool(self._writers)
        self.close()

    def close(self) -> None:
        """Abort every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        """Stop passing bytes, without closing anything."""
        self._passing.clear()

    def resume(self) -> None:
        """Pass bytes again."""
        self._passing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass the bytes of one connection until either side ends it."""
        self._writers.add(writer)
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(server_writer)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, server_writer))
                tasks.create_task(self._pass(server_reader, writer))
            self._writers.discard(server_writer)
        self._writers.discard(writer)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                await self._passing.wait()
                sink.write(piece)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def run_relay(target: int) -> AsyncIterator[Relay]:
    """Run a relay to port *target* until the block exits."""
    relay = Relay(target)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        relay.close()


@asynccontextmanager
async def cut_every(seconds: float, relay: Relay) -> AsyncIterator[None]:
    """Cut *relay* every so many seconds while the block runs."""

    async def cut() -> None:
        while True:
            await asyncio.sleep(seconds)
            relay.cut()

    task = asyncio.create_task(cut())
    try:
        yield
    finally:
        await cancel_and_wait(task)
