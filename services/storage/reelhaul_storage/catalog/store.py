"""SqlCatalog: the Catalog on SQLite or PostgreSQL; each method is one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from reelhaul_runtime.filters.ast import Node
from reelhaul_runtime.sql.database import Database, DatabaseFull
from reelhaul_storage.catalog import artifacts, blobs, uploads
from reelhaul_storage.catalog.blob_location import SqlLocationStore, check_generation
from reelhaul_storage.catalog.destinations import SqlDestinationStore
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.model import Artifact, Blob, BlobHealth, DiskSpace, Query, TenantUsage, Upload

COMPONENT = "storage.database"

T = TypeVar("T")


class SqlCatalog:
    """Implements ports.Catalog on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: The destinations in the same database.
        self.destinations = SqlDestinationStore(database)
        #: The location of the blobs, in the same database.
        self.location = SqlLocationStore(database)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[SqlCatalog]:
        """Connect to the database at *url*, which must have this build's schema."""
        async with Database.open(url, name=COMPONENT) as database:
            yield cls(database)

    async def ping(self) -> None:
        """Return if the database responds."""
        await self._database.ping()

    async def describe(self) -> str:
        """Return the kind, the version and the revision of the database."""
        return await self._database.describe()

    async def add_upload(self, upload: Upload, space: DiskSpace | None = None) -> Upload:
        return await self._write(lambda c: uploads.add_upload(c, upload, space))

    async def get_upload(self, id: str) -> Upload:  # noqa: A002
        return await self._database.read(lambda c: uploads.get_upload(c, id))

    async def list_uploads(
        self, tenant: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[Upload]:
        return await self._database.read(lambda c: uploads.list_uploads(c, tenant, after, limit))

    async def extend_upload(self, id: str, until: datetime) -> None:  # noqa: A002
        await self._write(lambda c: uploads.extend_upload(c, id, until))

    async def delete_uploads(self, ids: Iterable[str]) -> None:
        # A list, because a transaction may run again; likewise in the methods below.
        ids = list(ids)
        await self._write(lambda c: uploads.delete_uploads(c, ids))

    async def claim_blob(
        self,
        upload: str,
        content: Digests,
        key: str,
        now: datetime,
        until: datetime,
        generation: int = 0,
    ) -> str:
        def claim(connection: Connection) -> str:
            check_generation(connection, generation)
            return uploads.claim_blob(connection, upload, content, key, now, until)

        return await self._write(claim)

    async def claim_new_blob(
        self,
        upload: str,
        content: Digests,
        key: str,
        now: datetime,
        until: datetime,
        generation: int = 0,
    ) -> bool:
        def claim(connection: Connection) -> bool:
            check_generation(connection, generation)
            return uploads.claim_new_blob(connection, upload, content, key, now, until)

        return await self._write(claim)

    async def is_intact(self, key: str) -> bool:
        return await self._database.read(lambda c: blobs.is_intact(c, key))

    async def finish_upload(self, upload: str, artifact: Artifact, generation: int = 0) -> Artifact:
        return await self._write(lambda c: uploads.finish_upload(c, upload, artifact, generation))

    async def finish_from_stored(
        self, upload: str, sha256: str, make: Callable[[Digests, str], Artifact], generation: int = 0
    ) -> Artifact | None:
        return await self._write(lambda c: uploads.finish_from_stored(c, upload, sha256, make, generation))

    async def get_artifact(self, id: str) -> Artifact:  # noqa: A002
        return await self._database.read(lambda c: artifacts.get_artifact(c, id))

    async def get_artifacts(self, ids: Iterable[str]) -> list[Artifact]:
        ids = list(ids)
        return await self._database.read(lambda c: artifacts.get_artifacts(c, ids))

    async def list_artifacts(self, query: Query) -> list[Artifact]:
        run = self._database.read if artifacts.is_cheap(query) else self._database.scan
        return await run(lambda c: artifacts.list_artifacts(c, query))

    async def summarize_artifacts(self, tenant: str | None, where: Node | None) -> list[TenantUsage]:
        return await self._database.scan(lambda c: artifacts.summarize_artifacts(c, tenant, where))

    async def find_by_sha256(self, tenant: str, sha256: Iterable[str], now: datetime) -> dict[str, str]:
        digests = list(sha256)
        return await self._database.read(lambda c: artifacts.find_by_sha256(c, tenant, digests, now))

    async def update_artifact(self, id: str, change: Callable[[Artifact], Artifact]) -> Artifact:  # noqa: A002
        return await self._write(lambda c: artifacts.update_artifact(c, id, change))

    async def delete_artifacts(
        self, ids: Iterable[str], check: Callable[[Artifact], None], now: datetime
    ) -> None:
        ids = list(ids)
        await self._write(lambda c: artifacts.delete_artifacts(c, ids, check, now))

    async def find_crc32s(self, keys: Iterable[str]) -> dict[str, int]:
        keys = list(keys)
        return await self._database.read(lambda c: artifacts.find_crc32s(c, keys))

    async def set_crc32(self, key: str, content: Digests, crc32: int) -> None:
        await self._write(lambda c: artifacts.set_crc32(c, key, content, crc32))

    async def list_expired_uploads(self, now: datetime, limit: int) -> list[str]:
        return await self._database.read(lambda c: uploads.list_expired_uploads(c, now, limit))

    async def delete_expired_artifacts(self, now: datetime, limit: int) -> int:
        return await self._write(lambda c: artifacts.delete_expired_artifacts(c, now, limit))

    async def doom_unused_blobs(self, before: datetime, now: datetime, limit: int) -> None:
        await self._write(lambda c: artifacts.doom_unused_blobs(c, before, now, limit))

    async def list_doomed_keys(self, before: datetime, limit: int) -> list[str]:
        return await self._database.read(lambda c: artifacts.list_doomed_keys(c, before, limit))

    async def delete_doomed_keys(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        await self._write(lambda c: artifacts.delete_doomed_keys(c, keys))

    async def claim_blob_to_verify(self, verified_before: datetime, now: datetime) -> Blob | None:
        return await self._write(lambda c: blobs.claim_blob_to_verify(c, verified_before, now))

    async def mark_verified(self, key: str, time: datetime) -> None:
        await self._write(lambda c: blobs.mark_verified(c, key, time))

    async def mark_damaged(self, key: str, content: Digests, since: datetime, time: datetime) -> None:
        await self._write(lambda c: blobs.mark_damaged(c, key, content, since, time))

    async def has_blobs(self) -> bool:
        return await self._database.read(blobs.has_blobs)

    async def get_blob_health(self) -> BlobHealth:
        return await self._database.read(blobs.get_blob_health)

    async def count(self) -> tuple[int, int, int]:
        """Return the number of artifacts, the bytes of all blobs, and the number of damaged blobs."""
        return await self._database.scan(artifacts.count)

    async def find_known_keys(self, keys: Iterable[str]) -> set[str]:
        keys = list(keys)
        return await self._database.read(lambda c: artifacts.find_known_keys(c, keys))

    async def find_unfinished_uploads(self, ids: Iterable[str]) -> set[str]:
        ids = list(ids)
        return await self._database.read(lambda c: uploads.find_unfinished_uploads(c, ids))

    async def _write(self, op: Callable[[Connection], T]) -> T:
        try:
            return await self._database.write(op)
        except DatabaseFull as error:
            text = f"{error.text}: free some space, or give it a larger disk"
            raise BackendUnavailable(COMPONENT, text) from error
