"""SqlLocationStore: where the blobs are, in the database of the catalog."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any

from sqlalchemy import Connection, exists, func, select, update

from reelhaul_runtime.sql.database import Database
from reelhaul_storage.catalog.tables import artifacts, blob_location, blobs
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BlobsMoved
from reelhaul_storage.model import Blob, BlobLocation

_BATCH = 500
_REFERENCED = exists().where(artifacts.c.key == blobs.c.key)


class SqlLocationStore:
    """Implements ports.LocationStore on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def version(self) -> Hashable | None:
        return self._database.version

    async def get_location(self) -> BlobLocation:
        return await self._database.read(_get_location)

    async def set_location(self, location: BlobLocation) -> None:
        await self._database.write(lambda c: _set_location(c, location))

    async def list_blobs(self, after: str, limit: int) -> list[Blob]:
        return await self._database.read(lambda c: _list_blobs(c, after, limit))

    async def sum_blobs(self) -> int:
        total = select(func.coalesce(func.sum(blobs.c.size), 0))
        return int(await self._database.read(lambda c: c.execute(total).scalar_one()))

    async def is_referenced(self, key: str) -> bool:
        found = select(artifacts.c.id).where(artifacts.c.key == key).limit(1)
        return await self._database.read(lambda c: c.execute(found).first() is not None)

    async def end_move(self, location: BlobLocation, pending: Collection[str]) -> list[Blob]:
        return await self._database.write(lambda c: _end_move(c, location, pending))


def check_generation(connection: Connection, generation: int) -> None:
    """Raise STORAGE_UNAVAILABLE if the location is not of *generation*; it stays so until the commit."""
    statement = select(blob_location.c.generation).with_for_update(read=True)
    if connection.execute(statement).scalar_one() != generation:
        raise BlobsMoved


def _get_location(connection: Connection) -> BlobLocation:
    row = connection.execute(select(blob_location)).mappings().one()
    return BlobLocation(row["generation"], row["url"], row["previous_url"])


def _set_location(connection: Connection, location: BlobLocation) -> None:
    statement = update(blob_location).where(blob_location.c.generation == location.generation - 1)
    values = {
        "generation": location.generation,
        "url": location.url,
        "previous_url": location.previous_url,
    }
    if not connection.execute(statement.values(values)).rowcount:
        raise BlobsMoved


def _list_blobs(connection: Connection, after: str, limit: int) -> list[Blob]:
    statement = select(blobs).where(blobs.c.key > after).order_by(blobs.c.key).limit(limit)
    return [_blob_from_row(row) for row in connection.execute(statement).mappings()]


def _end_move(connection: Connection, location: BlobLocation, pending: Collection[str]) -> list[Blob]:
    # Locked first: a commit of an artifact waits, and then has another generation than it expects.
    connection.execute(select(blob_location).with_for_update())
    keys, committed = sorted(pending), list[Blob]()
    for begin in range(0, len(keys), _BATCH):
        batch = blobs.c.key.in_(keys[begin : begin + _BATCH])
        rows = connection.execute(select(blobs).where(batch, _REFERENCED)).mappings()
        committed += map(_blob_from_row, rows)
    if not committed:
        _set_location(connection, location)
    return committed


def _blob_from_row(row: Any) -> Blob:
    return Blob(row["key"], Digests(row["size"], row["sha256"], row["crc32c"]))
