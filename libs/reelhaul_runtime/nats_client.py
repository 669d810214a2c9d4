"""NATS client: one connection with the options that reliability requires.

With its defaults a client gives up after two minutes, notices a dead connection after four, and
buffers publishes that it reports as failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.errors import StaleConnectionError

from reelhaul_runtime.logs import Outage
from reelhaul_runtime.redaction import redact_urls
from reelhaul_runtime.settings import InvalidSetting

log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(
    url: str,
    name: str,
    *,
    closed: asyncio.Event | None = None,
    echo: bool = True,
    on_reconnect: Callable[[], None] | None = None,
) -> AsyncIterator[Client]:
    """Connect to the broker at *url* as *name*, until the end of the block.

    The client reconnects for ever. While the broker is down, a publish fails at once and is not
    buffered (``pending_size=0``): callers that need it sent again keep it in a row. *closed* is set
    if the connection ends for good before the block does: exit then. Without *echo* the client does
    not receive its own messages. *on_reconnect* is called after an interruption, in which messages may have
    been missed. The broker's absence is logged at growing intervals.

    Raises InvalidSetting if *url* is empty.
    """
    if not url:
        raise InvalidSetting("REELHAUL_NATS_URL is not set: jobs and fetchers need a NATS broker")
    closing = False
    broker = {"broker": redact_urls(url)}
    outage = Outage()

    async def on_error(error: Exception) -> None:
        # It must never raise: nats-py would end its read loop. While there is no connection it is called
        # for each attempt.
        if closing:
            return
        lost = isinstance(error, OSError | StaleConnectionError)
        if client.is_connected and not lost:
            log.warning("broker error", extra=broker | {"cause": repr(error)})
        elif (level := outage.level()) is not None:
            cause = redact_urls(repr(error))
            log.log(level, "no connection to the broker; trying again", extra=broker | {"cause": cause})

    async def on_disconnect() -> None:
        if not closing and (level := outage.level()) is not None:
            log.log(level, "the connection to the broker is lost; trying again", extra=broker)

    async def log_reconnect() -> None:
        outage.end()
        if on_reconnect is not None:
            on_reconnect()
        log.info("reconnected to the broker", extra=broker)

    async def on_closed() -> None:
        if not closing and closed is not None:
            closed.set()

    client = Client()
    await client.connect(
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
        reconnected_cb=log_reconnect,
        closed_cb=on_closed,
    )
    outage.end()
    try:
        yield client
    finally:
        closing = True
        # Not drain(): it raises while the broker is down, and nothing is buffered here.
        await client.close()
