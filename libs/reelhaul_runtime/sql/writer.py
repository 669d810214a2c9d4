"""Writer: groups concurrent writes into few transactions (group commit).

A commit costs one fsync, for one write or for a hundred: writes that wait while a commit is under way
share the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from reelhaul.backoff import Backoff
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.metrics.instruments import DATABASE_WAIT
from reelhaul_runtime.sql import engines
from reelhaul_runtime.sql.statements import execute_text

log = logging.getLogger(__name__)

T = TypeVar("T")

# A commit that fails, fails every write in it: so not too many.
_BATCH_SIZE = 128
_MAX_WAITING = 10_000
_MAX_TRIES = 6
# Key of the actions in Connection.info.
_AFTER_COMMIT = "after_commit"


_WRITE_WAIT = DATABASE_WAIT.labels("write")


def after_commit(connection: Connection, action: Callable[[], object]) -> None:
    """Call *action* once the write that *connection* runs is committed; not if it is rolled back.

    It runs in a thread of the writer, before the write returns to its caller, and must not block.
    """
    connection.info[_AFTER_COMMIT].append(action)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one write: a value, or an error to raise to its caller."""

    value: Any = None
    error: BaseException | None = None


#: Runs the writes with these arguments as one batch; returns one outcome each, in order. A write that gets an
#: error must have changed nothing; if the function raises, each write is run alone.
BatchFunction = Callable[[Connection, Sequence[Any]], Sequence[Outcome]]


@dataclass(frozen=True, slots=True)
class QueuedWrite:
    op: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    #: Of a write that can run in a batch with its like: the batch's function and this write's argument,
    #: which together do what *op* does alone.
    batch_function: BatchFunction | None = None
    argument: Any = None
    queued: float = field(default_factory=time.perf_counter)


