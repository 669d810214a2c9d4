"""Uploads: receives bytes, verifies them and makes artifacts of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import uuid4
from weakref import WeakValueDictionary

from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import FieldInvalid, NotFound
from reelhaul_runtime.identity import caller
from reelhaul_storage import metrics
from reelhaul_storage.digests import EMPTY_SHA256, Digests, crc32c
from reelhaul_storage.errors import ChecksumMismatch, OffsetConflict, TooLarge
from reelhaul_storage.model import (
    CLAIM_LIFETIME,
    UPLOAD_LIFETIME,
    Artifact,
    Chunk,
    DiskSpace,
    ExpectedChecksums,
    NewArtifact,
    PartUrls,
    SentPart,
    Upload,
    build_artifact,
)
from reelhaul_storage.ports import BlobStore, Catalog, StagedWriter

# Uploads are kept this much longer, so that not every write must extend them: that is a transaction.
_EXPIRY_TOLERANCE = timedelta(minutes=10)
# A writer that sends nothing for this many seconds is dropped: it blocks other writers of the upload.
_IDLE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """The progress of an upload."""

    upload: Upload
    persisted_size: int
    #: Whether the upload can be finished without sending bytes, or is finished already.
    content_exists: bool
    #: Whether storage can adopt the file that CreateUpload named.
    adoptable: bool = False
    #: Where to send the bytes instead of to storage; None if that is not possible or not wanted.
    part_urls: PartUrls | None = None


class Uploads:
    """Use cases of uploads. A caller sees the uploads of its tenant; the suite sees all."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        now: Callable[[], datetime],
        *,
        max_bytes: int,
        generation: Callable[[], int] = lambda: 0,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._now = now
        self._max_bytes = max_bytes
        # Of the location of *blobs*, which changes when they are moved.
        self._generation = generation
        self._finish_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def create(self, upload: Upload, adopt_path: str = "") -> UploadStatus:
        """Create *upload*; its id, tenant, times and reservation are set here.

        Starts hashing the file at *adopt_path*, if there is one and its content is not stored yet.
        Raises STORAGE_UNAVAILABLE if the disk has too little space for it and the other unfinished uploads.
        """
        adoptable = bool(adopt_path) and await self._blobs.can_adopt(adopt_path)
        space = await self._measure_space(upload, adoptable=adoptable)
        upload = replace(upload, reserved_size=upload.total_size if space else 0)
        upload, is_new = await self._add(upload, space)
        staged_size = 0 if is_new else await self._blobs.staged_size(upload.id)
        status = await self._with_part_urls(await self._get_status(upload, staged_size))
        if adoptable and not status.content_exists:
            self._blobs.prehash(status.upload.id, adopt_path)
        return replace(status, adoptable=adoptable)

    async def get(self, id: str) -> UploadStatus:  # noqa: A002
        """Return the progress of an upload. Raises RESOURCE_NOT_FOUND, ARTIFACT_EXPIRED."""
        upload = await self._get_unexpired(id)
        staged_size = await self._blobs.staged_size(id)
        return await self._with_part_urls(await self._get_status(upload, staged_size))

    async def list_unfinished(self, after: tuple[datetime, str] | None, limit: int) -> list[UploadStatus]:
        """Return unfinished uploads, oldest first, that follow (create_time, id) *after*."""
        who = caller()
        uploads = await self._catalog.list_uploads(None if who.suite else who.tenant, after, limit)
        return [
            await self._get_status(upload, await self._blobs.staged_size(upload.id)) for upload in uploads
        ]

    async def delete(self, id: str) -> None:  # noqa: A002
        """Delete an unfinished upload and its bytes. A finished or missing one is not an error."""
        if not await self._catalog.find_unfinished_uploads([id]):
            return
        (await self._catalog.get_upload(id)).check_visible_to(caller())
        # The bytes first: on a full disk the catalog can be written again once they are gone.
        await self._blobs.discard(id)
        failpoints.hit("storage.delete_upload.after_discard")
        await self._catalog.delete_uploads([id])

    async def write(self, id: str, chunks: AsyncIterator[Chunk]) -> Artifact | int:  # noqa: A002
        """Append *chunks*; return the artifact if the last one finishes, else the durable size.

        Raises WRITE_OFFSET_CONFLICT, WRITE_CHECKSUM_MISMATCH, ARTIFACT_EXPIRED, MEDIA_TOO_LARGE.
        """
        upload = await self._get_unexpired(id)
        if upload.artifact_id:
            artifact = await self._catalog.get_artifact(upload.artifact_id)
            raise OffsetConflict(f"{upload.name} is finished", artifact.content.size)
        await self._extend(upload)
        with _counting_refusal():
            persisted, finish = await self._stage(upload, chunks)
        failpoints.hit("storage.write.after_persist")
        await self._extend(upload)
        return persisted if finish is None else await self.finish(id, finish)

    async def write_artifact(self, draft: NewArtifact, chunks: AsyncIterator[Chunk]) -> Artifact:
        """Make an artifact of *chunks* in one call; a failed call leaves nothing behind."""
        now = self._now()
        upload, _ = await self._add(Upload("", draft, now, now))
        try:
            with _counting_refusal():
                _, expected = await self._stage(upload, chunks)
                return await self._finish(upload, _require_finish(expected))
        except BaseException:
            # Also when cancelled: nobody else knows the name, so nobody else could delete it.
            await asyncio.shield(self.delete(upload.id))
            raise

    async def finish(
        self,
        id: str,  # noqa: A002
        expected: ExpectedChecksums,
        adopt_path: str = "",
        parts: Sequence[SentPart] = (),
    ) -> Artifact:
        """Verify the content and make the artifact; a repeated call returns the same artifact.

        The content of *parts*, which the client has sent to the blob store, is verified later: until then
        its checksums are those that the client stated. Raises WRITE_CHECKSUM_MISMATCH (write again from 0),
        WRITE_OFFSET_CONFLICT (bytes are missing), FIELD_INVALID (adopt_path, parts).
        """
        async with self._finish_locks.setdefault(id, asyncio.Lock()):
            upload = await self._get_unexpired(id)
            if upload.artifact_id:
                return await self._catalog.get_artifact(upload.artifact_id)
            with _counting_refusal():
                if parts:
                    return await self._finish_parts(upload, expected, parts)
                return await self._finish(upload, expected, adopt_path)

    async def _finish_parts(
        self, upload: Upload, expected: ExpectedChecksums, parts: Sequence[SentPart]
    ) -> Artifact:
        """Make an artifact of *parts*, whose content has the *expected* checksums as the client says."""
        _check_expected(upload, expected)
        upload = replace(upload, generation=self._generation())
        if not upload.direct or not upload.total_size or expected.crc32c is None:
            raise FieldInvalid("parts", "must be empty: the upload has no part_urls")
        try:
            await self._blobs.take_parts(upload.id, upload.total_size, parts)
        except OffsetConflict:
            # After an interrupted finish they are no parts any more: all bytes are there, or published.
            return await self._finish(upload, expected)
        failpoints.hit("storage.parts.after_take")
        content = Digests(upload.total_size, expected.sha256, expected.crc32c)
        return await self._publish(upload, content, is_verified=False)

    async def _finish(self, upload: Upload, expected: ExpectedChecksums, adopt_path: str = "") -> Artifact:
        _check_expected(upload, expected)
        upload = replace(upload, generation=self._generation())
        if adopt_path:
            await self._blobs.adopt(upload.id, adopt_path)
            failpoints.hit("storage.adopt.after_link")
        elif upload.total_size and 0 < (size := await self._blobs.staged_size(upload.id)) < upload.total_size:
            # Before anything is read to be hashed.
            raise OffsetConflict(f"{upload.total_size - size} bytes are missing", size)
        content = await self._blobs.hash_staged(upload.id)
        if content.size == 0 and not adopt_path and expected.sha256 != EMPTY_SHA256:
            return await self._finish_without_bytes(upload, expected)
        return await self._finish_staged(upload, content, expected)

    async def _finish_staged(self, upload: Upload, content: Digests, expected: ExpectedChecksums) -> Artifact:
        self._check_size(content.size)
        if content.size < upload.total_size:
            raise OffsetConflict(f"{upload.total_size - content.size} bytes are missing", content.size)
        if not expected.match(content) or upload.total_size not in (0, content.size):
            await self._discard_mismatch(upload, content)
            raise ChecksumMismatch(f"the written bytes have sha256 {content.sha256}; write them again", 0)
        if content.size == 0:
            async with self._blobs.stage(upload.id, 0):
                pass  # creates the empty file that is published below
        return await self._publish(upload, content, is_verified=True)

    async def _publish(self, upload: Upload, content: Digests, *, is_verified: bool) -> Artifact:
        """Publish the staged *content* and make the artifact; *is_verified* if storage has hashed it."""
        now = self._now()
        new_key = await self._blobs.choose_key(upload.id, content.sha256)
        claim = (new_key, now, now + CLAIM_LIFETIME, upload.generation)
        try:
            if not is_verified and not await self._catalog.claim_new_blob(upload.id, content, *claim):
                # A client that states a digest must not get bytes that others have sent under it.
                content, is_verified = await self._verify_staged(upload, content), True
            key = await self._catalog.claim_blob(upload.id, content, *claim) if is_verified else new_key
        except OffsetConflict:
            await self._blobs.discard(upload.id)
            raise
        failpoints.hit("storage.claim.after_commit")
        is_intact = key != new_key and await self._catalog.is_intact(key)
        await self._blobs.publish(upload.id, key, content.size, replace=not is_intact)
        failpoints.hit("storage.publish.after_rename")
        verify_time = self._now() if is_verified else None
        artifact = self._build_artifact(upload, content, key, verify_time)
        artifact = await self._catalog.finish_upload(upload.id, artifact, upload.generation)
        (metrics.DEDUPLICATED if is_intact else metrics.STORED).inc()
        failpoints.hit("storage.finish.after_commit")
        return artifact

    async def _verify_staged(self, upload: Upload, stated: Digests) -> Digests:
        """Hash what is staged. Raises WRITE_CHECKSUM_MISMATCH unless it is as *stated*."""
        content = await self._blobs.hash_staged(upload.id)
        if content != stated:
            await self._discard_mismatch(upload, content)
            raise ChecksumMismatch(f"the sent bytes have sha256 {content.sha256}; send them again", 0)
        return content

    async def _discard_mismatch(self, upload: Upload, content: Digests) -> None:
        """Discard the staged *content*; also a blob that hashing has made of it, unless that is claimed."""
        key = await self._blobs.choose_key(upload.id, content.sha256)
        await self._blobs.discard(upload.id)
        if not await self._catalog.find_known_keys([key]):
            await self._blobs.delete(key)

    async def _finish_without_bytes(self, upload: Upload, expected: ExpectedChecksums) -> Artifact:
        """Finish with the blob of an earlier, interrupted finish, or with one the tenant stores."""
        if (claimed := upload.claimed_content) and await self._is_published(upload, expected):
            # What a client has sent to the blob store was not verified.
            verify_time = None if upload.direct else self._now()
            finished = self._build_artifact(upload, claimed, upload.claimed_key, verify_time)
            artifact = await self._catalog.finish_upload(upload.id, finished, upload.generation)
            metrics.STORED.inc()
            return artifact
        stored = await self._find_stored(upload.draft.tenant, expected.sha256)
        if stored is None or not expected.match(stored.content):
            raise OffsetConflict("the content is not stored: write it", 0)

        def make(content: Digests, key: str) -> Artifact:
            return self._build_artifact(upload, content, key, stored.verify_time)

        reused = await self._catalog.finish_from_stored(upload.id, expected.sha256, make, upload.generation)
        if reused is None:
            raise OffsetConflict("the content has just been deleted: write it", 0)
        metrics.DEDUPLICATED.inc()
        if upload.direct:
            # The client has URLs for parts, which it did not need.
            await self._blobs.discard(upload.id)
        return reused

    async def _is_published(self, upload: Upload, expected: ExpectedChecksums) -> bool:
        """Return whether an interrupted finish of *upload* has published its content."""
        claimed = upload.claimed_content
        return (
            claimed is not None
            and expected.match(claimed)
            and await self._blobs.size(upload.claimed_key) == claimed.size
        )

    async def _measure_space(self, upload: Upload, *, adoptable: bool) -> DiskSpace | None:
        """Return the space that *upload* takes a part of; None if it takes none, or an unknown size."""
        tenant = _choose_tenant(upload.draft)
        if not upload.total_size or await self._find_stored(tenant, upload.expected_sha256):
            return None
        space = await self._blobs.measure_space()
        return None if space is not None and adoptable and space.adopts_by_link else space

    async def _add(self, upload: Upload, space: DiskSpace | None = None) -> tuple[Upload, bool]:
        """Insert *upload* with a new id, its tenant and its times, if there is *space* for it.

        Return it, or the earlier one with its request_id, and whether it is new.
        """
        self._check_size(upload.total_size)
        now = self._now()
        draft = replace(upload.draft, tenant=_choose_tenant(upload.draft))
        upload = replace(upload, id=str(uuid4()), draft=draft, create_time=now, expire_time=_expiry(now))
        added = await self._catalog.add_upload(upload, space)
        failpoints.hit("storage.create.after_commit")
        return added, added.id == upload.id

    async def _extend(self, upload: Upload) -> None:
        """Set the expiry of an upload that is being written to, unless it is right already."""
        now = self._now()
        if upload.expire_time < now + UPLOAD_LIFETIME:
            await self._catalog.extend_upload(upload.id, _expiry(now))

    async def _stage(
        self, upload: Upload, chunks: AsyncIterator[Chunk]
    ) -> tuple[int, ExpectedChecksums | None]:
        """Stage *chunks*; return the durable size and the last chunk's *finish*.

        If a chunk is rejected, the ones before it stay staged.
        """
        chunk = await _next_chunk(chunks)
        if chunk is None:
            raise FieldInvalid("content", "no message was sent")
        size = chunk.offset
        async with self._blobs.stage(upload.id, size, upload.total_size) as staged:
            while chunk is not None:
                self._check_size(size + len(chunk.content))
                await _check_chunk(upload, staged, chunk, size)
                await staged.write(chunk.content)
                failpoints.hit("storage.write.after_chunk")
                size += len(chunk.content)
                if chunk.finish is not None:
                    return await staged.persist(), chunk.finish
                chunk = await _next_chunk(chunks)
            return await staged.persist(), None

    async def _get_status(self, upload: Upload, staged_size: int) -> UploadStatus:
        stored = (
            upload.artifact_id
            or await self._is_published(upload, ExpectedChecksums(upload.expected_sha256))
            or await self._find_stored(upload.draft.tenant, upload.expected_sha256)
        )
        return UploadStatus(upload, staged_size, bool(stored))

    async def _with_part_urls(self, status: UploadStatus) -> UploadStatus:
        upload = status.upload
        if not upload.direct or not upload.total_size or status.content_exists:
            return status
        return replace(status, part_urls=await self._blobs.open_parts(upload.id, upload.total_size))

    async def _find_stored(self, tenant: str, sha256: str) -> Artifact | None:
        """Return an unexpired artifact of *tenant* with digest *sha256* whose blob is complete."""
        if not sha256:
            return None
        ids = await self._catalog.find_by_sha256(tenant, [sha256], self._now())
        if sha256 not in ids:
            return None
        try:
            artifact = await self._catalog.get_artifact(ids[sha256])
        except NotFound:
            return None  # it has just been deleted
        complete = await self._blobs.size(artifact.key) == artifact.content.size
        return artifact if complete else None

    async def _get_unexpired(self, id: str) -> Upload:  # noqa: A002
        upload = await self._catalog.get_upload(id)
        upload.check_visible_to(caller())
        upload.check_not_expired(self._now())
        return upload

    def _check_size(self, size: int) -> None:
        """Raise MEDIA_TOO_LARGE if *size* exceeds the limit of one artifact."""
        if size > self._max_bytes:
            raise TooLarge(size, self._max_bytes)

    def _build_artifact(
        self, upload: Upload, content: Digests, key: str, verify_time: datetime | None
    ) -> Artifact:
        return build_artifact(upload, content, key, id=str(uuid4()), now=self._now(), verify_time=verify_time)


