"""The migrations create the schema of this build, from every earlier one."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select
from tests.job_stores import NOW, job
from tests.postgresql import fresh_database

from reelhaul_jobs.model.lists import Order
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.jobs import Query
from reelhaul_jobs.store.access_tables import api_keys
from reelhaul_jobs.store.jobs import SqlJobStore
from reelhaul_jobs.store.tables import jobs
from reelhaul_runtime.sql import engines, migrations
from reelhaul_runtime.sql.database import Database


def differences(url: str) -> list[object]:
    migrations.migrate(url, "reelhaul_jobs")
    engine = engines.create_write_engine(url)
    with engine.connect() as connection:
        # That of the modules which are imported above.
        found = compare_metadata(MigrationContext.configure(connection), api_keys.metadata)
    engine.dispose()
    return found


def test_sqlite(tmp_path: Path) -> None:
    """A migrated SQLite file has the tables of this build."""
    assert differences(f"sqlite:///{tmp_path}/jobs.db") == []


def test_postgresql() -> None:
    """A migrated PostgreSQL database has the tables of this build."""
    with fresh_database() as url:
        assert differences(url) == []


@pytest.mark.parametrize("side", ["sqlite", "postgresql"])
async def test_newest_revision_and_back(tmp_path, side):
    """Jobs and their lists by end and by update are the same after a downgrade and an upgrade."""
    with fresh_database() if side == "postgresql" else nullcontext(f"sqlite:///{tmp_path}/jobs.db") as url:
        await asyncio.to_thread(migrate_to, url, "head")
        async with Database.open(url) as database:
            ended = [job(n, state=State.FAILED, end_time=NOW + timedelta(seconds=100 - n)) for n in range(9)]
            await SqlJobStore(database).add([*ended, job(9)])
        for older in ("0005", "0003"):
            await asyncio.to_thread(migrate_to, url, older)
            await asyncio.to_thread(migrate_to, url, "head")
            async with Database.open(url) as database:
                for order in (Order.UPDATED, Order.ENDED):
                    page = await SqlJobStore(database).list_page(Query(tenant="acme", limit=20, order=order))
                    assert list(page.jobs) == sorted([*ended, job(9)], key=order.sort_key, reverse=True)
        assert await asyncio.to_thread(differences, url) == []


async def test_sites_of_existing_jobs(tmp_path):
    """The revision that adds the site of jobs sets it for those that are there."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    urls = ["https://www.youtube.com/1", "https://youtu.be/1", "https://M.Videos.example:8443/1"]
    await asyncio.to_thread(migrate_to, url, "head")
    async with Database.open(url) as database:
        await SqlJobStore(database).add([job(n, url=job_url) for n, job_url in enumerate(urls)])
    for revision in ("0001", "head"):
        await asyncio.to_thread(migrate_to, url, revision)
    async with Database.open(url) as database:
        sites = await database.read(
            lambda connection: connection.scalars(select(jobs.c.site).order_by(jobs.c.id)).all()
        )
    assert sites == ["youtube.com", "youtube.com", "videos.example"]


def migrate_to(url: str, revision: str) -> None:
    """Upgrade or downgrade the database at *url* to *revision*."""
    engine = engines.create_write_engine(url)
    with engine.begin() as connection:
        config = migrations.alembic_config("reelhaul_jobs", connection)
        current = MigrationContext.configure(connection).get_current_revision()
        migrate = command.downgrade if current and revision < current else command.upgrade
        migrate(config, revision)
    engine.dispose()