class Writer:
    """Runs writes in threads of its own, grouped into transactions.

    One thread keeps the order of all writes; several let PostgreSQL work on as many transactions
    at once.
    """

    def __init__(self, engine: Engine, *, threads: int = 1) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        # Writes of one iteration of the event loop are queued at its end; the first would go alone otherwise.
        self._collected: list[QueuedWrite] = []
        self._queue: SimpleQueue[list[QueuedWrite] | None] = SimpleQueue()
        self._waiting = 0
        self._closed = False
        #: Transactions committed so far; tests count how writes share them.
        self.commits = 0
        #: Writes that have ended, also those that failed.
        self.ended = 0
        self._has_ended = asyncio.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"sql-writer-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def write(self, op: Callable[[Connection], T]) -> T:
        """Run *op* in a transaction; return its result once committed, raise its error once rolled back.

        *op* shares the transaction with other writes and may run again, if one of them fails or the
        database asks for it, so it must not change Python state. A caller that is cancelled while it
        waits cannot know whether *op* took effect. Raises OVERLOADED if too many writes wait already.
        """
        value: T = await self._enqueue(QueuedWrite(op, self._loop.create_future()))
        return value

    async def write_batched(self, batch_function: BatchFunction, argument: Any) -> Any:
        """Like ``write``, but in one call of *batch_function* with other writes that wait for it."""

        def alone(connection: Connection) -> Any:
            return _unwrap(batch_function(connection, [argument])[0])

        return await self._enqueue(QueuedWrite(alone, self._loop.create_future(), batch_function, argument))

    async def wait_for_end(self, seen: int) -> None:
        """Return once more than *seen* writes have ended."""
        while self.ended <= seen:
            self._has_ended.clear()
            await self._has_ended.wait()

    def _enqueue(self, write: QueuedWrite) -> asyncio.Future[Any]:
        if self._closed:
            raise RuntimeError("the writer is closed")
        if self._waiting >= _MAX_WAITING:
            raise ReelhaulError(ErrorReason.OVERLOADED, "too many writes wait for the database")
        self._waiting += 1
        if not self._collected:
            self._loop.call_soon(self._queue_collected)
        self._collected.append(write)
        return write.future

    def _queue_collected(self) -> None:
        writes, self._collected = self._collected, []
        for start in range(0, len(writes), _BATCH_SIZE):
            self._queue.put(writes[start : start + _BATCH_SIZE])

    async def close(self) -> None:
        """Finish all queued writes and end the threads."""
        self._closed = True
        self._queue_collected()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, closing = self._take_batch(first)
            # The longest of the batch: observing each one costs more than it is worth.
            _WRITE_WAIT.observe(time.perf_counter() - batch[0].queued)
            wanted = [write for write in batch if not write.future.cancelled()]
            outcomes = self._commit(wanted) if wanted else []
            # The loop may be closed before the last commit ends.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._resolve, len(batch), wanted, outcomes)
            if closing:
                return

    def _take_batch(self, first: list[QueuedWrite]) -> tuple[list[QueuedWrite], bool]:
        """Return *first* and what else is queued now, and whether the writer closes after it."""
        batch = list(first)
        with contextlib.suppress(Empty):
            while len(batch) < _BATCH_SIZE:
                writes = self._queue.get_nowait()
                if writes is None:
                    return batch, True
                batch += writes
        return batch, False

    def _resolve(self, number: int, batch: list[QueuedWrite], outcomes: list[Outcome]) -> None:
        """Set the futures of *batch*, in the event loop; *number* counts cancelled writes too."""
        self._waiting -= number
        self.ended += number
        self._has_ended.set()
        for write, outcome in zip(batch, outcomes, strict=True):
            if write.future.done():
                continue
            if outcome.error is not None:
                write.future.set_exception(outcome.error)
            else:
                write.future.set_result(outcome.value)

    def _commit(self, batch: list[QueuedWrite]) -> list[Outcome]:
        try:
            return self._commit_together(batch)
        except BaseException as error:  # the callers, who wait for it, get it
            if not engines.is_serialization_failure(error):
                return [Outcome(error=error)] * len(batch)
        return [self._commit_alone(write) for write in batch]

    def _commit_together(self, batch: list[QueuedWrite]) -> list[Outcome]:
        if len(batch) == 1:
            return [Outcome(self._commit_one(batch[0]))]
        try:
            with self._transaction() as transaction:
                return _run_batch(transaction, batch)
        except _WriteFailedError:
            # Only the failed write may be rolled back; savepoints for all cost too much unless one fails.
            with self._transaction() as transaction:
                return [run_in_savepoint(transaction, write.op) for write in batch]

    def _commit_alone(self, write: QueuedWrite) -> Outcome:
        backoff = Backoff(first=0.01, jitter=1.0)
        for n in range(1, _MAX_TRIES + 1):
            try:
                return Outcome(self._commit_one(write))
            except BaseException as error:  # as above
                if n == _MAX_TRIES or not engines.is_serialization_failure(error):
                    return Outcome(error=error)
            time.sleep(backoff.next_delay())
        raise AssertionError("unreachable")

    def _commit_one(self, write: QueuedWrite) -> Any:
        with self._transaction() as transaction:
            return write.op(transaction)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Commit what the block writes, then do what it left to ``after_commit``."""
        actions: list[Callable[[], object]] = []
        with self._engine.begin() as connection:
            connection.info[_AFTER_COMMIT] = actions
            yield connection
        self.commits += 1
        for action in actions:
            try:
                action()
            except Exception:
                # The write is committed: its caller must not get an error.
                log.exception("an action after a commit failed")


class _WriteFailedError(Exception):
    """A write raised: all writes of its transaction are rolled back and run again."""


def _run_batch(connection: Connection, batch: list[QueuedWrite]) -> list[Outcome]:
    """Run all of *batch*, with one call for all writes of the same batch function."""
    outcomes: dict[int, Outcome] = {}
    by_function: dict[BatchFunction, list[int]] = {}
    for index, write in enumerate(batch):
        if write.batch_function is not None:
            by_function.setdefault(write.batch_function, []).append(index)
        else:
            outcomes[index] = Outcome(run_or_fall_back(write.op, connection))
    for function, indexes in by_function.items():
        results = run_or_fall_back(function, connection, [batch[index].argument for index in indexes])
        outcomes.update(zip(indexes, results, strict=True))
    return [outcomes[index] for index in range(len(batch))]


def _unwrap(outcome: Outcome) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def run_or_fall_back(function: Callable[..., T], *arguments: Any) -> T:
    """Return what *function* returns; raise _WriteFailedError for errors of the write itself."""
    try:
        return function(*arguments)
    except Exception as error:
        if engines.is_serialization_failure(error):
            raise
        raise _WriteFailedError from error


def run_in_savepoint(connection: Connection, op: Callable[[Connection], Any]) -> Outcome:
    """Run *op*; roll back to before it if it raises. Raises only what ends the whole transaction."""
    actions = connection.info[_AFTER_COMMIT]
    count = len(actions)
    # Not begin_nested(): it costs more than a small write.
    execute_text(connection, "SAVEPOINT op")
    try:
        value = op(connection)
        execute_text(connection, "RELEASE SAVEPOINT op")
    except Exception as error:
        if engines.is_serialization_failure(error):
            raise
        try:
            execute_text(connection, "ROLLBACK TO SAVEPOINT op")
            execute_text(connection, "RELEASE SAVEPOINT op")
        except Exception:
            # When the disk is full, SQLite rolls back everything, savepoints included.
            raise error from None
        del actions[count:]
        return Outcome(error=error)
    return Outcome(value)
