"""The ApiKeyStore in SQL: a change reads its row, applies a pure rule, and writes the row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.model import api_key as model
from reelhaul_jobs.model.api_key import ApiKey, KeyState
from reelhaul_jobs.model.credential import Ticket
from reelhaul_jobs.model.tenant import Tenant
from reelhaul_jobs.ports.api_keys import KeyChange, KeyOrder, KeyPage, KeyQuery, KeyRule
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.store import full_access, idempotency
from reelhaul_jobs.store.access_tables import api_keys, tenants, tickets
from reelhaul_jobs.store.idempotency import RecordedResponse
from reelhaul_jobs.store.listing import resource_id
from reelhaul_jobs.store.rows import Row, from_micros, from_micros_or_none, to_micros, to_micros_or_none
from reelhaul_jobs.store.tenants import tenant_from_row
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.filter_conditions import ToColumn, condition

_BY_ID = api_keys.c.id == bindparam("of_id")
_KEY = select(api_keys).where(_BY_ID)
_TENANT = select(tenants).where(tenants.c.id == bindparam("of_id"))
_COUNT = select(func.count()).select_from(api_keys).where(api_keys.c.tenant == bindparam("of_tenant"))
_UPDATE = update(api_keys).where(_BY_ID)
_BY_HASH = or_(api_keys.c.hash == bindparam("of_hash"), api_keys.c.previous_hash == bindparam("of_hash"))
_RECORD_USE = (
    update(api_keys)
    .where(_BY_ID, or_(api_keys.c.last_use_time.is_(None), api_keys.c.last_use_time < bindparam("used")))
    .values(last_use_time=bindparam("used"))
)
_OLD_IDS = select(api_keys.c.id).where(api_keys.c.delete_time < bindparam("before")).limit(bindparam("most"))
# 0, NEVER_USED, is before any time: the databases sort NULL differently.
_LAST_USE: ColumnElement[int] = func.coalesce(api_keys.c.last_use_time, 0)
_EXPIRED_TICKETS = delete(tickets).where(tickets.c.expire_time <= bindparam("now"))
_TAKE_TICKET = delete(tickets).where(tickets.c.hash == bindparam("of_hash")).returning(*tickets.c)


class SqlApiKeyStore:
    """The ApiKeyStore of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey, request: IdempotencyKey | None = None) -> KeyChange:
        return await idempotency.write(self._database, partial(_add, key=key, request=request))

    async def add_first(self, key: ApiKey, now: datetime) -> bool:
        def op(connection: Connection) -> bool:
            full_access.lock(connection)
            if full_access.permanence(connection, now):
                return False
            connection.execute(api_keys.insert(), _row_from_key(key))
            return True

        return await self._database.write(op)

    async def has_full_access(self, now: datetime) -> bool:
        return await self._database.read(lambda connection: full_access.permanence(connection, now) > 0)

    async def get(self, key_id: str) -> ApiKey:
        return await self._database.read(partial(_get, key_id=key_id))

    async def find(self, key_hash: bytes) -> tuple[ApiKey, Tenant] | None:
        return await self._database.read(partial(_find, where=_BY_HASH, values={"of_hash": key_hash}))

    async def find_by_id(self, key_id: str) -> tuple[ApiKey, Tenant] | None:
        return await self._database.read(partial(_find, where=_BY_ID, values={"of_id": key_id}))

    async def find_tenant(self, tenant: str) -> Tenant | None:
        row = await self._database.read(lambda c: c.execute(_TENANT, {"of_id": tenant}).mappings().first())
        return None if row is None else tenant_from_row(row)

    async def list_page(self, query: KeyQuery) -> KeyPage:
        statement = _page_statement(query)
        found = await self._database.scan(lambda c: list(c.execute(statement).mappings()))
        keys = [_key_from_row(row) for row in found[: query.limit]]
        return KeyPage(keys, len(found) > query.limit)

    async def change(
        self, key_id: str, rule: KeyRule, now: datetime, request: IdempotencyKey | None = None
    ) -> KeyChange:
        def op(connection: Connection) -> KeyChange:
            with full_access.kept(connection, now, f"apiKeys/{key_id}"):
                before = _get(connection, key_id)
                if idempotency.find_response(connection, request) is not None:
                    return KeyChange(before, is_new=False)
                after = rule(before)
                if after is not before:
                    connection.execute(_UPDATE, {"of_id": key_id, **_row_from_key(after)})
                idempotency.record_response(connection, request, RecordedResponse([key_id]))
                return KeyChange(after, is_new=after is not before)

        return await idempotency.write(self._database, op)

    async def record_uses(self, uses: Mapping[str, datetime]) -> None:
        values = [{"of_id": key_id, "used": to_micros(time)} for key_id, time in sorted(uses.items())]
        if values:
            await self._database.write(lambda connection: connection.execute(_RECORD_USE, values))

    async def purge(self, deleted_before: datetime, limit: int) -> int:
        def op(connection: Connection) -> int:
            values = {"before": to_micros(deleted_before), "most": limit}
            ids = connection.scalars(_OLD_IDS, values).all()
            connection.execute(delete(api_keys).where(api_keys.c.id.in_(ids)))
            return len(ids)

        return await self._database.write(op)

    async def add_ticket(self, ticket: Ticket, now: datetime) -> None:
        def op(connection: Connection) -> None:
            connection.execute(_EXPIRED_TICKETS, {"now": to_micros(now)})
            connection.execute(tickets.insert(), _row_from_ticket(ticket))

        await self._database.write(op)

    async def take_ticket(self, ticket_hash: bytes) -> Ticket | None:
        def op(connection: Connection) -> Row | None:
            return connection.execute(_TAKE_TICKET, {"of_hash": ticket_hash}).mappings().first()

        row = await self._database.write(op)
        return None if row is None else _ticket_from_row(row)


