"""Engines: SQLite and PostgreSQL, configured so that committed transactions survive a power loss.

URLs are ``sqlite:///relative.db``, ``sqlite:////absolute.db`` and ``postgresql://…``. The last may name
several servers, of which ``target_session_attrs=read-write`` finds the primary.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.private_files import make_database_private

_BUSY_SECONDS = 30

# Parameters of libpq, unless the URL has others: how fast a server that is silent is noticed, while data is
# sent and while an answer is awaited. https://www.postgresql.org/docs/current/libpq-connect.html
_LIBPQ_PARAMETERS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
# The same for the server: until it notices that a client has vanished, it keeps the locks of its transaction.
_SESSION_SETTINGS = (
    "SET idle_in_transaction_session_timeout = '30s'; SET tcp_user_timeout = '10s';"
    " SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2"
)

_PRAGMAS = (
    "journal_mode = WAL",
    # With NORMAL a power loss may undo the last commits.
    "synchronous = FULL",
    "foreign_keys = ON",
    # Temporary tables of savepoints and sorts need no file.
    "temp_store = MEMORY",
    # In kibibytes for each connection; the default of two thousand is too small.
    "cache_size = -16384",
    # In pages: 16 MiB of log between two checkpoints, each of which syncs twice.
    "wal_autocheckpoint = 4096",
)

# Not "no such table" and the like: those are bugs, though SQLite reports them as operational errors too.
_SQLITE_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SERIALIZATION_FAILURES = {"40001", "40P01"}
_QUERY_CANCELED = "57014"
_DISK_FULL = "53100"

# SQLite virtual machine instructions between two looks at the clock: about a millisecond.
_PROGRESS_STEPS = 10_000


def is_sqlite(url: str) -> bool:
    """Return whether *url* names a SQLite file, which one process writes at a time."""
    return url.startswith("sqlite:")


def sqlite_path(url: str) -> Path:
    """Return the file that *url*, for which ``is_sqlite`` holds, names."""
    return _path(make_url(url))


def create_write_engine(url: str, *, connections: int = 1) -> Engine:
    """Return an engine for transactions that write, with at most *connections* connections.

    Creates the folder of a SQLite file if it is missing. Raises ValueError for other databases.
    """
    if is_sqlite(url):
        parsed = _parse_sqlite(url)
        path = _path(parsed)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_database_private(path)
        return _create_sqlite(parsed, connections, begin="BEGIN IMMEDIATE", read_only=False)
    return _create_postgresql(url, connections)


def create_read_engine(url: str, *, connections: int) -> Engine:
    """Return an engine that cannot write; each of its transactions sees one snapshot."""
    if is_sqlite(url):
        return _create_sqlite(_parse_sqlite(url), connections, begin="BEGIN", read_only=True)
    engine = _create_postgresql(url, connections, isolation_level="REPEATABLE READ")

    def forbid_writes(connection: Any, _record: object) -> None:
        connection.read_only = True

    event.listen(engine, "connect", forbid_writes)
    return engine


@contextmanager
def limit_statement_time(seconds: float, connection: Connection) -> Iterator[None]:
    """Cancel a statement of the block that still runs after *seconds*. Raises REQUEST_TIMED_OUT."""
    try:
        with _statement_timeout(seconds, connection):
            yield
    except OperationalError as error:
        if not _is_interrupted(error):
            raise
        text = f"the query takes more than {seconds:g} s: narrow it"
        raise ReelhaulError(ErrorReason.REQUEST_TIMED_OUT, text) from error


def is_unavailable(error: BaseException) -> bool:
    """Return whether *error* means that the database cannot serve now, and may later."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", None)
        # The low byte is the primary result code: https://www.sqlite.org/rescode.html
        return code is not None and code & 0xFF in _SQLITE_UNAVAILABLE
    return True


def is_full(error: BaseException) -> bool:
    """Return whether *error* means that the disk of the database is full."""
    if not isinstance(error, OperationalError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return getattr(error.orig, "sqlstate", None) == _DISK_FULL


def is_serialization_failure(error: BaseException) -> bool:
    """Return whether PostgreSQL rolled the transaction back because of another one: run it again."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _SERIALIZATION_FAILURES


@contextmanager
def _statement_timeout(seconds: float, connection: Connection) -> Iterator[None]:
    if connection.dialect.name == "postgresql":
        # For this transaction only, and for each statement in it.
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {round(seconds * 1000)}")
        yield
        return
    driver: Any = connection.connection.driver_connection
    deadline = time.monotonic() + seconds
    driver.set_progress_handler(lambda: time.monotonic() > deadline, _PROGRESS_STEPS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


def _is_interrupted(error: OperationalError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
    return getattr(error.orig, "sqlstate", None) == _QUERY_CANCELED


def _parse_sqlite(url: str) -> URL:
    parsed = make_url(url)
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise ValueError(f"{parsed.render_as_string()} is neither sqlite:///FILE nor postgresql://…")


def _path(url: URL) -> Path:
    assert url.database
    return Path(url.database)


def _create_sqlite(url: URL, connections: int, *, begin: str, read_only: bool) -> Engine:
    engine = create_engine(
        url, pool_size=connections, max_overflow=0, connect_args={"timeout": _BUSY_SECONDS}
    )
    event.listen(engine, "connect", _configure_sqlite(read_only))

    # The driver begins lazily and deferred: then a read that turns into a write fails at once with
    # SQLITE_BUSY, whatever the timeout.
    def begin_now(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "begin", begin_now)
    return engine


def _configure_sqlite(read_only: bool) -> Callable[[Any, object], None]:
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    return on_connect


def _create_postgresql(url: str, connections: int, **options: Any) -> Engine:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    scheme = url.partition("://")[0]
    try:
        # SQLAlchemy's own parser knows one host only.
        parameters = conninfo_to_dict(url) if scheme in ("postgresql", "postgres") else None
    except ProgrammingError:
        parameters = None
    if parameters is None:
        # Without the text of the error, which has the password.
        raise ValueError(f"{scheme}://… is neither sqlite:///FILE nor a valid postgresql://…")
    engine = create_engine(
        "postgresql+psycopg://",
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"prepare_threshold": 2} | _LIBPQ_PARAMETERS | parameters,
        **options,
    )

    def set_up(connection: Any, _record: object) -> None:
        connection.execute(_SESSION_SETTINGS)
        connection.commit()

    event.listen(engine, "connect", set_up)
    return engine
