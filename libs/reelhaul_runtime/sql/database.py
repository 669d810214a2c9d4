"""A database: reads and writes of plain functions over a connection, off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text

from reelhaul_runtime.errors import Unavailable
from reelhaul_runtime.sql import engines
from reelhaul_runtime.sql.writer import BatchFunction, Writer

log = logging.getLogger(__name__)

T = TypeVar("T")

_READERS = 4
# Few: what looks at many rows must leave a processor to the others.
_SCANNERS = 2
_SCAN_SECONDS = 15.0
# Each takes all that waits: with more of them there is less to share a commit with.
_POSTGRESQL_WRITERS = 2


class Database:
    """One SQLite file or one PostgreSQL database.

    An operation is a plain function of a Connection that is inside a transaction
    already. Both methods raise SERVICE_UNAVAILABLE while the database cannot serve.
    """

    def __init__(
        self,
        name: str,
        writer: Writer,
        reading: Engine,
        readers: ThreadPoolExecutor,
        scanners: ThreadPoolExecutor,
    ) -> None:
        self._name = name
        self._writer = writer
        self._reading = reading
        self._readers = readers
        self._scanners = scanners

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, name: str = "database") -> AsyncIterator[Database]:
        """The database at *url*, called *name* in failures, until the block ends.

        What was asked before the end is still committed.
        """
        threads = 1 if engines.is_sqlite(url) else _POSTGRESQL_WRITERS
        writing = engines.create_write_engine(url, connections=threads)
        reading = engines.create_read_engine(url, connections=_READERS + _SCANNERS)
        writer = Writer(writing, threads=threads)
        readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sql-reader")
        scanners = ThreadPoolExecutor(_SCANNERS, thread_name_prefix="sql-scanner")
        try:
            yield cls(name, writer, reading, readers, scanners)
        finally:
            await writer.close()
            for pool in (readers, scanners):
                await asyncio.to_thread(pool.shutdown)
            reading.dispose()
            writing.dispose()

    @property
    def commits(self) -> int:
        """Transactions committed so far."""
        return self._writer.commits

    async def write(self, op: Callable[[Connection], T]) -> T:
        """What *op* returns, once it is committed; if it raises, it alone is undone.

        Writes that wait together share a commit. *op* may run again (a neighbour failed, or
        a serialization failure), so it must change nothing but rows.
        """
        try:
            return await self._writer.write(op)
        except Exception as error:
            self._check_away(error)
            raise

    async def write_batched(self, together: BatchFunction, what: Any) -> Any:
        """What *together* says of *what*, committed, as ``write``: those that ask for the same at the
        same time are done in one go, with a statement for all of them where one alone would need its own.
        """
        try:
            return await self._writer.write_batched(together, what)
        except Exception as error:
            self._check_away(error)
            raise

    async def read(self, op: Callable[[Connection], T]) -> T:
        """What *op* returns; it sees one snapshot, in which every answered write is."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._snapshot, op)
        except Exception as error:
            self._check_away(error)
            raise

    async def scan(self, op: Callable[[Connection], T], *, seconds: float = _SCAN_SECONDS) -> T:
        """As ``read``, for what may look at many rows: it holds up no read, but its like.

        REQUEST_TIMED_OUT for what takes longer than *seconds*.
        """

        def bounded() -> T:
            with self._reading.begin() as connection, engines.limit_statement_time(seconds, connection):
                return op(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._scanners, bounded)
        except Exception as error:
            self._check_away(error)
            raise

    async def ping(self) -> None:
        """Return if the database answers."""
        await self.read(lambda connection: connection.execute(text("SELECT 1")).scalar())

    def _snapshot(self, op: Callable[[Connection], T]) -> T:
        with self._reading.begin() as connection:
            return op(connection)

    def _check_away(self, error: Exception) -> None:
        """Raise SERVICE_UNAVAILABLE where *error* says that the database cannot serve now."""
        if engines.is_unavailable(error):
            log.warning("database is away", extra={"database": self._name, "cause": repr(error)})
            raise Unavailable(self._name, f"{self._name} does not answer") from error
