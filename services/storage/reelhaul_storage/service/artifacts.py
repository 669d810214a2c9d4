"""Artifacts: what one may do with what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.errors import NotFound, ReelhaulError
from reelhaul_runtime.identity import caller
from reelhaul_storage.digests import extend_crc32c
from reelhaul_storage.errors import Corrupt, RangeInvalid
from reelhaul_storage.model import Artifact, Query
from reelhaul_storage.ports import BlobStore, Catalog
from reelhaul_storage.service.garbage_collector import GarbageCollector


@dataclass(frozen=True, slots=True)
class ArtifactChanges:
    """What to change; None leaves as it is."""

    file_name: str | None = None
    labels: Mapping[str, str] | None = None
    expire_time: datetime | None = None

    def apply(self, artifact: Artifact, now: datetime) -> Artifact:
        """*artifact* with these changes; itself where they change nothing."""
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
    """Stored files. A caller sees those of its tenant; the suite sees all."""

    def __init__(
        self, catalogue: Catalog, blobs: BlobStore, sweep: GarbageCollector, now: Callable[[], datetime]
    ) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._sweep = sweep
        self._now = now

    async def get(self, id: str) -> Artifact:  # noqa: A002
        """The artifact. RESOURCE_NOT_FOUND, ARTIFACT_EXPIRED."""
        artifact = await self._catalogue.get_artifact(id)
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
        """The artifact, and its bytes from *offset* on, at most *limit* where that is not 0.

        RANGE_INVALID and ETAG_MISMATCH come before the first byte; ARTIFACT_CORRUPT, where
        all is read, at the latest before the last.
        """
        artifact = await self.get(id)
        artifact.check_etag(etag)
        size = artifact.content.size
        if offset > size or offset == size > 0:
            raise RangeInvalid(size)
        length = min(limit or size, size - offset)
        return artifact, self._checked(artifact, offset, length)

    async def list_artifacts(self, query: Query, after: tuple[datetime | int, str] | None) -> list[Artifact]:
        """What *query* asks for past *after*, among what the caller may see."""
        who, query = caller(), replace(query, after=after)
        if not who.suite:
            admin = who.level >= PermissionLevel.PERMISSION_LEVEL_ADMIN
            tenant = query.tenant if admin and query.tenant is not None else who.tenant
            query = replace(query, tenant=tenant)
        return await self._catalogue.list_artifacts(query)

    async def update(self, id: str, etag: str, changes: ArtifactChanges) -> Artifact:  # noqa: A002
        """The artifact with *changes*. ETAG_MISMATCH, ARTIFACT_EXPIRED."""
        now, who = self._now(), caller()

        def changed(artifact: Artifact) -> Artifact:
            artifact.check_visible_to(who)
            artifact.check_not_expired(now)
            artifact.check_etag(etag)
            return changes.apply(artifact, now)

        return await self._catalogue.update_artifact(id, changed)

    async def delete(self, ids: list[str], etag: str = "", *, allow_missing: bool = False) -> None:
        """Forget all of *ids*, or none where one is missing; bytes go with their last artifact."""
        who = caller()

        def check(artifact: Artifact) -> None:
            artifact.check_visible_to(who)
            artifact.check_etag(etag)

        try:
            await self._catalogue.delete_artifacts(ids, check, self._now())
        except NotFound:
            if not allow_missing:
                raise
        try:
            await self._sweep.delete_doomed_blobs()
        except ReelhaulError:
            return  # they are forgotten, as was asked; the next sweep removes the bytes

    async def find(self, tenant: str, sha256: list[str]) -> dict[str, str]:
        """Digest -> name of a living artifact of *tenant* with that content."""
        found = await self._catalogue.find_by_sha256(tenant, sha256, self._now())
        return {digest: f"artifacts/{id_}" for digest, id_ in found.items()}

    async def _checked(self, artifact: Artifact, offset: int, length: int) -> AsyncIterator[bytes]:
        seen, crc32c, size = 0, 0, artifact.content.size
        try:
            async for piece in self._blobs.read(artifact.key, offset, length):
                crc32c, seen = extend_crc32c(crc32c, piece), seen + len(piece)
                if seen == size and crc32c != artifact.content.crc32c:
                    raise Corrupt(artifact.name)
                yield piece
        except (EOFError, KeyError) as error:
            raise Corrupt(artifact.name) from error
