"""The TenantStore in SQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    bindparam,
    case,
    delete,
    exists,
    literal,
    or_,
    select,
    update,
)

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.model import tenant as model
from reelhaul_jobs.model.tenant import Tenant, TenantState
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.tenants import TenantQuery, TenantRule
from reelhaul_jobs.store import full_access, idempotency
from reelhaul_jobs.store.access_tables import api_keys, tenants, tickets
from reelhaul_jobs.store.idempotency import RecordedResponse
from reelhaul_jobs.store.quota_tables import quota_ledger
from reelhaul_jobs.store.rows import Row, from_micros, from_micros_or_none, to_micros, to_micros_or_none
from reelhaul_jobs.store.tables import jobs, request_ids, schedules
from reelhaul_jobs.store.webhook_tables import (
    webhook_deliveries,
    webhook_events,
    webhook_outbox,
    webhook_sequences,
    webhooks,
)
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.filter_conditions import ToColumn, condition

#: The tables that ``remove`` deletes the tenant's rows from, by their column ``tenant``. Not among them are
#: jobs, which are deleted one by one, and the audit log, which outlives tenants.
OWNED_TABLES: tuple[Table, ...] = (
    api_keys,
    schedules,
    tickets,
    request_ids,
    webhook_outbox,
    webhook_deliveries,
    webhook_events,
    webhook_sequences,
    webhooks,
)
#: Those of which any row means that the tenant is in use.
_IN_USE: tuple[Table, ...] = (api_keys, schedules, webhooks)

_TENANT = select(tenants).where(tenants.c.id == bindparam("of_id"))
_UPDATE = update(tenants).where(tenants.c.id == bindparam("of_id"))
_DELETE = delete(tenants).where(tenants.c.id == bindparam("of_id"))
_DELETING = (
    select(tenants)
    .where(tenants.c.delete_time.is_not(None))
    .order_by(tenants.c.delete_time, tenants.c.id)
    .limit(bindparam("most"))
)
_OF_TENANT = jobs.c.tenant == bindparam("of_tenant")
_JOBS = select(jobs.c.id).where(_OF_TENANT, jobs.c.delete_time.is_(None)).limit(bindparam("most"))
_HAS_JOBS = select(exists().where(_OF_TENANT, jobs.c.delete_time.is_(None)))
_HAS_ROWS_OF_JOBS = select(exists().where(_OF_TENANT))
_STATE = case(
    (tenants.c.delete_time.is_not(None), literal(int(TenantState.DELETING))),
    (tenants.c.disabled.is_(True), literal(int(TenantState.DISABLED))),
    else_=literal(int(TenantState.ACTIVE)),
)


def _unchanged(value: Any) -> Any:
    return value


_FILTER_COLUMNS: Mapping[str, tuple[ColumnElement[Any], ToColumn]] = {
    "state": (_STATE, _unchanged),
    "display_name": (tenants.c.display_name, _unchanged),
    "contact": (tenants.c.contact, _unchanged),
    "create_time": (tenants.c.create_time, to_micros),
}


class SqlTenantStore:
    """The TenantStore of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, tenant: Tenant, request: IdempotencyKey | None = None) -> Tenant:
        return await idempotency.write(self._database, partial(_add, tenant=tenant, request=request))

    async def get(self, tenant: str) -> Tenant:
        return await self._database.read(partial(_get, tenant=tenant))

    async def find(self, tenant: str) -> Tenant | None:
        row = await self._database.read(lambda c: c.execute(_TENANT, {"of_id": tenant}).mappings().first())
        return None if row is None else tenant_from_row(row)

    async def list_page(self, query: TenantQuery) -> Sequence[Tenant]:
        where = [tenants.c.id > query.after]
        if query.where is not None:
            where.append(condition(query.where, _FILTER_COLUMNS))
        statement = select(tenants).where(*where).order_by(tenants.c.id).limit(query.limit + 1)
        found = await self._database.read(lambda c: list(c.execute(statement).mappings()))
        return [tenant_from_row(row) for row in found]

    async def change(self, tenant: str, rule: TenantRule, now: datetime) -> Tenant:
        def op(connection: Connection) -> Tenant:
            with full_access.kept(connection, now, f"tenants/{tenant}"):
                before = _get(connection, tenant, lock=True)
                after = rule(before)
                if after is not before:
                    connection.execute(_UPDATE, {"of_id": tenant, **_row_from_tenant(after)})
                return after

        return await self._database.write(op)

    async def owns_resources(self, tenant: str) -> bool:
        statements = [select(exists().where(each.c.tenant == tenant)) for each in _IN_USE]

        def op(connection: Connection) -> bool:
            has_jobs = connection.execute(_HAS_JOBS, {"of_tenant": tenant}).scalar()
            return bool(has_jobs) or any(connection.execute(each).scalar() for each in statements)

        return await self._database.read(op)

    async def list_deleting(self, limit: int) -> Sequence[Tenant]:
        found = await self._database.read(lambda c: list(c.execute(_DELETING, {"most": limit}).mappings()))
        return [tenant_from_row(row) for row in found]

    async def list_jobs(self, tenant: str, limit: int) -> Sequence[str]:
        values = {"of_tenant": tenant, "most": limit}
        return await self._database.read(lambda c: list(c.execute(_JOBS, values).scalars()))

    async def delete_schedules(self, tenant: str) -> None:
        statement = delete(schedules).where(schedules.c.tenant == tenant)
        await self._database.write(lambda connection: connection.execute(statement))

    async def remove(self, tenant: str) -> bool:
        def op(connection: Connection) -> bool:
            if connection.execute(_HAS_ROWS_OF_JOBS, {"of_tenant": tenant}).scalar():
                return False
            _delete_rows(connection, tenant)
            connection.execute(_DELETE, {"of_id": tenant})
            return True

        return await self._database.write(op)


