"""Outages of what the services depend on: how each begins and ends, and how fast work must go on.

After an outage (or in it, where the suite must go on without the lost part) a job is created, and the time
until it has succeeded is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal

from tests.chaos import links
from tests.chaos.clocks import SteppedClock
from tests.chaos.s3_throttle import S3Throttle
from tests.nats_cluster import NatsCluster
from tests.postgresql_pair import PostgresqlPair, running_postgresql_pair

_CLOCK_STEP = timedelta(minutes=10)


@dataclass
class Parts:
    """What outages act on; None: not in this run."""

    broker: NatsCluster | None = None
    database: PostgresqlPair | None = None
    s3: S3Throttle | None = None
    clock: SteppedClock | None = None


@dataclass(frozen=True)
class Outage:
    """An outage, and what it needs."""

    #: Lasts as long as the block.
    run: Callable[[Parts], AbstractAsyncContextManager[None]]
    needs: Literal["broker", "database", "s3", "links", "clock"]
    seconds: float
    #: Seconds in which a job that is created then has succeeded, on a busy machine.
    recovery_seconds: float
    #: Whether the suite goes on during the outage.
    tolerated: bool = False
    #: What the run needs: fields of ChaosOptions.
    options: Mapping[str, str] = field(default_factory=dict)


@asynccontextmanager
async def _broker_without_leader(parts: Parts) -> AsyncIterator[None]:
    """Kill the server that leads the work stream; start it again at the end."""
    assert parts.broker is not None
    leader = await parts.broker.find_leader()
    parts.broker.kill(leader)
    try:
        yield
    finally:
        await parts.broker.start(leader)


@asynccontextmanager
async def _database_away(parts: Parts) -> AsyncIterator[None]:
    """Crash the primary, and start it again at the end."""
    assert parts.database is not None
    await asyncio.to_thread(parts.database.crash_primary)
    try:
        yield
    finally:
        await asyncio.to_thread(parts.database.start_primary)


@asynccontextmanager
async def _database_lost(parts: Parts) -> AsyncIterator[None]:
    """Crash the primary for ever, and promote its standby at the end."""
    assert parts.database is not None
    await asyncio.to_thread(parts.database.crash_primary)
    try:
        yield
    finally:
        await asyncio.to_thread(parts.database.promote_standby)


@asynccontextmanager
async def _s3_throttled(parts: Parts) -> AsyncIterator[None]:
    assert parts.s3 is not None
    parts.s3.begin()
    try:
        yield
    finally:
        parts.s3.end()


@asynccontextmanager
async def _link_cut(_: Parts, *, link: str, one_way: bool = False) -> AsyncIterator[None]:
    await asyncio.to_thread(links.cut, link, one_way=one_way)
    try:
        yield
    finally:
        await asyncio.to_thread(links.mend, link, one_way=one_way)


@asynccontextmanager
async def _clock_stepped(parts: Parts, *, offset: timedelta) -> AsyncIterator[None]:
    """Step the clock, and back at the end."""
    assert parts.clock is not None
    parts.clock.step(offset)
    try:
        yield
    finally:
        parts.clock.step(timedelta(0))


_PARTITIONS = {
    f"partition-{link}{'-one-way' if one_way else ''}": Outage(
        partial(_link_cut, link=link, one_way=one_way),
        "links",
        15,
        60,
        options={"db": "postgresql"} if link == "jobs-database" else {},
    )
    for link in links.ADDRESSES
    for one_way in (False, True)
}
OUTAGES: Mapping[str, Outage] = {
    "broker-leader": Outage(_broker_without_leader, "broker", 0, 45, tolerated=True),
    "database-restart": Outage(_database_away, "database", 5, 30, options={"db": "postgresql"}),
    "database-failover": Outage(_database_lost, "database", 5, 30, options={"db": "postgresql"}),
    "s3-throttling": Outage(_s3_throttled, "s3", 12, 30, options={"storage": "s3"}),
    **_PARTITIONS,
    "clock-forward": Outage(partial(_clock_stepped, offset=_CLOCK_STEP), "clock", 8, 30),
    "clock-back": Outage(partial(_clock_stepped, offset=-_CLOCK_STEP), "clock", 8, 30),
}


def open_parts(stack: ExitStack, outages: Sequence[str], folder: Path) -> Parts:
    """Start what the *outages* act on and nobody else does, until *stack* closes."""
    parts, needs = Parts(), {OUTAGES[name].needs for name in outages}
    if "broker" in needs:
        parts.broker = NatsCluster(folder / "broker")
        stack.callback(parts.broker.kill_all)
        asyncio.run(parts.broker.start())
    # A link to the database needs a server that listens on TCP.
    if "database" in needs or any("database" in name for name in outages):
        parts.database = stack.enter_context(running_postgresql_pair())
    if "clock" in needs:
        parts.clock = SteppedClock(folder / "clock")
    return parts
