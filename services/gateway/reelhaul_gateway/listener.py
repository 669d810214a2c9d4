"""Listener: accepts connections, limits them before the TLS handshake, and hands them on after it."""

from __future__ import annotations

import asyncio
import logging
import socket

from reelhaul_gateway.connections import ConnectionTable, CreateProtocol, Handshake
from reelhaul_gateway.proxy_protocol import MAX_HEADER_BYTES, ProxyHeaderError, parse_header
from reelhaul_gateway.request_head import TrustedProxies
from reelhaul_runtime.certificate import Certificate
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

# After a failure that is not the client's, such as too many open files.
_ACCEPT_RETRY_SECONDS = 1.0


class Listener:
    """Accepts connections of *listener* that begin with a TLS handshake, the PROXY protocol, or both.

    With *certificate* each shakes hands with its current context. *proxies* may say by the PROXY protocol for
    whom they connect. *create_protocol* returns the protocol of a connection after that. A handshake occupies
    a place of *table* and counts as part of the first head. Closed like an asyncio server.
    """

    def __init__(
        self,
        listener: socket.socket,
        certificate: Certificate | None,
        proxies: TrustedProxies | None,
        table: ConnectionTable,
        create_protocol: CreateProtocol,
    ) -> None:
        self._listener, self._certificate, self._proxies = listener, certificate, proxies
        self._table, self._create_protocol = table, create_protocol
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
            host, port = client.getpeername()[:2]
        except OSError:
            client.close()  # it has disconnected already
            return
        if self._proxies is not None and self._proxies.trusts(host):
            try:
                async with asyncio.timeout(self._table.limits.head_seconds):
                    host, port = await _read_client(client, host, port)
            except (OSError, TimeoutError, ProxyHeaderError) as error:
                log.debug("a header of the PROXY protocol is refused: %s", error, extra={"peer": host})
                client.close()
                return
            except asyncio.CancelledError:
                client.close()
                raise
        handshake = Handshake(self._table, (host, port), self._create_protocol)
        try:
            # A failure closes the socket.
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: handshake,
                client,
                ssl=self._certificate.context if self._certificate else None,
                ssl_handshake_timeout=self._table.limits.head_seconds if self._certificate else None,
            )
        except OSError as error:
            log.debug("a TLS handshake failed: %s", error, extra={"peer": host})
        finally:
            self._table.remove(handshake)


async def _read_client(client: socket.socket, host: str, port: int) -> tuple[str, int]:
    """Read the PROXY header of *client*; return the client's address and port 0, else *host* and *port*.

    What follows the header stays unread. Raises OSError, ProxyHeaderError.
    """
    await _wait_until_readable(client)
    size, address = parse_header(client.recv(MAX_HEADER_BYTES, socket.MSG_PEEK))
    client.recv(size)
    return (address, 0) if address else (host, port)


async def _wait_until_readable(client: socket.socket) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(client, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(client)
