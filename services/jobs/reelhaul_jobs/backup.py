"""Backup of jobs: its database, and how the jobs of a restored one become ready to run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, case, delete, update

from reelhaul_jobs.model import leases
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.settings import Settings
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.jobs import SqlJobStore
from reelhaul_jobs.store.queue import SqlQueueStore
from reelhaul_jobs.store.tables import jobs, leaders, workers
from reelhaul_runtime.service import ServiceData
from reelhaul_runtime.sql.database import Database

_BATCH = 500
_FOREVER = timedelta(days=36500)


def utc_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(UTC)


def describe_data(data_dir: Path) -> ServiceData:
    """Return what jobs keeps with *data_dir*."""
    settings = Settings(data_dir=data_dir)
    url = settings.database_url
    return ServiceData(
        database_url=url,
        database_setting="REELHAUL_JOBS_DATABASE_URL",
        package="reelhaul_jobs",
        private={settings.seal_key_path.name: settings.seal_key_path},
        after_restore=lambda: asyncio.run(prepare_restored(url)),
    )


async def prepare_restored(url: str, now: Callable[[], datetime] = utc_now) -> None:
    """Requeue the jobs that ran when the backup was made, and fence their workers off.

    Those workers may still run, and the suite that was backed up may have granted more leases since: every
    job gets an epoch that no earlier lease of it can have.
    """
    async with Database.open(url, name="jobs.database") as database:
        store, queue = SqlJobStore(database), SqlQueueStore(database)
        while ids := await queue.list_due(QueueStage.LEASED, now() + _FOREVER, _BATCH):
            for job_id in ids:
                await store.change(job_id, lambda job: leases.revoke(job, now()))
        await database.write(lambda connection: _fence(connection, now()))


def _fence(connection: Connection, now: datetime) -> None:
    # Microseconds since 1970: a job is claimed less than once in a microsecond, so this exceeds the epochs
    # of the suite that was backed up, and of every earlier restoration of the same backup.
    epoch = rows.to_micros(now)
    raised = case((jobs.c.epoch >= epoch, jobs.c.epoch + 1), else_=epoch)
    connection.execute(update(jobs).values(epoch=raised))
    connection.execute(delete(workers))
    connection.execute(delete(leaders))
