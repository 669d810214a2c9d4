"""SqlDestinationStore: destinations in the database of the catalog."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import NotFound, QuotaExceeded, ReelhaulError
from reelhaul_runtime.sql.database import Database
from reelhaul_storage.catalog.tables import destinations
from reelhaul_storage.model import MAX_DESTINATIONS_PER_TENANT, Destination


class SqlDestinationStore:
    """Implements ports.DestinationStore on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, destination: Destination) -> None:
        try:
            await self._database.write(lambda c: _add(c, destination))
        except IntegrityError as error:
            name = destination.name
            raise ReelhaulError(
                ErrorReason.RESOURCE_EXISTS, f"{name} exists", metadata={"resource": name}
            ) from error

    async def get(self, tenant: str, id: str) -> Destination:  # noqa: A002
        return await self._database.read(lambda c: _get(c, tenant, id))

    async def list_page(self, tenant: str, after: str, limit: int) -> list[Destination]:
        return await self._database.read(lambda c: _list_page(c, tenant, after, limit))

    async def update(
        self,
        tenant: str,
        id: str,  # noqa: A002
        change: Callable[[Destination], Destination],
    ) -> Destination:
        return await self._database.write(lambda c: _update(c, tenant, id, change))

    async def delete(self, tenant: str, id: str, check: Callable[[Destination], None]) -> None:  # noqa: A002
        await self._database.write(lambda c: _delete(c, tenant, id, check))


def _add(connection: Connection, destination: Destination) -> None:
    owned = select(func.count()).where(destinations.c.tenant == destination.tenant)
    connection.execute(insert(destinations).values(_values(destination)))
    # Counted afterwards, so that a taken id is reported as such also at the limit.
    if connection.execute(owned).scalar_one() > MAX_DESTINATIONS_PER_TENANT:
        text = f"a tenant has at most {MAX_DESTINATIONS_PER_TENANT} destinations"
        subject = f"tenants/{destination.tenant}"
        raise QuotaExceeded("destinations", text, subject=subject, limit=MAX_DESTINATIONS_PER_TENANT)


def _get(connection: Connection, tenant: str, id_: str, *, lock: bool = False) -> Destination:
    statement = select(destinations).where(_key(tenant, id_))
    row = connection.execute(statement.with_for_update() if lock else statement).mappings().first()
    if row is None:
        raise NotFound(f"destinations/{id_}")
    return Destination(**row)


def _list_page(connection: Connection, tenant: str, after: str, limit: int) -> list[Destination]:
    statement = select(destinations).where(destinations.c.tenant == tenant, destinations.c.id > after)
    rows = connection.execute(statement.order_by(destinations.c.id).limit(limit)).mappings()
    return [Destination(**row) for row in rows]


def _update(
    connection: Connection, tenant: str, id_: str, change: Callable[[Destination], Destination]
) -> Destination:
    changed = change(_get(connection, tenant, id_, lock=True))
    connection.execute(update(destinations).where(_key(tenant, id_)).values(_values(changed)))
    return changed


def _delete(connection: Connection, tenant: str, id_: str, check: Callable[[Destination], None]) -> None:
    check(_get(connection, tenant, id_, lock=True))
    connection.execute(delete(destinations).where(_key(tenant, id_)))


def _key(tenant: str, id_: str) -> ColumnElement[bool]:
    return and_(destinations.c.tenant == tenant, destinations.c.id == id_)


def _values(destination: Destination) -> dict[str, Any]:
    return {column.name: getattr(destination, column.name) for column in destinations.c}
