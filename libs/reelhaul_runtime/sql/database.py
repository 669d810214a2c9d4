"""Database: runs reads and writes, plain functions of a connection, off the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy import Connection, Engine, QueuePool, text

from reelhaul_runtime.batches import Batches
from reelhaul_runtime.errors import Unavailable
from reelhaul_runtime.metrics.collectors import collecting
from reelhaul_runtime.metrics.instruments import DATABASE_WAIT
from reelhaul_runtime.sql import engines, migrations
from reelhaul_runtime.sql.writer import BatchFunction, Writer

log = logging.getLogger(__name__)

T = TypeVar("T")


#: Runs the reads with these arguments as one batch; returns one result each, in order.
ReadFunction = Callable[[Connection, Sequence[Any]], Sequence[Any]]


_READERS = 4
# Few: scans of many rows must leave a processor to the others.
_SCANNERS = 2
_SCAN_SECONDS = 15.0
# Each takes all writes that wait: with more threads fewer writes share a commit.
_POSTGRESQL_WRITERS = 2


_READ_WAIT, _SCAN_WAIT = DATABASE_WAIT.labels("read"), DATABASE_WAIT.labels("scan")


class DatabaseFull(Unavailable):
    """The disk of the database is full: writes fail until it has space, reads still work."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"the disk of {name} is full")


