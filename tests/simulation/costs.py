"""What operations cost: CPU time of this process and of the database's server, and rows read."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil
from sqlalchemy import Connection, text
from tests.simulation.workload import START

from reelhaul_jobs.model.fair_scheduling import window_size
from reelhaul_jobs.ports.queue import BacklogQuery
from reelhaul_jobs.store import dispatch_queries
from reelhaul_runtime.sql.database import Database

_ROUNDS = 15
_INSTRUCTIONS = 100


@dataclass
class Cost:
    """CPU time of *count* operations of one kind."""

    count: int = 0
    #: Seconds of this process, and of the database's server if it has one.
    client: float = 0.0
    server: float = 0.0

    def __str__(self) -> str:
        client, server = (1000 * seconds / max(1, self.count) for seconds in (self.client, self.server))
        return f"{client:.2f} ms of CPU here, {server:.2f} ms in the server, {self.count:,} times"


class CpuMeter:
    """Sums up what kinds of operations cost."""

    def __init__(self, server: psutil.Process | None = None) -> None:
        """*server*: the first process of PostgreSQL."""
        self._server = server
        self.costs: dict[str, Cost] = defaultdict(Cost)

    @classmethod
    async def of(cls, database: Database) -> CpuMeter:
        """Return a meter of this process and the server of *database*."""
        pid = await database.read(_server_pid)
        return cls(psutil.Process(pid).parent() if pid else None)

    @contextmanager
    def measure(self, kind: str, count: int = 1) -> Iterator[None]:
        """Add what the block costs to *kind*, of which it does *count*."""
        client, server = time.process_time(), self._server_seconds()
        yield
        cost = self.costs[kind]
        cost.count += count
        cost.client += time.process_time() - client
        cost.server += self._server_seconds() - server

    def _server_seconds(self) -> float:
        children = self._server.children() if self._server else []
        return sum(sum(child.cpu_times()[:2]) for child in children)


def _server_pid(connection: Connection) -> int | None:
    if connection.dialect.name != "postgresql":
        return None
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@dataclass(frozen=True)
class ReadCost:
    """The cost of one read of the backlog."""

    milliseconds: float
    #: Of this process and, with PostgreSQL, of the server's.
    cpu_milliseconds: float
    #: What was read: index entries in PostgreSQL, instructions of SQLite's virtual machine.
    reads: int
    unit: str
    #: Jobs that the read returned.
    jobs: int


async def measure_read(database: Database, slots: int) -> ReadCost:
    """Measure reads of the backlog by a dispatcher whose window for *slots* is empty."""

    def op(connection: Connection) -> ReadCost:
        is_postgresql = connection.dialect.name == "postgresql"
        count, unit = (
            (_count_reads, "index entries") if is_postgresql else (_count_instructions, "instructions")
        )
        server = _server_pid(connection)
        times, jobs = [], _read(connection, slots)
        begin_cpu = _cpu_seconds(server)
        for _ in range(_ROUNDS):
            begin = time.perf_counter()
            jobs = _read(connection, slots)
            times.append((time.perf_counter() - begin) * 1000)
        cpu = (_cpu_seconds(server) - begin_cpu) / _ROUNDS * 1000
        return ReadCost(median(times), cpu, count(connection, slots), unit, jobs)

    return await database.read(op)


def _cpu_seconds(server: int | None) -> float:
    """Return the CPU time of this thread and of the process *server*."""
    other = sum(psutil.Process(server).cpu_times()[:2]) if server else 0.0
    return time.thread_time() + other


def _read(connection: Connection, slots: int) -> int:
    in_flight, _ = dispatch_queries.count_in_flight(connection)
    published = sum(in_flight.by_tenant.values())
    query = BacklogQuery(window=lambda _: published + window_size(slots, 0.0))
    backlog = dispatch_queries.get_backlog(connection, query, slots, START)
    return sum(len(jobs) for jobs in backlog.ready.values())


def _count_reads(connection: Connection, slots: int) -> int:
    before = _index_reads(connection)
    _read(connection, slots)
    return _index_reads(connection) - before


def _index_reads(connection: Connection) -> int:
    """Return the index entries that this transaction has read."""
    statement = (
        "SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index"
        " WHERE indrelid = 'jobs'::regclass"
    )
    return int(connection.execute(text(statement)).scalar_one() or 0)


def _count_instructions(connection: Connection, slots: int) -> int:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return 0

    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(count, _INSTRUCTIONS)
    try:
        _read(connection, slots)
    finally:
        driver.set_progress_handler(None, 0)
    return calls * _INSTRUCTIONS
