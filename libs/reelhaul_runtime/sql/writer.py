"""The writer: turns many small concurrent writes into few commits.

A commit costs an fsync, whether it carries one write or a hundred: so what waits while
one commit is under way goes into the next one together.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from reelhaul.backoff import Backoff
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sql import engines
from reelhaul_runtime.sql.pinned_connection import PinnedConnection
from reelhaul_runtime.sql.statements import run_text

T = TypeVar("T")

# One failing commit fails all in it: not too many eggs in a basket.
_BATCH = 128
_BACKLOG = 10_000
_TRIES = 6
# After so long without a write the connection may be gone: it is taken, and tried, anew.
_KEPT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a write: a value, or an error to be raised to who asked for it."""

    value: Any = None
    error: BaseException | None = None


#: Does what several have asked for in one go, and says what became of each, in their order. What it has
#: an error for, it has left alone; if it raises, each is done by itself.
BatchFunction = Callable[[Connection, Sequence[Any]], Sequence[Outcome]]


@dataclass(frozen=True, slots=True)
class QueuedWrite:
    op: Callable[[Connection], Any]
    answer: asyncio.Future[Any]
    #: Of a write that can be done with its like: how, and what *op* would do alone.
    together: BatchFunction | None = None
    what: Any = None


class Writer:
    """Runs write operations in threads of its own, grouped into transactions.

    One thread keeps the order of all writes; more let PostgreSQL work on several
    transactions at once.
    """

    def __init__(self, engine: Engine, *, threads: int = 1) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        # What one turn of the loop asks for is handed over at its end: the first would else go alone.
        self._gathering: list[QueuedWrite] = []
        self._waiting: SimpleQueue[list[QueuedWrite] | None] = SimpleQueue()
        self._unanswered = 0
        self._closed = False
        #: Transactions committed so far: the tests count how writes share them.
        self.commits = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"sql-writer-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def write(self, op: Callable[[Connection], T]) -> T:
        """What *op* returns, once its effects are committed; what it raises, once undone.

        *op* shares a transaction with its neighbours; it may be run again, where one of them
        fails or the database asks for that, so it must not change Python state.
        A caller cancelled while waiting cannot know whether *op* took effect.
        OVERLOADED when too many writes wait already.
        """
        value: T = await self._put(QueuedWrite(op, self._loop.create_future()))
        return value

    async def write_batched(self, together: BatchFunction, what: Any) -> Any:
        """As ``write``, of what *together* does with *what* and with others that ask for the same."""

        def alone(connection: Connection) -> Any:
            return _value_of(together(connection, [what])[0])

        return await self._put(QueuedWrite(alone, self._loop.create_future(), together, what))

    def _put(self, asked: QueuedWrite) -> asyncio.Future[Any]:
        if self._closed:
            raise RuntimeError("the writer is closed")
        if self._unanswered >= _BACKLOG:
            raise ReelhaulError(ErrorReason.OVERLOADED, "too many writes wait for the database")
        self._unanswered += 1
        if not self._gathering:
            self._loop.call_soon(self._hand_over)
        self._gathering.append(asked)
        return asked.answer

    def _hand_over(self) -> None:
        asked, self._gathering = self._gathering, []
        for start in range(0, len(asked), _BATCH):
            self._waiting.put(asked[start : start + _BATCH])

    async def close(self) -> None:
        """End after all that was asked is done."""
        self._closed = True
        self._hand_over()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        kept = PinnedConnection(self._engine)
        try:
            while (first := self._next(kept)) is not None:
                asked, ending = self._gathered(first)
                wanted = [each for each in asked if not each.answer.cancelled()]
                outcomes = self._commit(kept, wanted) if wanted else []
                # The loop may be gone while we are still committing its last words.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._settle, len(asked), wanted, outcomes)
                if ending:
                    return
        finally:
            kept.release()

    def _next(self, kept: PinnedConnection) -> list[QueuedWrite] | None:
        with contextlib.suppress(Empty):
            return self._waiting.get(timeout=_KEPT_SECONDS)
        kept.release()
        return self._waiting.get()

    def _gathered(self, first: list[QueuedWrite]) -> tuple[list[QueuedWrite], bool]:
        """What waits now, and whether the end was among it."""
        batch = list(first)
        with contextlib.suppress(Empty):
            while len(batch) < _BATCH:
                asked = self._waiting.get_nowait()
                if asked is None:
                    return batch, True
                batch += asked
        return batch, False

    def _settle(self, number: int, batch: list[QueuedWrite], outcomes: list[Outcome]) -> None:
        self._unanswered -= number
        for asked, outcome in zip(batch, outcomes, strict=True):
            if asked.answer.done():
                continue
            if outcome.error is not None:
                asked.answer.set_exception(outcome.error)
            else:
                asked.answer.set_result(outcome.value)

    def _commit(self, kept: PinnedConnection, batch: list[QueuedWrite]) -> list[Outcome]:
        try:
            return self._together(kept, batch)
        except BaseException as error:  # it belongs to the callers, who wait for it
            if not engines.is_serialization_failure(error):
                return [Outcome(error=error)] * len(batch)
        return [self._alone(kept, asked) for asked in batch]

    def _together(self, kept: PinnedConnection, batch: list[QueuedWrite]) -> list[Outcome]:
        if len(batch) == 1:
            return [Outcome(self._once(kept, batch[0]))]
        try:
            with kept.begin() as connection:
                outcomes = _all_done(connection, batch)
        except _OneFailedError:
            # It alone is to be undone, but savepoints cost too much to set them for those that succeed.
            with kept.begin() as connection:
                outcomes = [run_in_savepoint(connection, asked.op) for asked in batch]
        self.commits += 1
        return outcomes

    def _alone(self, kept: PinnedConnection, asked: QueuedWrite) -> Outcome:
        backoff = Backoff(first=0.01, jitter=1.0)
        for n in range(1, _TRIES + 1):
            try:
                return Outcome(self._once(kept, asked))
            except BaseException as error:  # as above
                if n == _TRIES or not engines.is_serialization_failure(error):
                    return Outcome(error=error)
            time.sleep(backoff.next_delay())
        raise AssertionError("unreachable")

    def _once(self, kept: PinnedConnection, asked: QueuedWrite) -> Any:
        with kept.begin() as connection:
            value = asked.op(connection)
        self.commits += 1
        return value


