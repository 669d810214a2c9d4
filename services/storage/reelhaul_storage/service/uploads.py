"""Uploads: how bytes come in, are checked, and become artifacts."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import uuid4
from weakref import WeakValueDictionary

from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.identity import caller
from reelhaul_storage.digests import EMPTY_SHA256, Digests
from reelhaul_storage.errors import ChecksumMismatch, OffsetConflict
from reelhaul_storage.model import (
    CLAIM_LIFETIME,
    UPLOAD_LIFETIME,
    Artifact,
    Chunk,
    ExpectedChecksums,
    NewArtifact,
    Upload,
    build_artifact,
)
from reelhaul_storage.ports import BlobStore, Catalog
from reelhaul_storage.service.upload_writer import check_size, write_chunks


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """How far an upload has come."""

    upload: Upload
    persisted_size: int
    #: Whether nothing need be written to finish it; so too where it is finished.
    content_exists: bool


class Uploads:
    """Writes in hand. A caller sees those of its tenant; the suite sees all."""

    def __init__(
        self, catalogue: Catalog, blobs: BlobStore, now: Callable[[], datetime], *, max_bytes: int
    ) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._now = now
        self._max_bytes = max_bytes
        self._finishing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def create(self, upload: Upload, adopt_path: str = "") -> UploadStatus:
        """Begin *upload*; what it says of times, and its id, are filled in here.

        The file at *adopt_path* is read meanwhile, where there is one and its content is not stored.
        """
        check_size(upload.total_size, self._max_bytes)
        now = self._now()
        draft = replace(upload.draft, tenant=_tenant(upload.draft))
        begun = replace(
            upload, id=str(uuid4()), draft=draft, create_time=now, expire_time=now + UPLOAD_LIFETIME
        )
        standing = await self._standing(await self._catalogue.add_upload(begun))
        if adopt_path and not standing.content_exists:
            self._blobs.prehash(standing.upload.id, adopt_path)
        return standing

    async def get(self, id: str) -> UploadStatus:  # noqa: A002
        """How far it has come. RESOURCE_NOT_FOUND, ARTIFACT_EXPIRED."""
        return await self._standing(await self._alive(id))

    async def list_unfinished(self, after: tuple[datetime, str] | None, limit: int) -> list[UploadStatus]:
        """Unfinished writes, the oldest first."""
        who = caller()
        found = await self._catalogue.list_uploads(None if who.suite else who.tenant, after, limit)
        return [await self._standing(upload) for upload in found]

    async def delete(self, id: str) -> None:  # noqa: A002
        """Forget the write and its bytes; what it became stays. Gone already is no error."""
        found = await self._catalogue.find_unfinished_uploads([id])
        if not found:
            return
        (await self._catalogue.get_upload(id)).check_visible_to(caller())
        await self._catalogue.delete_uploads([id])
        await self._blobs.discard(id)

    async def write(self, id: str, chunks: AsyncIterator[Chunk]) -> Artifact | int:  # noqa: A002
        """Append *chunks*: the artifact if the last of them finishes, else the bytes now safe.

        WRITE_OFFSET_CONFLICT, WRITE_CHECKSUM_MISMATCH, ARTIFACT_EXPIRED, MEDIA_TOO_LARGE.
        """
        upload = await self._alive(id)
        if upload.artifact_id:
            artifact = await self._catalogue.get_artifact(upload.artifact_id)
            raise OffsetConflict(f"{upload.name} is finished", artifact.content.size)
        await self._catalogue.extend_upload(id, self._now() + UPLOAD_LIFETIME)
        persisted, finish = await write_chunks(self._blobs, upload, chunks, self._max_bytes)
        await self._catalogue.extend_upload(id, self._now() + UPLOAD_LIFETIME)
        return persisted if finish is None else await self.finish(id, finish)

    async def write_artifact(self, draft: NewArtifact, chunks: AsyncIterator[Chunk]) -> Artifact:
        """Make an artifact of *chunks* in one go; nothing is left of one that breaks off."""
        now = self._now()
        upload = (await self.create(Upload("", draft, now, now))).upload
        try:
            return _finished(await self.write(upload.id, chunks))
        except BaseException:
            # Cancelled or not: nobody knows its name, so nobody else could drop it.
            await asyncio.shield(self.delete(upload.id))
            raise

    async def finish(self, id: str, expected: ExpectedChecksums, adopt_path: str = "") -> Artifact:  # noqa: A002
        """Check the content and make the artifact; the same one when repeated.

        WRITE_CHECKSUM_MISMATCH (write it again from 0), WRITE_OFFSET_CONFLICT (bytes are
        missing), FIELD_INVALID (adopt_path).
        """
        async with self._finishing.setdefault(id, asyncio.Lock()):
            upload = await self._alive(id)
            if upload.artifact_id:
                return await self._catalogue.get_artifact(upload.artifact_id)
            if upload.expected_sha256 not in ("", expected.sha256):
                raise ChecksumMismatch("total_checksums differ from expected_checksums", 0)
            if adopt_path:
                await self._blobs.adopt(id, adopt_path)
            content = await self._blobs.hash_staged(id)
            if content.size == 0 and not adopt_path and expected.sha256 != EMPTY_SHA256:
                return await self._finish_without_bytes(upload, expected)
            return await self._finish_staged(upload, content, expected)

    async def _finish_staged(self, upload: Upload, content: Digests, expected: ExpectedChecksums) -> Artifact:
        check_size(content.size, self._max_bytes)
        if content.size < upload.total_size:
            raise OffsetConflict(f"{upload.total_size - content.size} bytes are missing", content.size)
        if not expected.match(content) or upload.total_size not in (0, content.size):
            await self._blobs.discard(upload.id)
            raise ChecksumMismatch(f"what was written has sha256 {content.sha256}; write it again", 0)
        if content.size == 0:
            async with self._blobs.stage(upload.id, 0):
                pass  # so that there is something to publish
        now = self._now()
        wanted = _new_key(content.sha256, secrets.token_hex(6))
        key = await self._catalogue.claim_blob(upload.id, content, wanted, now, now + CLAIM_LIFETIME)
        failpoints.reached("storage.claim.after_commit")
        await self._blobs.publish(upload.id, key, content.size)
        failpoints.reached("storage.publish.after_rename")
        made = await self._catalogue.finish_upload(upload.id, self._become(upload, content, key))
        failpoints.reached("storage.finish.after_commit")
        return made

    async def _finish_without_bytes(self, upload: Upload, expected: ExpectedChecksums) -> Artifact:
        """Of what an earlier finish left behind, else of what the tenant has stored."""
        left = upload.claimed_content
        if left and expected.match(left) and await self._blobs.size(upload.claimed_key) == left.size:
            return await self._catalogue.finish_upload(
                upload.id, self._become(upload, left, upload.claimed_key)
            )
        known = await self._known(upload.draft.tenant, expected.sha256)
        if known is None or not expected.match(known.content):
            raise OffsetConflict("the content is not stored: write it", 0)

        def make(content: Digests, key: str) -> Artifact:
            return self._become(upload, content, key, known.verify_time)

        made = await self._catalogue.finish_from_stored(upload.id, expected.sha256, make)
        if made is None:
            raise OffsetConflict("the content was removed a moment ago: write it", 0)
        return made

    async def _standing(self, upload: Upload) -> UploadStatus:
        size = await self._blobs.staged_size(upload.id)
        known = upload.artifact_id or await self._known(upload.draft.tenant, upload.expected_sha256)
        return UploadStatus(upload, size, bool(known))

    async def _known(self, tenant: str, sha256: str) -> Artifact | None:
        """A living artifact of *tenant* whose bytes are *sha256*, and rest where they should."""
        if not sha256:
            return None
        found = await self._catalogue.find_by_sha256(tenant, [sha256], self._now())
        if sha256 not in found:
            return None
        artifact = await self._catalogue.get_artifact(found[sha256])
        whole = await self._blobs.size(artifact.key) == artifact.content.size
        return artifact if whole else None

    async def _alive(self, id: str) -> Upload:  # noqa: A002
        upload = await self._catalogue.get_upload(id)
        upload.check_visible_to(caller())
        upload.check_not_expired(self._now())
        return upload

    def _become(
        self, upload: Upload, content: Digests, key: str, verify_time: datetime | None = None
    ) -> Artifact:
        return build_artifact(upload, content, key, id=str(uuid4()), now=self._now(), verify_time=verify_time)


def _tenant(draft: NewArtifact) -> str:
    who = caller()
    return draft.tenant if who.suite and draft.tenant else who.tenant


def _finished(written: Artifact | int) -> Artifact:
    if isinstance(written, Artifact):
        return written
    raise FieldInvalid("finish_write", "a one-shot write must end with it")


def _new_key(sha256: str, nonce: str) -> str:
    """Return the key of content that is stored now; *nonce* is fresh at each call.

    A key is never used twice, so a slow deletion of bytes stored before under the same digest
    cannot delete the new ones.
    """
    return f"{sha256[:2]}/{sha256[2:4]}/{sha256}.{nonce}"
