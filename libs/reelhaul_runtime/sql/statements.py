"""Statements of hot paths: written in SQLAlchemy, compiled once, executed on the driver itself.

SQLAlchemy's execution of a statement costs several times what the database takes for one row by its
key, which counts for what runs a thousand times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

#: Values by name, as for Connection.execute.
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _CompiledStatement:
    """A statement compiled for one dialect and one set of names."""

    sql: str
    #: Converts values by name to the parameters of the driver.
    bind: Callable[[Values], Any]


class Statement:
    """A statement compiled once, for values that need no conversion: text, integers, bytes, None.

    Every method raises as Connection.execute does. Lists of values for IN are not supported.
    """

    def __init__(self, core: ClauseElement) -> None:
        self._core = core
        self._compiled: dict[tuple[str, ...], _CompiledStatement] = {}

    def run(self, connection: Connection, values: Values) -> int:
        """Execute the statement; return the number of affected rows."""
        cursor = self._execute(connection, values)
        row_count: int = cursor.rowcount
        cursor.close()
        return row_count

    def run_many(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Execute the statement once for each of *rows*, which all have the same names."""
        if len(rows) == 1:
            self.run(connection, rows[0])
        elif rows:
            compiled = self._compile(connection, rows[0])
            with _DriverCursor(connection, compiled.sql) as cursor:
                cursor.executemany(compiled.sql, [compiled.bind(values) for values in rows])
                cursor.close()

    def first(self, connection: Connection, values: Values) -> dict[str, Any] | None:
        """Return the first row by column name, or None."""
        cursor = self._execute(connection, values)
        row, columns = cursor.fetchone(), cursor.description
        cursor.close()
        return None if row is None else {column[0]: value for column, value in zip(columns, row, strict=True)}

    def all(self, connection: Connection, values: Values) -> list[dict[str, Any]]:
        """Return all rows by column name."""
        return _read_rows(self._execute(connection, values))

    def all_of_each(self, connection: Connection, values: Sequence[Values]) -> list[list[dict[str, Any]]]:
        """Return all rows for each of *values*, which have the same names, in one round trip if possible."""
        if connection.dialect.name != "postgresql" or not values:
            return [self.all(connection, each) for each in values]
        compiled = self._compile(connection, values[0])
        driver: Any = connection.connection.driver_connection
        with _DriverCursor(connection, compiled.sql), driver.pipeline():
            cursors = [driver.execute(compiled.sql, compiled.bind(each)) for each in values]
            return [_read_rows(cursor) for cursor in cursors]

    def column(self, connection: Connection, values: Values) -> list[Any]:
        """Return the first column of all rows."""
        cursor = self._execute(connection, values)
        column = [row[0] for row in cursor.fetchall()]
        cursor.close()
        return column

    def _execute(self, connection: Connection, values: Values) -> Any:
        compiled = self._compile(connection, values)
        with _DriverCursor(connection, compiled.sql) as cursor:
            cursor.execute(compiled.sql, compiled.bind(values))
            return cursor

    def _compile(self, connection: Connection, values: Values) -> _CompiledStatement:
        key = (connection.dialect.name, *values)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = _compile(self._core, connection, list(values))
        return compiled


def _read_rows(cursor: Any) -> list[dict[str, Any]]:
    """Return all rows of *cursor* by column name, and close it."""
    fetched = cursor.fetchall()
    names = [column[0] for column in cursor.description]
    cursor.close()
    return [dict(zip(names, row, strict=True)) for row in fetched]


def execute_text(connection: Connection, sql: str) -> None:
    """Execute *sql*, which takes no values and returns no rows, on the driver itself."""
    with _DriverCursor(connection, sql) as cursor:
        cursor.execute(sql)
        cursor.close()


class _DriverCursor:
    """A cursor of the driver within the block; its errors leave the block as SQLAlchemy's."""

    __slots__ = ("_connection", "_driver", "_sql")

    def __init__(self, connection: Connection, sql: str) -> None:
        self._connection, self._sql = connection, sql
        self._driver: Any = connection.connection.driver_connection

    def __enter__(self) -> Any:
        return self._driver.cursor()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        dialect = self._connection.dialect
        assert dialect.loaded_dbapi is not None
        if not isinstance(error, dialect.loaded_dbapi.Error):
            return
        if dialect.is_disconnect(error, self._driver, None):
            self._connection.invalidate(error)
        raise DBAPIError.instance(
            self._sql, None, error, dialect.loaded_dbapi.Error, hide_parameters=True, dialect=dialect
        ) from error


def _compile(core: ClauseElement, connection: Connection, names: list[str]) -> _CompiledStatement:
    """Compile *core* for values called *names*. Raises KeyError if some are missing or unknown."""
    compiled = core.compile(dialect=connection.dialect, column_keys=names)
    assert isinstance(compiled, SQLCompiler)
    assert not compiled.post_compile_params, "it takes a list, whose length is part of its text"
    constants = {name: value for name, value in compiled.params.items() if name not in names}
    missing = [bind.key for bind in compiled.binds.values() if bind.required and bind.key not in names]
    if missing or (unknown := set(names) - set(compiled.params)):
        problem = f"misses {missing}" if missing else f"has no {sorted(unknown)}"
        raise KeyError(f"{compiled}: {problem}")
    if not compiled.positional:
        return _CompiledStatement(
            compiled.string, (lambda values: {**constants, **values}) if constants else dict
        )
    assert compiled.positiontup is not None
    return _CompiledStatement(compiled.string, _bind_by_position(compiled.positiontup, constants))


def _bind_by_position(order: Sequence[str], constants: Values) -> Callable[[Values], Any]:
    if len(order) == 1:
        return lambda values: ({**constants, **values}[order[0]],)
    pick = itemgetter(*order) if order else lambda values: ()
    return (lambda values: pick({**constants, **values})) if constants else pick
