"""Listening: uvicorn inside our own loop, started when it can answer and ended when it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

_BACKLOG = 2048
_MAX_SOCKET_FRAME = 64 * 1024


@asynccontextmanager
async def listening(app: Any, address: str, *, keep_alive: int, drain_seconds: float) -> AsyncIterator[int]:
    """Serve *app* at *address* (host:port; port 0 takes a free one); yields the port.

    On leaving, requests in hand are given *drain_seconds*. Raises OSError if the address is
    taken.
    """
    bound = _bound(address)
    server = _Server(_config(app, keep_alive, drain_seconds))
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        await server.ready.wait()
        port: int = bound.getsockname()[1]
        yield port
    finally:
        server.should_exit = True
        await serving


def _config(app: Any, keep_alive: int, drain_seconds: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=_MAX_SOCKET_FRAME,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Who the peer is, is decided by the edge.
        proxy_headers=False,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )


class _Server(uvicorn.Server):
    """A server that says when it listens, and leaves signals to the process that it is a part of."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bound(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, int(port)))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"{address}: {error.strerror}") from error
    bound.setblocking(False)
    return bound
