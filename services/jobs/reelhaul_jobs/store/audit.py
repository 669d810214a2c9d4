"""The AuditStore in SQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.rpc import status_pb2
from sqlalchemy import ColumnElement, bindparam, delete, select, tuple_

from reelhaul.admin.v1.audit_entry_pb2 import AuditEntry
from reelhaul_jobs.ports.audit import AuditQuery
from reelhaul_jobs.store.access_tables import audit_entries
from reelhaul_jobs.store.idempotency import insert_or_ignore
from reelhaul_jobs.store.rows import Row, from_micros, to_micros
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.filter_conditions import ToColumn, condition

_COLLECTION = "auditEntries/"
_ENTRY = select(audit_entries).where(audit_entries.c.id == bindparam("of_id"))
_OLD = (
    select(audit_entries.c.id)
    .where(audit_entries.c.create_time < bindparam("before"))
    .order_by(audit_entries.c.create_time)
    .limit(bindparam("most"))
)
# Columns are as wide as these; what is longer, e.g. a name that a caller invented, is cut.
_WIDTHS = {column.name: column.type.length for column in audit_entries.c if hasattr(column.type, "length")}


def _unchanged(value: Any) -> Any:
    return value


_FILTER_COLUMNS: Mapping[str, tuple[ColumnElement[Any], ToColumn]] = {
    # Keys are principals; no other principal has such a name.
    "api_key": (audit_entries.c.principal, _unchanged),
    "principal": (audit_entries.c.principal, _unchanged),
    "tenant": (audit_entries.c.tenant, lambda name: name.removeprefix("tenants/")),
    "method": (audit_entries.c.method, _unchanged),
    "resource": (audit_entries.c.resource, _unchanged),
    "address": (audit_entries.c.address, _unchanged),
    "status.code": (audit_entries.c.status_code, _unchanged),
    "create_time": (audit_entries.c.create_time, to_micros),
}


class SqlAuditStore:
    """The AuditStore of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        rows = [_row_from_entry(entry) for entry in entries]
        await self._database.write(
            lambda connection: connection.execute(insert_or_ignore(connection, audit_entries), rows)
        )

    async def get(self, entry_id: str) -> AuditEntry:
        row = await self._database.read(lambda c: c.execute(_ENTRY, {"of_id": entry_id}).mappings().first())
        if row is None:
            raise NotFound(f"{_COLLECTION}{entry_id}")
        return _entry_from_row(row)

    async def list_page(self, query: AuditQuery) -> Sequence[AuditEntry]:
        order = audit_entries.c.create_time, audit_entries.c.id
        where: list[ColumnElement[bool]] = []
        if query.where is not None:
            where.append(condition(query.where, _FILTER_COLUMNS))
        if query.after is not None:
            where.append(tuple_(*order) < tuple_(to_micros(query.after[0]), query.after[1]))
        statement = select(audit_entries).where(*where).order_by(*(each.desc() for each in order))
        limited = statement.limit(query.limit + 1)
        found = await self._database.scan(lambda c: list(c.execute(limited).mappings()))
        return [_entry_from_row(row) for row in found]

    async def purge(self, before: datetime, limit: int) -> int:
        def op(connection: Any) -> int:
            ids = connection.scalars(_OLD, {"before": to_micros(before), "most": limit}).all()
            connection.execute(delete(audit_entries).where(audit_entries.c.id.in_(ids)))
            return len(ids)

        return await self._database.write(op)


def _row_from_entry(entry: AuditEntry) -> dict[str, Any]:
    row = {
        "id": entry.name.removeprefix(_COLLECTION),
        "create_time": to_micros(entry.create_time.ToDatetime(UTC)),
        "principal": entry.principal,
        "tenant": entry.tenant,
        "method": entry.method,
        "resource": entry.resource,
        "address": entry.address,
        "status_code": entry.status.code,
        "status": entry.status.SerializeToString(),
        "changed_paths": json.dumps(list(entry.changed_paths)),
        "call_id": entry.call_id,
    }
    for name, width in _WIDTHS.items():
        if isinstance(row[name], str):
            # PostgreSQL rejects NUL.
            row[name] = row[name].replace("\0", "")[:width]
    return row


def _entry_from_row(row: Row) -> AuditEntry:
    principal = row["principal"]
    entry = AuditEntry(
        name=f"{_COLLECTION}{row['id']}",
        api_key=principal if principal.startswith("apiKeys/") else "",
        principal=principal,
        tenant=row["tenant"],
        method=row["method"],
        resource=row["resource"],
        address=row["address"],
        status=status_pb2.Status.FromString(row["status"]),
        changed_paths=json.loads(row["changed_paths"]),
        call_id=row["call_id"],
    )
    entry.create_time.FromDatetime(from_micros(row["create_time"]))
    return entry