@contextmanager
def _counting_refusal() -> Iterator[None]:
    """Count content that the block refuses; a client that must send more of it is not refused."""
    try:
        yield
    except (ChecksumMismatch, TooLarge, FieldInvalid):
        metrics.REFUSED.inc()
        raise


def _check_expected(upload: Upload, expected: ExpectedChecksums) -> None:
    if upload.expected_sha256 not in ("", expected.sha256):
        raise ChecksumMismatch("total_checksums differ from expected_checksums", 0)


def _require_finish(expected: ExpectedChecksums | None) -> ExpectedChecksums:
    if expected is None:
        raise FieldInvalid("finish_write", "must be set on the last message of a one-shot write")
    return expected


def _expiry(last_write: datetime) -> datetime:
    return last_write + UPLOAD_LIFETIME + _EXPIRY_TOLERANCE


def _choose_tenant(draft: NewArtifact) -> str:
    who = caller()
    return draft.tenant if who.suite and draft.tenant else who.tenant


async def _check_chunk(upload: Upload, staged: StagedWriter, chunk: Chunk, size: int) -> None:
    """Raise unless *chunk* is intact, starts at *size*, and ends within the announced size."""
    if upload.total_size and size + len(chunk.content) > upload.total_size:
        raise FieldInvalid("content", f"exceeds the announced size of {upload.total_size} bytes")
    if chunk.offset != size:
        raise OffsetConflict(f"write_offset is {chunk.offset}, not {size}", await staged.persist())
    if chunk.crc32c is not None and chunk.crc32c != crc32c(chunk.content):
        raise ChecksumMismatch(f"crc32c does not match the content at {size}", await staged.persist())


async def _next_chunk(chunks: AsyncIterator[Chunk]) -> Chunk | None:
    async with asyncio.timeout(_IDLE_SECONDS):
        return await anext(chunks, None)
