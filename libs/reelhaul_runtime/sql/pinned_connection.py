"""A kept connection: transaction after transaction without a way to the pool and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy import Connection, Engine


class PinnedConnection:
    """A thread's connection, which it keeps while there is something to write.

    To take it from the pool for each transaction costs as much as a small write; and PostgreSQL
    would be asked each time whether it is still there.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction, committed at the end of the block."""
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            with self._connection.begin():
                yield self._connection
        except BaseException:
            # Whatever has become of it, the pool finds out.
            self.release()
            raise

    def release(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
