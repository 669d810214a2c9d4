"""Real stores of the jobs service for tests, on SQLite and PostgreSQL, and jobs to put into them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.postgresql import migrated_database
from tests.sqlite import create_migrated_file

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.store.api_keys import SqlApiKeyStore
from reelhaul_jobs.store.jobs import SqlJobStore
from reelhaul_jobs.store.queue import SqlQueueStore
from reelhaul_jobs.store.quotas import QuotaLedger
from reelhaul_jobs.store.schedules import SqlScheduleStore
from reelhaul_jobs.store.state_events import SqlStateEventStore
from reelhaul_jobs.store.tenants import SqlTenantStore
from reelhaul_jobs.store.webhook_deliveries import SqlWebhookDeliveryStore
from reelhaul_jobs.store.webhooks import SqlWebhookStore
from reelhaul_runtime.sql.database import Database

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)


class SqlStore(SqlJobStore, SqlQueueStore, SqlStateEventStore):
    """All stores of one database: jobs, queue and state events in one, the others beside them."""

    def __init__(self, database: Database, ledger: QuotaLedger | None = None) -> None:
        SqlQueueStore.__init__(self, database)
        SqlJobStore.__init__(self, database, ledger)
        self.database = database
        self.schedules = SqlScheduleStore(database, ledger)
        self.api_keys = SqlApiKeyStore(database)
        self.tenants = SqlTenantStore(database)
        self.webhooks = SqlWebhookStore(database)
        self.webhook_deliveries = SqlWebhookDeliveryStore(database)


@asynccontextmanager
async def open_store(url: str, ledger: QuotaLedger | None = None) -> AsyncIterator[SqlStore]:
    """Open the stores of the database at *url*, which has the schema of this build."""
    async with Database.open(url) as database:
        yield SqlStore(database, ledger)


@asynccontextmanager
async def sqlite_store(folder: Path, ledger: QuotaLedger | None = None) -> AsyncIterator[SqlStore]:
    """Open the stores of a new SQLite database in *folder*."""
    path = folder / "jobs.db"
    create_migrated_file("reelhaul_jobs", path)
    async with open_store(f"sqlite:///{path}", ledger) as store:
        yield store


@asynccontextmanager
async def postgresql_store(ledger: QuotaLedger | None = None) -> AsyncIterator[SqlStore]:
    """Open the stores of a new PostgreSQL database."""
    with migrated_database("reelhaul_jobs") as url:
        async with open_store(url, ledger) as store:
            yield store


def job(number: int, **fields: object) -> Job:
    """Return a job that was created *number* seconds after NOW."""
    create_time = NOW + timedelta(seconds=number)
    defaults = Job(
        id=f"00000000-0000-7000-8000-{number:012d}",
        tenant="acme",
        url="https://videos.example/watch?v=1",
        format=media_pb2.FormatSpec(max_height=720),
        labels={"album": "Ünïcode"},
        create_time=create_time,
        update_time=create_time,
    )
    return queue_transitions.enqueue(replace(defaults, **fields))  # type: ignore[arg-type]


async def put_in_stage(store: SqlStore, number: int, stage: QueueStage, due: datetime) -> None:
    """Put the job of *number* into *stage*, due at *due*."""
    await store.change(
        job(number).id, lambda j: Transition(before=j, job=j.replace_fields(queue_stage=stage, due=due))
    )


def claim(attempt: int = 1, worker: str = "w1", request_id: str = "r1") -> leases.Claim:
    """Return a worker's claim of an attempt."""
    return leases.Claim(
        attempt=attempt, worker=worker, request_id=request_id, engine_version="yt-dlp 1", lease=LEASE
    )


def request(number: int = 1, digest: bytes = b"d") -> IdempotencyKey:
    """Return the idempotency key of a CreateJob call."""
    return IdempotencyKey("acme", "CreateJob", f"request-{number}", digest, NOW)
