"""Loads the backlog of a workload into the jobs table, without writing each row through the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Engine, insert, text
from tests.simulation.workload import Workload

from reelhaul_jobs.store.tables import jobs
from reelhaul_runtime.sql import engines

# A longer backlog is loaded without indexes, which are created afterwards.
_ROWS_WITH_INDEXES = 100_000
_COLUMNS = [column.name for column in jobs.c]


def load(url: str, workload: Workload) -> None:
    """Insert the backlog of *workload* into the database at *url*, which has the schema of this build."""
    engine = engines.create_write_engine(url)
    rebuild = workload.size.jobs > _ROWS_WITH_INDEXES
    try:
        if rebuild:
            _drop_indexes(engine)
        insert_rows = _copy if engine.dialect.name == "postgresql" else _insert
        for batch in workload.list_rows():
            with engine.begin() as connection:
                insert_rows(connection, batch)
        if rebuild:
            _create_indexes(engine)
        if engine.dialect.name == "postgresql":
            # Autovacuum would do this a little later.
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE jobs"))
    finally:
        engine.dispose()


def _insert(connection: Connection, batch: Sequence[Mapping[str, object]]) -> None:
    connection.execute(insert(jobs), batch)


def _copy(connection: Connection, batch: Sequence[Mapping[str, object]]) -> None:
    cursor = connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
    constants = {name: _to_text(value) for name, value in batch[0].items()}
    with cursor.copy(f"COPY jobs ({', '.join(_COLUMNS)}) FROM STDIN") as copy:
        copy.write(
            "".join(
                "\t".join(constants[name] if name in _CONSTANT else str(row[name]) for name in _COLUMNS)
                + "\n"
                for row in batch
            )
        )


# What Workload.list_rows gives each row of its own.
_VARYING = {"id", "tenant", "site", "url", "priority", "create_time", "update_time", "due"}
_CONSTANT = set(_COLUMNS) - _VARYING


def _to_text(value: object) -> str:
    """Return *value* in the text format of COPY."""
    if value is None:
        return "\\N"
    return f"\\\\x{value.hex()}" if isinstance(value, bytes) else str(value)


def _drop_indexes(engine: Engine) -> None:
    for index in jobs.indexes:
        index.drop(engine)


def _create_indexes(engine: Engine) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
        for index in jobs.indexes:
            index.create(connection)
