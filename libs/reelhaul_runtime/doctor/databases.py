"""Check of a database: that it can be opened, its version and revision, and its clock."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from reelhaul_runtime.doctor.check import Check, Finding, ok, problem, warning
from reelhaul_runtime.doctor.clock import check_clock
from reelhaul_runtime.sql import migrations

_TIMEOUT_SECONDS = 5
# The oldest version that its project still maintains is a good floor.
_MIN_POSTGRESQL = 13


def database_check(name: str, url: str, package: str, setting: str) -> Check:
    """Return the check *name* of the database at *url*, which has *package*'s schema."""
    check = _check_sqlite if url.startswith("sqlite") else _check_postgresql
    return Check(name, lambda: check(url, package, setting))


def _check_sqlite(url: str, package: str, setting: str) -> Iterator[Finding]:
    path = Path(url.partition("://")[2][1:].partition("?")[0])
    path = path if path.is_absolute() else Path.cwd() / path
    if not path.exists():
        yield ok(f"{path} does not exist yet: the service creates it")
        return
    # Without a log nobody has it open, and to open it otherwise would create one.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=2)) as connection:
            revision = _sqlite_revision(connection)
    except sqlite3.Error as error:
        yield problem(
            f"{path} cannot be opened: {error}", "restore it: docs/operations.md, Backup and restore"
        )
        return
    yield _compare_revisions(f"SQLite {sqlite3.sqlite_version}, {path}", revision, package)


def _sqlite_revision(connection: sqlite3.Connection) -> str | None:
    tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
    if tables.fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _check_postgresql(url: str, package: str, setting: str) -> Iterator[Finding]:
    import psycopg

    try:
        with psycopg.connect(
            url.replace("postgres://", "postgresql://", 1), connect_timeout=_TIMEOUT_SECONDS, autocommit=True
        ) as connection:
            connection.execute("SET default_transaction_read_only = on")
            start = datetime.now(UTC)
            row = connection.execute(
                "SELECT clock_timestamp(), current_setting('server_version'), to_regclass('alembic_version'),"
                " current_setting('max_connections')::int, (SELECT count(*) FROM pg_stat_activity)"
            ).fetchone()
            end = datetime.now(UTC)
            assert row is not None
            time, version, table, maximum, used = row
            found = (
                connection.execute("SELECT version_num FROM alembic_version").fetchone() if table else None
            )
    except psycopg.Error as error:
        yield problem(f"{setting}: {error}", "start the database, or correct the setting")
        return
    yield _compare_revisions(f"PostgreSQL {version}", found[0] if found else None, package)
    if int(str(version).partition(".")[0]) < _MIN_POSTGRESQL:
        yield warning(f"PostgreSQL {version} is no longer maintained", "upgrade it")
    if used > maximum * 0.9:
        yield warning(f"{used} of {maximum} connections are used", "raise max_connections")
    yield check_clock("the database", time, start, end)


def _compare_revisions(database: str, revision: str | None, package: str) -> Finding:
    """Return whether *revision* is this build's."""
    head = migrations.head(package)
    text = f"{database}, revision {revision or 'none'}"
    if revision is None or revision < head:
        return ok(f"{text}: the service migrates it to {head} when it starts", "back it up before an upgrade")
    if revision > head:
        return warning(f"{text} is newer than this build's {head}", "upgrade Reelhaul on this machine too")
    return ok(f"{text}, as this build needs")