def _add(connection: Connection, tenant: Tenant, request: IdempotencyKey | None) -> Tenant:
    if (response := idempotency.find_response(connection, request)) is not None:
        return _get(connection, response.ids[0])
    inserted = connection.execute(
        idempotency.insert_or_ignore(connection, tenants).returning(tenants.c.id),
        {"id": tenant.id, **_row_from_tenant(tenant)},
    )
    if inserted.first() is None:
        raise model.already_exists(tenant)
    idempotency.record_response(connection, request, RecordedResponse([tenant.id]))
    return tenant


def _get(connection: Connection, tenant: str, *, lock: bool = False) -> Tenant:
    statement: Any = _TENANT.with_for_update() if lock else _TENANT
    row = connection.execute(statement, {"of_id": tenant}).mappings().first()
    if row is None:
        raise NotFound(f"tenants/{tenant}")
    return tenant_from_row(row)


def _delete_rows(connection: Connection, tenant: str) -> None:
    keys = select("apiKeys/" + api_keys.c.id).where(api_keys.c.tenant == tenant)
    account = quota_ledger.c.account
    connection.execute(delete(quota_ledger).where(or_(account == f"tenants/{tenant}", account.in_(keys))))
    for table in OWNED_TABLES:
        connection.execute(delete(table).where(table.c.tenant == tenant))


def _row_from_tenant(tenant: Tenant) -> dict[str, Any]:
    """Return all columns of *tenant* but its id."""
    return {
        "display_name": tenant.display_name,
        "contact": tenant.contact,
        "quota": tenant.quota.SerializeToString(),
        "allowed_sites": json.dumps(tenant.allowed_sites),
        "denied_sites": json.dumps(tenant.denied_sites),
        "retention": None if tenant.retention is None else tenant.retention // timedelta(microseconds=1),
        "disabled": tenant.disabled,
        "delete_time": to_micros_or_none(tenant.delete_time),
        "revision": tenant.revision,
        "create_time": to_micros(tenant.create_time),
        "update_time": to_micros(tenant.update_time),
    }


def tenant_from_row(row: Row) -> Tenant:
    """Return the tenant of a row with all columns."""
    return Tenant(
        id=row["id"],
        display_name=row["display_name"],
        contact=row["contact"],
        quota=api_key_pb2.Quota.FromString(row["quota"]),
        allowed_sites=tuple(json.loads(row["allowed_sites"])),
        denied_sites=tuple(json.loads(row["denied_sites"])),
        retention=None if row["retention"] is None else timedelta(microseconds=row["retention"]),
        disabled=bool(row["disabled"]),
        delete_time=from_micros_or_none(row["delete_time"]),
        revision=row["revision"],
        create_time=from_micros(row["create_time"]),
        update_time=from_micros(row["update_time"]),
    )
