"""The broker: one NATS connection with the options that are not optional.

Without them a client gives up after two minutes, notices a dead link after four, and
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
    """A connection to the broker at *url*, known there as *name*.

    It reconnects for ever. While the broker is away a publish fails at once and nothing
    of it is kept (``pending_size=0``): who needs it sent again has it in a row. *closed* is
    set if the connection ends for good without being asked to: exit then. Without *echo*
    it does not hear what it says itself.
    """
    leaving = False

    async def on_error(error: Exception) -> None:
        # It must never raise: nats-py would lose its reader with it.
        log.warning("broker", extra={"cause": repr(error)})

    async def on_disconnect() -> None:
        if not leaving:
            log.warning("broker is away; reconnecting")

    async def on_reconnect() -> None:
        log.info("broker is back")

    async def on_closed() -> None:
        if not leaving and closed is not None:
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
        leaving = True
        # Not drain(): it raises while the broker is away, and nothing here waits in a buffer.
        await client.close()