class _OneFailedError(Exception):
    """An operation raised: all that shared its transaction is undone, and done again."""


def _all_done(connection: Connection, batch: list[QueuedWrite]) -> list[Outcome]:
    """Do all of *batch*, those that can be done together in one go."""
    outcomes: dict[int, Outcome] = {}
    alike: dict[BatchFunction, list[int]] = {}
    for place, asked in enumerate(batch):
        if asked.together is not None:
            alike.setdefault(asked.together, []).append(place)
        else:
            outcomes[place] = Outcome(run_or_fall_back(asked.op, connection))
    for together, places in alike.items():
        told = run_or_fall_back(together, connection, [batch[place].what for place in places])
        outcomes.update(zip(places, told, strict=True))
    return [outcomes[place] for place in range(len(batch))]


def _value_of(outcome: Outcome) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def run_or_fall_back(op: Callable[..., T], *asked: Any) -> T:
    try:
        return op(*asked)
    except Exception as error:
        if engines.is_serialization_failure(error):
            raise
        raise _OneFailedError from error


def run_in_savepoint(connection: Connection, op: Callable[[Connection], Any]) -> Outcome:
    """What *op* came to. Raises only what has undone, or must undo, its neighbours as well."""
    # Not begin_nested(): it costs more than a small write itself.
    run_text(connection, "SAVEPOINT op")
    try:
        value = op(connection)
        run_text(connection, "RELEASE SAVEPOINT op")
    except Exception as error:
        if engines.is_serialization_failure(error):
            raise
        try:
            run_text(connection, "ROLLBACK TO SAVEPOINT op")
            run_text(connection, "RELEASE SAVEPOINT op")
        except Exception:
            # A full disk makes SQLite undo everything, savepoints included.
            raise error from None
        return Outcome(error=error)
    return Outcome(value)
