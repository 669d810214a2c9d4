"""TLS listener: accepts connections, limits them before the handshake, and hands them on after it."""

from __future__ import annotations

import asyncio
import logging
import socket

from reelhaul_gateway.connections import ConnectionTable, CreateProtocol, Handshake
from reelhaul_runtime.certificate import Certificate
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

# After a failure that is not the client's, such as too many open files.
_ACCEPT_RETRY_SECONDS = 1.0


class TlsListener:
    """Accepts connections of *listener* and shakes hands with the current context of *certificate*.

    *create_protocol* returns the protocol of a connection after its handshake. A handshake
    occupies a place of *table* and counts as part of the first head. Closed like an asyncio server.
    """

    def __init__(
        self,
        listener: socket.socket,
        certificate: Certificate,
        table: ConnectionTable,
        create_protocol: CreateProtocol,
    ) -> None:
        self._listener, self._certificate, self._table = listener, certificate, table
        self._create_protocol = create_protocol
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Accept no more connections, and end unfinished handshakes."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing of the listener runs."""
        await cancel_and_wait(self._accepting, *self._handshakes)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.error("a connection cannot be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            client.setblocking(False)
            task = asyncio.create_task(self._shake_hands(client))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, client: socket.socket) -> None:
        try:
            host = client.getpeername()[0]
        except OSError:
            client.close()  # it has disconnected already
            return
        handshake = Handshake(self._table, host, self._create_protocol)
        try:
            # A failure closes the socket.
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: handshake,
                client,
                ssl=self._certificate.context,
                ssl_handshake_timeout=self._table.limits.head_seconds,
            )
        except OSError as error:
            log.debug("a TLS handshake failed: %s", error, extra={"peer": host})
        finally:
            self._table.remove(handshake)
