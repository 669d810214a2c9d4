"""Reads rows of jobs by their ids, with one statement for any number of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Connection, String, any_, bindparam, column, func, select

from reelhaul_jobs.store.rows import Row
from reelhaul_jobs.store.tables import jobs
from reelhaul_runtime.sql.statements import Statement

# The ids are bound as one value, so that the statement is the same for any number of them.
_IDS: Any = select(column("value")).select_from(func.json_each(bindparam("jobs")))
_ROWS = {
    "sqlite": select(jobs).where(jobs.c.id.in_(_IDS)),
    "postgresql": select(jobs).where(jobs.c.id == any_(bindparam("jobs", type_=ARRAY(String)))),
}
_READ = {dialect: Statement(rows) for dialect, rows in _ROWS.items()}
_READ_FOR_UPDATE = {
    "sqlite": _READ["sqlite"],
    # Locked in one order, so that two transactions over the same jobs do not deadlock.
    "postgresql": Statement(_ROWS["postgresql"].order_by(jobs.c.id).with_for_update()),
}


def read(connection: Connection, ids: Sequence[str]) -> Mapping[str, Row]:
    """Return the rows of those of the jobs that have one, deleted ones included, by id."""
    return _run(_READ, connection, ids) if ids else {}


def read_for_update(connection: Connection, ids: Sequence[str]) -> Mapping[str, Row]:
    """As ``read``, but lock the rows until the transaction ends."""
    return _run(_READ_FOR_UPDATE, connection, ids)


def _run(
    statements: Mapping[str, Statement], connection: Connection, ids: Sequence[str]
) -> Mapping[str, Row]:
    dialect = connection.dialect.name
    values = {"jobs": json.dumps(ids) if dialect == "sqlite" else list(ids)}
    return {row["id"]: row for row in statements[dialect].all(connection, values)}
