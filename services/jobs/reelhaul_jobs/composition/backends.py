"""What all areas of the jobs service share: the database, the broker, the other services."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nats.aio.client import Client

from reelhaul_jobs.clients import FETCHER_SERVICE, STORAGE_SERVICE, RemoteProbe, RemoteStorage
from reelhaul_jobs.nats.bus import NatsJobBus
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.attempt_spans import AttemptSpans
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.loop_runner import Loop
from reelhaul_jobs.settings import Settings
from reelhaul_jobs.store.jobs import SqlJobStore
from reelhaul_jobs.store.quotas import QuotaLedger
from reelhaul_runtime import nats_client as broker
from reelhaul_runtime.auth.level_quotas import level_quotas
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.rpc.server import Servicer
from reelhaul_runtime.sql import migrations
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.engines import is_sqlite

log = logging.getLogger(__name__)

DATABASE_SETTING = "REELHAUL_JOBS_DATABASE_URL"


def utc_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Part:
    """What an area adds to the process: what it serves, and its background loops."""

    servicers: Sequence[Servicer]
    #: Their names are those of the rows that they are led through.
    loops: Sequence[Loop]


@dataclass(frozen=True, slots=True)
class Backends:
    """What the areas are built on."""

    settings: Settings
    now: Clock
    #: Distinguishes this replica from others.
    replica: str
    #: Whether there are no others: a SQLite file has one process.
    alone: bool
    database: Database
    ledger: QuotaLedger
    store: SqlJobStore
    hub: EventHub
    bus: NatsJobBus
    notifier: ChangeNotifier
    storage: RemoteStorage
    probe: RemoteProbe
    #: Signs page tokens and resume tokens; all replicas have the same.
    token_key: bytes
    page_tokens: PageTokens


@asynccontextmanager
async def open_backends(settings: Settings) -> AsyncIterator[Backends]:
    """Open the database, which is migrated, and the connections of *settings* until the block exits."""
    await asyncio.to_thread(
        migrations.migrate_if_behind, settings.database_url, "reelhaul_jobs", DATABASE_SETTING
    )
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(settings.database_url, name="jobs.database"))
        client = await stack.enter_async_context(_broker(settings))
        storage, probe = await _clients(stack, settings)
        ledger = QuotaLedger(settings.auth == "keys", level_quotas(settings.level_quotas))
        store, hub = SqlJobStore(database, ledger), EventHub()
        lease = timedelta(seconds=settings.jobs_lease_seconds)
        alone = is_sqlite(settings.database_url)
        bus = await stack.enter_async_context(
            NatsJobBus.open(client, hub, lease, alone=alone, replicas=settings.jobs_stream_replicas)
        )
        token_key = await store.get_or_create_key("tokens")
        yield Backends(
            settings=settings,
            now=utc_now,
            replica=_replica_id(settings),
            alone=alone,
            database=database,
            ledger=ledger,
            store=store,
            hub=hub,
            bus=bus,
            notifier=ChangeNotifier(hub, bus, AttemptSpans(store) if settings.otlp_endpoint else None),
            storage=storage,
            probe=probe,
            token_key=token_key,
            page_tokens=PageTokens(token_key, utc_now),
        )


@asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[Client]:
    """Yield the connection to the broker. The process terminates itself if it is lost for good."""
    closed = asyncio.Event()

    async def terminate_when_closed() -> None:
        await closed.wait()
        log.critical("the connection to the broker is closed for good; terminating")
        signal.raise_signal(signal.SIGTERM)

    # No echo: this replica has told its own watchers what it changed.
    async with broker.connect(
        settings.nats_url, "jobs", closed=closed, echo=False, security=settings.nats_security
    ) as client:
        terminating = asyncio.create_task(terminate_when_closed())
        try:
            yield client
        finally:
            terminating.cancel()


async def _clients(stack: AsyncExitStack, settings: Settings) -> tuple[RemoteStorage, RemoteProbe]:
    # Without those of DestinationService: Deliverer repeats a failed delivery, the channel must not.
    storage = open_channel(
        settings.storage_target, [STORAGE_SERVICE], suite_token=settings.suite_token, tls=settings.tls
    )
    fetcher = open_channel(
        settings.fetcher_target, [FETCHER_SERVICE], suite_token=settings.suite_token, tls=settings.tls
    )
    return (
        RemoteStorage(await stack.enter_async_context(storage)),
        RemoteProbe(await stack.enter_async_context(fetcher)),
    )


def _replica_id(settings: Settings) -> str:
    """Return what distinguishes this replica from others, and stays the same after a crash.

    A leader that restarts continues at once; under a new id it would wait for its own lease.
    """
    if settings.jobs_address.endswith(":0"):
        return str(uuid.uuid4())
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"grpc://{socket.gethostname()}/{settings.jobs_address}"))
