"""Artifacts: reads, lists, changes and deletes stored files."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NoReturn

from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import NotFound, ReelhaulError, Unavailable
from reelhaul_runtime.filters.ast import Node
from reelhaul_runtime.identity import caller
from reelhaul_storage.digests import extend_crc32c
from reelhaul_storage.errors import BackendUnavailable, Corrupt, RangeInvalid
from reelhaul_storage.model import Artifact, Query, TenantUsage
from reelhaul_storage.ports import BlobStore, Catalog
from reelhaul_storage.service.garbage_collector import GarbageCollector

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ArtifactChanges:
    """New values for an artifact's mutable attributes; None keeps the present value."""

    file_name: str | None = None
    labels: Mapping[str, str] | None = None
    expire_time: datetime | None = None

    def within(self, retention: timedelta | None, now: datetime) -> ArtifactChanges:
        """Return these changes with an expiry that is not later than *retention* from *now*."""
        if self.expire_time is None or retention is None:
            return self
        return replace(self, expire_time=min(self.expire_time, now + retention))

    def apply(self, artifact: Artifact, now: datetime) -> Artifact:
        """Return *artifact* with these changes; *artifact* itself if nothing differs."""
        changed = replace(
            artifact,
            file_name=artifact.file_name if self.file_name is None else self.file_name or artifact.id,
            labels=artifact.labels if self.labels is None else self.labels,
            expire_time=self.expire_time or artifact.expire_time,
        )
        if changed == artifact:
            return artifact
        return replace(changed, update_time=now, revision=artifact.revision + 1)


class Artifacts:
    """Use cases of artifacts. A caller sees the artifacts of its tenant; ADMIN and services see all."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        garbage_collector: GarbageCollector,
        now: Callable[[], datetime],
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._garbage_collector = garbage_collector
        self._now = now

    async def get(self, id: str) -> Artifact:  # noqa: A002
        """Return the artifact. Raises RESOURCE_NOT_FOUND, ARTIFACT_EXPIRED."""
        artifact = await self._catalog.get_artifact(id)
        artifact.check_visible_to(caller())
        artifact.check_not_expired(self._now())
        return artifact

    async def read(
        self,
        id: str,  # noqa: A002
        offset: int = 0,
        limit: int = 0,
        etag: str = "",
    ) -> tuple[Artifact, AsyncIterator[bytes]]:
        """Return the artifact and a stream of its bytes from *offset*, at most *limit* (0: no limit).

        Raises RANGE_INVALID and ETAG_MISMATCH before the first byte. If the whole content is read,
        the stream raises ARTIFACT_CORRUPT before the last byte at the latest.
        """
        artifact = await self.get(id)
        artifact.check_intact()
        artifact.check_etag(etag)
        size = artifact.content.size
        if offset > size or offset == size > 0:
            raise RangeInvalid(size)
        length = min(limit or size, size - offset)
        return artifact, self.read_verified(artifact, offset, length)

    async def list_artifacts(self, query: Query, after: tuple[datetime | int, str] | None) -> list[Artifact]:
        """Return the artifacts that match *query*, follow *after*, and are visible to the caller."""
        query = replace(query, tenant=_visible_tenant(query.tenant), after=after)
        return await self._catalog.list_artifacts(query)

    async def summarize(self, tenant: str | None, where: Node | None) -> list[TenantUsage]:
        """Return what the artifacts that match *where* use, by tenant, largest first; None: all tenants."""
        return await self._catalog.summarize_artifacts(_visible_tenant(tenant), where)

    async def update(self, id: str, etag: str, changes: ArtifactChanges) -> Artifact:  # noqa: A002
        """Apply *changes* and return the artifact. Raises ETAG_MISMATCH, ARTIFACT_EXPIRED."""
        now, who = self._now(), caller()

        def change(artifact: Artifact) -> Artifact:
            artifact.check_visible_to(who)
            artifact.check_not_expired(now)
            artifact.check_etag(etag)
            return changes.apply(artifact, now)

        return await self._catalog.update_artifact(id, change)

    async def delete(self, ids: list[str], etag: str = "", *, allow_missing: bool = False) -> None:
        """Delete all artifacts in *ids*, or none if one is missing; bytes go with the last reference."""
        who = caller()

        def check(artifact: Artifact) -> None:
            artifact.check_visible_to(who)
            artifact.check_etag(etag)

        try:
            await self._catalog.delete_artifacts(ids, check, self._now())
        except NotFound:
            if not allow_missing:
                raise
        failpoints.hit("storage.delete.after_commit")
        try:
            await self._garbage_collector.delete_doomed_blobs()
        except ReelhaulError:
            return  # the artifacts are deleted; the next garbage collection deletes the bytes

    async def find(self, tenant: str, sha256: list[str]) -> dict[str, str]:
        """Return digest -> name of an unexpired artifact of *tenant* with that content."""
        ids = await self._catalog.find_by_sha256(tenant, sha256, self._now())
        return {digest: f"artifacts/{id_}" for digest, id_ in ids.items()}

    async def read_verified(
        self, artifact: Artifact, offset: int, length: int
    ) -> AsyncGenerator[bytes, None]:
        """Stream *length* bytes of *artifact* from *offset*.

        Raises ARTIFACT_CORRUPT if bytes are missing, and before the last byte if the whole content is
        read and does not match its checksum.
        """
        start_time, read, crc32c = self._now(), 0, 0
        try:
            async for piece in self._blobs.read(artifact.key, offset, length):
                crc32c, read = extend_crc32c(crc32c, piece), read + len(piece)
                if read == artifact.content.size and crc32c != artifact.content.crc32c:
                    await self.report_damage(artifact, start_time)
                yield piece
        except (EOFError, KeyError):
            await self.report_damage(artifact, start_time)

    async def report_damage(self, artifact: Artifact, start_time: datetime) -> NoReturn:
        """Record and raise that a read from *start_time* on found damage. Raises ARTIFACT_CORRUPT.

        Raises RESOURCE_NOT_FOUND if the artifact was deleted in the meantime.
        """
        try:
            await self._catalog.get_artifact(artifact.id)
            await self._catalog.mark_damaged(artifact.key, artifact.content, start_time, self._now())
        except (Unavailable, BackendUnavailable):
            log.warning("damage could not be recorded", extra={"artifact": artifact.name})
        log.error("damaged bytes", extra={"artifact": artifact.name, "blob": artifact.key})
        raise Corrupt(artifact.name)


def _visible_tenant(tenant: str | None) -> str | None:
    """Return *tenant*, None for all, if the caller may see that, else the caller's own."""
    who = caller()
    return tenant if who.sees_all_tenants else who.tenant