def _add(connection: Connection, key: ApiKey, request: IdempotencyKey | None) -> KeyChange:
    if (response := idempotency.find_response(connection, request)) is not None:
        return KeyChange(_get(connection, response.ids[0]), is_new=False)
    # Locked, so that a tenant's deletion or another key at its limit waits.
    row = connection.execute(_TENANT.with_for_update(), {"of_id": key.tenant}).mappings().first()
    model.check_tenant(None if row is None else tenant_from_row(row))
    if connection.execute(_COUNT, {"of_tenant": key.tenant}).scalar_one() >= model.MAX_PER_TENANT:
        raise model.quota_exceeded(key)
    connection.execute(api_keys.insert(), _row_from_key(key))
    idempotency.record_response(connection, request, RecordedResponse([key.id]))
    return KeyChange(key, is_new=True)


def _get(connection: Connection, key_id: str) -> ApiKey:
    row = connection.execute(_KEY, {"of_id": key_id}).mappings().first()
    if row is None:
        raise NotFound(f"apiKeys/{key_id}")
    return _key_from_row(row)


def _find(
    connection: Connection, where: ColumnElement[bool], values: Mapping[str, Any]
) -> tuple[ApiKey, Tenant] | None:
    row = connection.execute(select(api_keys).where(where), values).mappings().first()
    if row is None:
        return None
    owner = connection.execute(_TENANT, {"of_id": row["tenant"]}).mappings().one()
    return _key_from_row(row), tenant_from_row(owner)


def _page_statement(query: KeyQuery) -> Select[Any]:
    """Return the statement for the keys of a page, and of one more."""
    order = api_keys.c.create_time if query.order is KeyOrder.CREATED else _LAST_USE
    where: list[Any] = [] if query.show_deleted else [api_keys.c.delete_time.is_(None)]
    if query.where is not None:
        where.append(condition(query.where, _filter_columns(query.now)))
    if query.after is not None:
        after = tuple_(to_micros(query.after[0]), query.after[1])
        columns = tuple_(order, api_keys.c.id)
        where.append(columns < after if query.descending else columns > after)
    ordering = [each.desc() if query.descending else each.asc() for each in (order, api_keys.c.id)]
    return select(api_keys).where(*where).order_by(*ordering).limit(query.limit + 1)


