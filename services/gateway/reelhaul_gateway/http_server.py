"""HTTP server: uvicorn, and HTTP/2 beside it, in the running event loop, as a context manager."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn

from reelhaul_gateway.connections import ConnectionLimits, ConnectionTable, Handshake
from reelhaul_gateway.http1 import HttpConnection, WebSocketConnection
from reelhaul_gateway.http2 import Http2Connection
from reelhaul_gateway.listener import Listener
from reelhaul_gateway.request_head import TrustedProxies
from reelhaul_runtime import listeners
from reelhaul_runtime.certificate import Certificate
from reelhaul_runtime.tasks import cancel_and_wait

# How old the Date field of a response may be, and the tick of uvicorn that updates it.
_DATE_SECONDS, _UPDATE_HEADERS = 1.0, 0
_MAX_WEBSOCKET_FRAME_BYTES = 64 * 1024


@asynccontextmanager
async def serve_http(
    app: Any,
    address: str,
    *,
    overloaded: Any,
    limits: ConnectionLimits,
    keep_alive: int,
    drain_seconds: float,
    reuse_port: bool = False,
    certificate: Certificate | None = None,
    proxies: TrustedProxies | None = None,
) -> AsyncIterator[int]:
    """Serve *app* at *address* (host:port; port 0: any free port) until the block exits; yields the port.

    With *certificate* clients must use TLS. *proxies* may use the PROXY protocol. Connections beyond *limits*
    are served by *overloaded*. At the end, requests in progress get *drain_seconds* to finish. With
    *reuse_port* a process of the same user may hold the port. Raises AddressUnavailable if the address is in
    use or not this machine's.
    """
    listener = listeners.listen(address, reuse_port=reuse_port)
    table = ConnectionTable(limits, overloaded)
    server = _Server(app, table, certificate, proxies, keep_alive=keep_alive, drain_seconds=drain_seconds)
    background = [asyncio.create_task(table.sweep())]
    if certificate is not None:
        background.append(asyncio.create_task(certificate.watch()))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await server.ready.wait()
        port: int = listener.getsockname()[1]
        yield port
    finally:
        server.stop()
        await serving
        await cancel_and_wait(*background)


class _Server(uvicorn.Server):
    """A uvicorn server that signals when it listens, and leaves OS signals to the process."""

    def __init__(
        self,
        app: Any,
        table: ConnectionTable,
        certificate: Certificate | None,
        proxies: TrustedProxies | None,
        *,
        keep_alive: int,
        drain_seconds: float,
    ) -> None:
        self.ready, self._stopping = asyncio.Event(), asyncio.Event()
        self._table, self._certificate, self._proxies = table, certificate, proxies
        # uvicorn calls these as classes, and uses nothing else of them.
        http: Any = partial(HttpConnection, table, self._create_http2)
        websocket: Any = partial(WebSocketConnection, table)
        config = uvicorn.Config(
            app,
            http=http,
            ws=websocket,
            ws_max_size=_MAX_WEBSOCKET_FRAME_BYTES,
            ws_ping_interval=20,
            ws_ping_timeout=20,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            # RequestMiddleware sets the peer's address.
            proxy_headers=False,
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
        )
        super().__init__(config)

    def stop(self) -> None:
        """Have the server drain and end."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        # uvicorn's own wakes ten times a second.
        while not await self.on_tick(_UPDATE_HEADERS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DATE_SECONDS):
                    await self._stopping.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        uses_listener = self._certificate is not None or self._proxies is not None
        await super().startup([] if uses_listener else sockets)
        if uses_listener:
            # uvicorn closes them as its own.
            servers: list[Any] = [
                Listener(each, self._certificate, self._proxies, self._table, self._create_protocol)
                for each in sockets or []
            ]
            self.servers = servers
        self.ready.set()

    def _create_protocol(self, handshake: Handshake, application_protocol: str | None) -> asyncio.Protocol:
        """Return the protocol that the client has chosen by ALPN (RFC 7301)."""
        if application_protocol == "h2":
            return self._create_http2(handshake)
        return HttpConnection(
            self._table,
            self._create_http2,
            handshake,
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )

    def _create_http2(self, predecessor: Handshake | HttpConnection) -> Http2Connection:
        return Http2Connection(
            self._table,
            predecessor,
            self.config.loaded_app,
            self.server_state,
            self.config.timeout_keep_alive,
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
