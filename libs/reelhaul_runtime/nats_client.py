"""NATS client: one connection with the options that reliability requires.

With its defaults a client gives up after two minutes, notices a dead connection after four, and
buffers publishes that it reports as failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client

log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(
    url: str, name: str, *, closed: asyncio.Event | None = None, echo: bool = True
) -> AsyncIterator[Client]:
    """Connect to the broker at *url* as *name*, until the end of the block.

    The client reconnects for ever. While the broker is down, a publish fails at once and is not
    buffered (``pending_size=0``): callers that need it sent again keep it in a row. *closed* is set
    if the connection ends for good before the block does: exit then. Without *echo* the client does
    not receive its own messages.
    """
    closing = False

    async def on_error(error: Exception) -> None:
        # It must never raise: nats-py would end its read loop.
        log.warning("broker error", extra={"cause": repr(error)})

    async def on_disconnect() -> None:
        if not closing:
            log.warning("the broker is down; reconnecting")

    async def on_reconnect() -> None:
        log.info("reconnected to the broker")

    async def on_closed() -> None:
        if not closing and closed is not None:
            closed.set()

    client = await nats.connect(
        url,
        name=name,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        connect_timeout=2,
        ping_interval=10,
        max_outstanding_pings=2,
        pending_size=0,
        no_echo=not echo,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        closed_cb=on_closed,
    )
    try:
        yield client
    finally:
        closing = True
        # Not drain(): it raises while the broker is down, and nothing is buffered here.
        await client.close()