class Database:
    """One SQLite file or one PostgreSQL database.

    An operation is a plain function of a Connection that is already in a transaction. All methods
    raise SERVICE_UNAVAILABLE while the database cannot serve.
    """

    def __init__(
        self,
        name: str,
        writer: Writer,
        read_engine: Engine,
        readers: ThreadPoolExecutor,
        scanners: ThreadPoolExecutor,
        log_file: str = "",
    ) -> None:
        """*log_file*: the write-ahead log of a SQLite file."""
        self._name, self._log_file = name, log_file
        self._writer = writer
        self._read_engine = read_engine
        self._readers = readers
        self._scanners = scanners
        self._batches = Batches()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, name: str = "database") -> AsyncIterator[Database]:
        """Open the database at *url* until the end of the block; errors call it *name*.

        Writes that were queued before the end are still committed.
        """
        threads = 1 if engines.is_sqlite(url) else _POSTGRESQL_WRITERS
        write_engine = engines.create_write_engine(url, connections=threads)
        read_engine = engines.create_read_engine(url, connections=_READERS + _SCANNERS)
        writer = Writer(write_engine, threads=threads)
        readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sql-reader")
        scanners = ThreadPoolExecutor(_SCANNERS, thread_name_prefix="sql-scanner")
        log_file = f"{engines.sqlite_path(url)}-wal" if engines.is_sqlite(url) else ""
        try:
            with collecting(name, partial(_read_connections, name, (write_engine, read_engine))):
                yield cls(name, writer, read_engine, readers, scanners, log_file)
        finally:
            await writer.close()
            for pool in (readers, scanners):
                await asyncio.to_thread(pool.shutdown)
            read_engine.dispose()
            write_engine.dispose()

    @property
    def commits(self) -> int:
        """Transactions committed so far."""
        return self._writer.commits

    @property
    def writes(self) -> int:
        """Writes that have ended so far."""
        return self._writer.ended

    @property
    def version(self) -> Hashable | None:
        """What is another value after each commit, of any process; None if only a read can tell.

        Two commits within a tick of the kernel's clock, some milliseconds, may have the same.
        """
        try:
            status = os.stat(self._log_file)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    async def wait_for_write(self, seen: int, seconds: float) -> None:
        """Return once more than *seen* writes have ended, at the latest after *seconds*."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._writer.wait_for_end(seen)

    async def write(self, op: Callable[[Connection], T]) -> T:
        """Run *op*; return its result once committed. If it raises, it alone is rolled back.

        Writes that wait at the same time share a commit. *op* may run again (after a failure of another
        write, or a serialization failure), so it must change nothing but rows.
        """
        try:
            return await self._writer.write(op)
        except Exception as error:
            self._raise_if_unavailable(error)
            raise

    async def write_batched(self, batch_function: BatchFunction, argument: Any) -> Any:
        """Like ``write``, with all writes that wait for *batch_function* in one call of it.

        So one statement can do for all what each would need its own statement for.
        """
        try:
            return await self._writer.write_batched(batch_function, argument)
        except Exception as error:
            self._raise_if_unavailable(error)
            raise

    async def read(self, op: Callable[[Connection], T]) -> T:
        """Run *op* on one snapshot that contains every acknowledged write; return its result."""
        try:
            queued = time.perf_counter()
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, op, queued)
        except Exception as error:
            self._raise_if_unavailable(error)
            raise

    async def read_batched(self, batch_function: ReadFunction, argument: Any) -> Any:
        """Like ``read``, with all reads that wait for *batch_function* in one call of it, on one snapshot.

        Reads that begin while a batch runs wait for the next: one thread and one transaction serve many.
        """

        async def run(arguments: Sequence[Any]) -> Sequence[Any]:
            return await self.read(lambda connection: batch_function(connection, arguments))

        return await self._batches.call(batch_function, argument, run)

    async def scan(self, op: Callable[[Connection], T], *, seconds: float = _SCAN_SECONDS) -> T:
        """Like ``read``, for queries over many rows: they delay other scans, but no reads.

        Raises REQUEST_TIMED_OUT after *seconds*.
        """

        queued = time.perf_counter()

        def limited() -> T:
            with (
                self._read_engine.begin() as connection,
                engines.limit_statement_time(seconds, connection),
            ):
                _SCAN_WAIT.observe(time.perf_counter() - queued)
                return op(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._scanners, limited)
        except Exception as error:
            self._raise_if_unavailable(error)
            raise

    async def scan_shared(self, key: Hashable, op: Callable[[Connection], T]) -> T:
        """Like ``scan``, with one run of *op* for all calls of *key* that wait at the same time.

        Calls that begin while one runs wait for the next. *op* is the same for all calls of *key*.
        """

        async def run(arguments: Sequence[None]) -> Sequence[T]:
            return [await self.scan(op)] * len(arguments)

        result: T = await self._batches.call(key, None, run)
        return result

    async def ping(self) -> None:
        """Return if the database answers."""
        await self.read(lambda connection: connection.execute(text("SELECT 1")).scalar())

    async def describe(self) -> str:
        """Return the kind, the version and the revision of the database."""
        return await self.read(migrations.describe)

    def _read(self, op: Callable[[Connection], T], queued: float) -> T:
        with self._read_engine.begin() as connection:
            _READ_WAIT.observe(time.perf_counter() - queued)
            return op(connection)

    def _raise_if_unavailable(self, error: Exception) -> None:
        if engines.is_full(error):
            log.error("the disk is full", extra={"database": self._name, "cause": repr(error)})
            raise DatabaseFull(self._name) from error
        if engines.is_unavailable(error):
            log.warning("database is unavailable", extra={"database": self._name, "cause": repr(error)})
            raise Unavailable(self._name, f"{self._name} does not answer") from error


async def _read_connections(name: str, pools_of: Sequence[Engine]) -> list[Metric]:
    """Return the metrics of the connections of the database *name*, which these engines have."""
    family = GaugeMetricFamily(
        "reelhaul_database_connections", "connections of the pools", labels=["database", "state"]
    )
    pools = [engine.pool for engine in pools_of if isinstance(engine.pool, QueuePool)]
    family.add_metric([name, "in_use"], sum(pool.checkedout() for pool in pools))
    family.add_metric([name, "idle"], sum(pool.checkedin() for pool in pools))
    family.add_metric([name, "max"], sum(pool.size() for pool in pools))
    return [family]