def _filter_columns(now: datetime) -> Mapping[str, tuple[ColumnElement[Any], ToColumn]]:
    """Return column and conversion of each field of a filter; states are those at *now*."""
    expired = and_(api_keys.c.expire_time.is_not(None), api_keys.c.expire_time <= to_micros(now))
    state = case(
        (api_keys.c.delete_time.is_not(None), int(KeyState.DELETED)),
        (api_keys.c.disabled.is_(True), int(KeyState.DISABLED)),
        (expired, int(KeyState.EXPIRED)),
        else_=int(KeyState.ACTIVE),
    )
    return {
        "tenant": (api_keys.c.tenant, _tenant_id),
        "permission": (api_keys.c.permission, _unchanged),
        "state": (state, _unchanged),
        "display_name": (api_keys.c.display_name, _unchanged),
        "key_prefix": (api_keys.c.key_prefix, _unchanged),
        "create_time": (api_keys.c.create_time, to_micros),
        "last_use_time": (api_keys.c.last_use_time, to_micros),
    }


def _tenant_id(name: str) -> str:
    """Return the id in a filter's value, which may be the name of the tenant or its id."""
    return resource_id("tenants/", name) if "/" in name else name


def _unchanged(value: Any) -> Any:
    return value


def _row_from_key(key: ApiKey) -> dict[str, Any]:
    """Return all columns of *key*, except last_use_time, which record_uses sets."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "display_name": key.display_name,
        "permission": int(key.permission),
        "grants": json.dumps(key.grants),
        "quota": key.quota.SerializeToString(),
        "allowed_cidrs": json.dumps(key.allowed_cidrs),
        "allowed_sites": json.dumps(key.allowed_sites),
        "denied_sites": json.dumps(key.denied_sites),
        "hash": key.hash,
        "key_prefix": key.key_prefix,
        "previous_hash": key.previous_hash,
        "previous_expire_time": to_micros_or_none(key.previous_expire_time),
        "disabled": key.disabled,
        "expire_time": to_micros_or_none(key.expire_time),
        "delete_time": to_micros_or_none(key.delete_time),
        "revision": key.revision,
        "create_time": to_micros(key.create_time),
        "update_time": to_micros(key.update_time),
    }


def _key_from_row(row: Row) -> ApiKey:
    """Return the key of a row with all columns."""
    previous = row["previous_hash"]
    return ApiKey(
        id=row["id"],
        tenant=row["tenant"],
        display_name=row["display_name"],
        permission=row["permission"],
        grants=tuple(json.loads(row["grants"])),
        quota=api_key_pb2.Quota.FromString(row["quota"]),
        allowed_cidrs=tuple(json.loads(row["allowed_cidrs"])),
        allowed_sites=tuple(json.loads(row["allowed_sites"])),
        denied_sites=tuple(json.loads(row["denied_sites"])),
        hash=bytes(row["hash"]),
        key_prefix=row["key_prefix"],
        previous_hash=None if previous is None else bytes(previous),
        previous_expire_time=from_micros_or_none(row["previous_expire_time"]),
        disabled=bool(row["disabled"]),
        expire_time=from_micros_or_none(row["expire_time"]),
        delete_time=from_micros_or_none(row["delete_time"]),
        last_use_time=from_micros_or_none(row["last_use_time"]),
        revision=row["revision"],
        create_time=from_micros(row["create_time"]),
        update_time=from_micros(row["update_time"]),
    )


def _row_from_ticket(ticket: Ticket) -> dict[str, Any]:
    return {
        "hash": ticket.hash,
        "key": ticket.key,
        "tenant": ticket.tenant,
        "grantee": None if ticket.grantee is None else ticket.grantee.SerializeToString(),
        "expire_time": to_micros(ticket.expire_time),
    }


def _ticket_from_row(row: Row) -> Ticket:
    grantee = row["grantee"]
    return Ticket(
        hash=bytes(row["hash"]),
        key=row["key"],
        tenant=row["tenant"],
        grantee=None if grantee is None else api_key_pb2.ApiKey.FromString(grantee),
        expire_time=from_micros(row["expire_time"]),
    )
