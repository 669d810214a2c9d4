"""The migrations make what the tables say."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from tests.postgresql import fresh_database

from reelhaul_jobs.tables import metadata
from reelhaul_runtime.sql import engines, migrations


def differences(url: str) -> list[object]:
    migrations.migrate(url, "reelhaul_jobs")
    engine = engines.writing(url)
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    return found


def test_sqlite(tmp_path: Path) -> None:
    """A migrated SQLite file has the tables of this build."""
    assert differences(f"sqlite:///{tmp_path}/jobs.db") == []


def test_postgresql() -> None:
    """A migrated PostgreSQL database has the tables of this build."""
    with fresh_database() as url:
        assert differences(url) == []
