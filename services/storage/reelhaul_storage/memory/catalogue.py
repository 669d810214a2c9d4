"""The catalogue in dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import NotFound, ReelhaulError
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.model import Artifact, Query, Upload


@dataclass(frozen=True, slots=True)
class _Blob:
    key: str
    content: Digests
    create_time: datetime


class MemoryCatalogue:
    """A Catalogue that forgets. No method awaits, so each is one transaction."""

    def __init__(self) -> None:
        self._artifacts: dict[str, Artifact] = {}
        self._uploads: dict[str, Upload] = {}
        # By digest.
        self._blobs: dict[str, _Blob] = {}
        # Upload -> its claimed key, and until when.
        self._claims: dict[str, tuple[str, datetime]] = {}
        self._doomed: dict[str, None] = {}

    async def add_upload(self, upload: Upload) -> Upload:
        """As Catalogue.add_upload."""
        for other in self._uploads.values():
            same = (other.draft.tenant, other.request_id) == (upload.draft.tenant, upload.request_id)
            if upload.request_id and same:
                if other.request_digest == upload.request_digest:
                    return other
                raise ReelhaulError(ErrorReason.REQUEST_ID_REUSED, "the request_id was used before")
        self._uploads[upload.id] = upload
        return upload

    async def upload(self, id: str) -> Upload:  # noqa: A002
        """As Catalogue.upload."""
        if id not in self._uploads:
            raise NotFound(f"uploads/{id}")
        upload, (key, _) = self._uploads[id], self._claims.get(id, ("", None))
        blob = next((blob for blob in self._blobs.values() if blob.key == key), None)
        return replace(upload, claimed=blob.content, key=key) if blob else upload

    async def uploads(
        self, tenant: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[Upload]:
        """As Catalogue.uploads."""
        own = [u for u in self._uploads.values() if not u.artifact and tenant in (None, u.draft.tenant)]
        own.sort(key=lambda u: (u.create_time, u.id))
        return [u for u in own if after is None or (u.create_time, u.id) > after][:limit]

    async def keep_upload(self, id: str, until: datetime) -> None:  # noqa: A002
        """As Catalogue.keep_upload."""
        if id in self._uploads:
            self._uploads[id] = replace(self._uploads[id], expire_time=until)

    async def remove_uploads(self, ids: Iterable[str]) -> None:
        """As Catalogue.remove_uploads."""
        for id_ in ids:
            self._uploads.pop(id_, None)
            self._claims.pop(id_, None)

    async def claim(self, upload: str, content: Digests, key: str, now: datetime, until: datetime) -> str:
        """As Catalogue.claim."""
        await self.upload(upload)
        blob = self._blobs.setdefault(content.sha256, _Blob(key, content, now))
        self._claims[upload] = blob.key, until
        return blob.key

    async def finish(self, upload: str, artifact: Artifact) -> Artifact:
        """As Catalogue.finish."""
        before = (await self.upload(upload)).artifact
        if before:
            return await self.artifact(before)
        if all(blob.key != artifact.key for blob in self._blobs.values()):
            raise BackendUnavailable("memory", "the bytes were swept; write them again")
        self._artifacts[artifact.id] = artifact
        self._uploads[upload] = replace(self._uploads[upload], artifact=artifact.id)
        self._claims.pop(upload, None)
        return artifact

    async def finish_known(
        self, upload: str, sha256: str, make: Callable[[Digests, str], Artifact]
    ) -> Artifact | None:
        """As Catalogue.finish_known."""
        begun = await self.upload(upload)
        if begun.artifact:
            return await self.artifact(begun.artifact)
        for artifact in self._artifacts.values():
            if artifact.tenant == begun.draft.tenant and artifact.content.sha256 == sha256:
                return await self.finish(upload, make(artifact.content, artifact.key))
        return None

    async def artifact(self, id: str) -> Artifact:  # noqa: A002
        """As Catalogue.artifact."""
        if id not in self._artifacts:
            raise NotFound(f"artifacts/{id}")
        return self._artifacts[id]

    async def artifacts(self, query: Query) -> list[Artifact]:
        """As Catalogue.artifacts."""
        place: Callable[[Artifact], Any] = query.place_of
        wanted = [a for a in self._artifacts.values() if query.tenant in (None, a.tenant)]
        wanted = [a for a in wanted if all(_value(a, name) == value for name, value in query.equal)]
        wanted.sort(key=place, reverse=query.descending)
        if query.after is not None:
            after = query.after
            wanted = [a for a in wanted if (place(a) < after if query.descending else place(a) > after)]
        return wanted[: query.limit]

    async def find(self, tenant: str, sha256: Iterable[str], now: datetime) -> dict[str, str]:
        """As Catalogue.find."""
        asked = set(sha256)
        own = [a for a in self._artifacts.values() if a.tenant == tenant and a.expire_time > now]
        return {a.content.sha256: a.id for a in own if a.content.sha256 in asked}

    async def change(self, id: str, change: Callable[[Artifact], Artifact]) -> Artifact:  # noqa: A002
        """As Catalogue.change."""
        self._artifacts[id] = change(await self.artifact(id))
        return self._artifacts[id]

    async def remove(self, ids: Iterable[str], check: Callable[[Artifact], None], now: datetime) -> None:
        """As Catalogue.remove."""
        gone = dict.fromkeys(ids)
        for id_ in gone:
            check(await self.artifact(id_))
        self._forget(gone, now)

    async def expired_uploads(self, now: datetime, limit: int) -> list[str]:
        """As Catalogue.expired_uploads."""
        return [id_ for id_, upload in self._uploads.items() if upload.expire_time <= now][:limit]

    async def expire(self, now: datetime, limit: int) -> int:
        """As Catalogue.expire."""
        gone = [id_ for id_, artifact in self._artifacts.items() if artifact.expire_time <= now][:limit]
        self._forget(gone, now)
        return len(gone)

    async def doom_unused(self, before: datetime, now: datetime, limit: int) -> None:
        """As Catalogue.doom_unused."""
        old = [blob.key for blob in self._blobs.values() if blob.create_time < before]
        self._doom(old[:limit], now)

    async def doomed(self, limit: int) -> list[str]:
        """As Catalogue.doomed."""
        return list(self._doomed)[:limit]

    async def forget(self, keys: Iterable[str]) -> None:
        """As Catalogue.forget."""
        for key in keys:
            self._doomed.pop(key, None)

    async def known_keys(self, keys: Iterable[str]) -> set[str]:
        """As Catalogue.known_keys."""
        return set(keys) & ({blob.key for blob in self._blobs.values()} | set(self._doomed))

    async def known_uploads(self, ids: Iterable[str]) -> set[str]:
        """As Catalogue.known_uploads."""
        return {id_ for id_ in ids if id_ in self._uploads and not self._uploads[id_].artifact}

    def _forget(self, ids: Iterable[str], now: datetime) -> None:
        self._doom({self._artifacts.pop(id_).key for id_ in ids}, now)

    def _doom(self, keys: Iterable[str], now: datetime) -> None:
        used = {artifact.key for artifact in self._artifacts.values()}
        used |= {key for key, until in self._claims.values() if until > now}
        gone = set(keys) - used
        self._blobs = {digest: blob for digest, blob in self._blobs.items() if blob.key not in gone}
        self._doomed |= dict.fromkeys(sorted(gone))


def _value(artifact: Artifact, attribute: str) -> Any:
    return artifact.content.size if attribute == "size" else getattr(artifact, attribute)
