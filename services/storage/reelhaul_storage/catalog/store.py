"""The Catalogue on SQLite or PostgreSQL: each method one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime

from reelhaul_runtime.sql.database import Database
from reelhaul_storage.catalog import artifacts, uploads
from reelhaul_storage.digests import Digests
from reelhaul_storage.model import Artifact, Query, Upload

COMPONENT = "storage.database"


class SqlCatalog:
    """What there is, in rows. What each method promises stands in ports.Catalogue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[SqlCatalog]:
        """The catalogue in the database at *url*, whose schema is this build's."""
        async with Database.open(url, name=COMPONENT) as database:
            yield cls(database)

    async def ping(self) -> None:
        """Return if the database answers."""
        await self._database.ping()

    async def add_upload(self, upload: Upload) -> Upload:
        """As Catalogue.add_upload."""
        return await self._database.write(lambda c: uploads.add(c, upload))

    async def get_upload(self, id: str) -> Upload:  # noqa: A002
        """As Catalogue.upload."""
        return await self._database.read(lambda c: uploads.read(c, id))

    async def list_uploads(
        self, tenant: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[Upload]:
        """As Catalogue.uploads."""
        return await self._database.read(lambda c: uploads.page(c, tenant, after, limit))

    async def extend_upload(self, id: str, until: datetime) -> None:  # noqa: A002
        """As Catalogue.keep_upload."""
        await self._database.write(lambda c: uploads.keep(c, id, until))

    async def delete_uploads(self, ids: Iterable[str]) -> None:
        """As Catalogue.remove_uploads."""
        gone = list(ids)
        await self._database.write(lambda c: uploads.remove(c, gone))

    async def claim_blob(
        self, upload: str, content: Digests, key: str, now: datetime, until: datetime
    ) -> str:
        """As Catalogue.claim."""
        return await self._database.write(lambda c: uploads.claim(c, upload, content, key, now, until))

    async def finish_upload(self, upload: str, artifact: Artifact) -> Artifact:
        """As Catalogue.finish."""
        return await self._database.write(lambda c: uploads.finish(c, upload, artifact))

    async def finish_from_stored(
        self, upload: str, sha256: str, make: Callable[[Digests, str], Artifact]
    ) -> Artifact | None:
        """As Catalogue.finish_known."""
        return await self._database.write(lambda c: uploads.finish_known(c, upload, sha256, make))

    async def get_artifact(self, id: str) -> Artifact:  # noqa: A002
        """As Catalogue.artifact."""
        return await self._database.read(lambda c: artifacts.read(c, id))

    async def list_artifacts(self, query: Query) -> list[Artifact]:
        """As Catalogue.artifacts."""
        return await self._database.read(lambda c: artifacts.page(c, query))

    async def find_by_sha256(self, tenant: str, sha256: Iterable[str], now: datetime) -> dict[str, str]:
        """As Catalogue.find."""
        wanted = list(sha256)
        return await self._database.read(lambda c: artifacts.find(c, tenant, wanted, now))

    async def update_artifact(self, id: str, change: Callable[[Artifact], Artifact]) -> Artifact:  # noqa: A002
        """As Catalogue.change."""
        return await self._database.write(lambda c: artifacts.change(c, id, change))

    async def delete_artifacts(
        self, ids: Iterable[str], check: Callable[[Artifact], None], now: datetime
    ) -> None:
        """As Catalogue.remove."""
        gone = list(ids)
        await self._database.write(lambda c: artifacts.remove(c, gone, check, now))

    async def list_expired_uploads(self, now: datetime, limit: int) -> list[str]:
        """As Catalogue.expired_uploads."""
        return await self._database.read(lambda c: uploads.expired(c, now, limit))

    async def delete_expired_artifacts(self, now: datetime, limit: int) -> int:
        """As Catalogue.expire."""
        return await self._database.write(lambda c: artifacts.expire(c, now, limit))

    async def doom_unused_blobs(self, before: datetime, now: datetime, limit: int) -> None:
        """As Catalogue.doom_unused."""
        await self._database.write(lambda c: artifacts.doom_unused(c, before, now, limit))

    async def list_doomed_keys(self, limit: int) -> list[str]:
        """As Catalogue.doomed."""
        return await self._database.read(lambda c: artifacts.doomed_keys(c, limit))

    async def delete_doomed_keys(self, keys: Iterable[str]) -> None:
        """As Catalogue.forget."""
        gone = list(keys)
        await self._database.write(lambda c: artifacts.forget(c, gone))

    async def find_known_keys(self, keys: Iterable[str]) -> set[str]:
        """As Catalogue.known_keys."""
        wanted = list(keys)
        return await self._database.read(lambda c: artifacts.known(c, wanted))

    async def find_unfinished_uploads(self, ids: Iterable[str]) -> set[str]:
        """As Catalogue.known_uploads."""
        wanted = list(ids)
        return await self._database.read(lambda c: uploads.unfinished(c, wanted))
