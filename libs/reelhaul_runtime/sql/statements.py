"""Statements that run hot: written in SQLAlchemy, compiled once, and run on the driver itself.

SQLAlchemy's way from a statement to the driver costs several times what the database takes
for one row by its key. Whoever runs it a thousand times a second takes this way instead.
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
class _Compiled:
    """A statement in one dialect, for one set of names."""

    sql: str
    #: What the driver takes, of all values.
    bound: Callable[[Values], Any]


class Statement:
    """A statement made once, of values that need no conversion: text, whole numbers, bytes, None.

    Every method raises as Connection.execute does. Lists of values for IN are beyond it.
    """

    def __init__(self, core: ClauseElement) -> None:
        self._core = core
        self._compiled: dict[tuple[str, ...], _Compiled] = {}

    def run(self, connection: Connection, values: Values) -> int:
        """The number of rows that it touched."""
        cursor = self._executed(connection, values)
        touched: int = cursor.rowcount
        cursor.close()
        return touched

    def run_many(self, connection: Connection, each: Sequence[Values]) -> None:
        """Run once with each; all have the same names."""
        if len(each) == 1:
            self.run(connection, each[0])
        elif each:
            compiled = self._for(connection, each[0])
            with _Driver(connection, compiled.sql) as cursor:
                cursor.executemany(compiled.sql, [compiled.bound(values) for values in each])
                cursor.close()

    def first(self, connection: Connection, values: Values) -> dict[str, Any] | None:
        """The first row by column name, or None."""
        cursor = self._executed(connection, values)
        row, names = cursor.fetchone(), cursor.description
        cursor.close()
        return None if row is None else {name[0]: value for name, value in zip(names, row, strict=True)}

    def all(self, connection: Connection, values: Values) -> list[dict[str, Any]]:
        """All rows by column name."""
        cursor = self._executed(connection, values)
        names = [name[0] for name in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        cursor.close()
        return found

    def column(self, connection: Connection, values: Values) -> list[Any]:
        """The first column of all rows."""
        cursor = self._executed(connection, values)
        found = [row[0] for row in cursor.fetchall()]
        cursor.close()
        return found

    def _executed(self, connection: Connection, values: Values) -> Any:
        compiled = self._for(connection, values)
        with _Driver(connection, compiled.sql) as cursor:
            cursor.execute(compiled.sql, compiled.bound(values))
            return cursor

    def _for(self, connection: Connection, values: Values) -> _Compiled:
        key = (connection.dialect.name, *values)
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = _compiled(self._core, connection, list(values))
        return found


def run_text(connection: Connection, sql: str) -> None:
    """Run *sql*, which takes no values and gives no rows, on the driver itself."""
    with _Driver(connection, sql) as cursor:
        cursor.execute(sql)
        cursor.close()


class _Driver:
    """A cursor of the driver; what the driver raises leaves the block as SQLAlchemy's."""

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


def _compiled(core: ClauseElement, connection: Connection, names: list[str]) -> _Compiled:
    made = core.compile(dialect=connection.dialect, column_keys=names)
    assert isinstance(made, SQLCompiler)
    assert not made.post_compile_params, "it takes a list, whose length is in its text"
    fixed = {name: value for name, value in made.params.items() if name not in names}
    missing = [bind.key for bind in made.binds.values() if bind.required and bind.key not in names]
    if missing or (unknown := set(names) - set(made.params)):
        raise KeyError(f"{made}: misses {missing}, knows no {sorted(unknown) if not missing else ''}")
    if not made.positional:
        return _Compiled(made.string, (lambda values: {**fixed, **values}) if fixed else dict)
    assert made.positiontup is not None
    return _Compiled(made.string, _positions(made.positiontup, fixed))


def _positions(order: Sequence[str], fixed: Values) -> Callable[[Values], Any]:
    if len(order) == 1:
        return lambda values: ({**fixed, **values}[order[0]],)
    pick = itemgetter(*order) if order else lambda values: ()
    return (lambda values: pick({**fixed, **values})) if fixed else pick
