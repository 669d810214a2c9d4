"""What storage needs of the world: a catalogue of what there is, and a place for bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from reelhaul_storage.digests import Digests
from reelhaul_storage.model import Artifact, Query, Upload


class StagedWriter(Protocol):
    """An open write: the only one of its upload."""

    async def write(self, content: bytes) -> None:
        """Append *content*; it may still be on its way to the disk afterwards."""

    async def persist(self) -> int:
        """Return the size once all that was written is safe on disk."""


class BlobStore(Protocol):
    """Where bytes rest: first staged by upload, then published under a key, for ever the same.

    Every method raises STORAGE_UNAVAILABLE while the store is full or does not answer.
    """

    @property
    def backend(self) -> str:
        """What Artifact.backend says: ``local`` or ``s3``."""

    def stage(self, upload: str, offset: int) -> AbstractAsyncContextManager[StagedWriter]:
        """Write on from *offset*.

        WRITE_OFFSET_CONFLICT unless exactly that many bytes are staged, or while another
        writer is at it. On leaving, however it ends, what reached the disk stays staged.
        """

    async def staged_size(self, upload: str) -> int:
        """Bytes of *upload* that are safe on disk; 0 where there is none such."""

    async def hash_staged(self, upload: str) -> Digests:
        """Of all that is staged; of nothing where nothing is."""

    def prehash(self, upload: str, path: str) -> None:
        """*upload* is going to adopt the file at *path*: read it, so that its digests are known then.

        Returns at once, takes nothing and never fails; ``discard`` ends it. A file that is not
        as it was read when it is adopted is read again.
        """

    async def adopt(self, upload: str, path: str) -> None:
        """Stage the file at *path* in the shared folder instead of what was staged.

        The file is no longer written to by then. FIELD_INVALID where *path* leads out of
        the folder, through a link, or to no plain file.
        """

    async def publish(self, upload: str, key: str, size: int) -> None:
        """Let what is staged rest under *key*, at once and durably; staged it is no more.

        Where *key* rests already, its content being the same, that is enough.
        """

    async def discard(self, upload: str) -> None:
        """Drop what is staged; nothing staged is no error."""

    async def size(self, key: str) -> int | None:
        """Bytes that rest under *key*; None where nothing does."""

    def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """The bytes of *key* from *offset* on, in pieces of at most 512 KiB, *length* in all.

        EOFError where they are not all there, KeyError where *key* does not rest here. A
        read that has begun survives ``delete``.
        """

    async def delete(self, key: str) -> None:
        """Forget *key*; forgetting what was never there is no error."""

    def list_staged(self, before: datetime) -> AsyncIterator[str]:
        """Uploads with something staged that was last written *before*."""

    def list_keys(self, before: datetime) -> AsyncIterator[str]:
        """Keys that were published *before*."""

    async def check(self) -> None:
        """Return if bytes can be written and read now."""


class Catalog(Protocol):
    """What there is: artifacts, uploads, and which bytes they mean.

    Each method is one transaction. A blob that the last artifact left is *doomed*: its
    key is never used again, and its bytes can be deleted at leisure.
    """

    async def add_upload(self, upload: Upload) -> Upload:
        """Remember *upload*. The one made before under the same tenant and request_id is
        returned in its place; REQUEST_ID_REUSED if that was another request."""

    async def get_upload(self, id: str) -> Upload:  # noqa: A002
        """RESOURCE_NOT_FOUND if there is none such."""

    async def list_uploads(
        self, tenant: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[Upload]:
        """Unfinished ones, the oldest first, those past (create_time, id) *after*."""

    async def extend_upload(self, id: str, until: datetime) -> None:  # noqa: A002
        """Put off its end; nothing where it is gone."""

    async def delete_uploads(self, ids: Iterable[str]) -> None:
        """Forget them; those gone already are no error."""

    async def claim_blob(
        self, upload: str, content: Digests, key: str, now: datetime, until: datetime
    ) -> str:
        """The key for *content* of *upload*: the one it rests under, else *key*, now taken.

        No deletion dooms it before *until*, or before ``finish``.
        """

    async def finish_upload(self, upload: str, artifact: Artifact) -> Artifact:
        """Make *artifact* of the upload, its bytes being safe under its key.

        The one that the upload became before, if it did. STORAGE_UNAVAILABLE where the
        claim had lapsed and the bytes are gone: write them again.
        """

    async def finish_from_stored(
        self, upload: str, sha256: str, make: Callable[[Digests, str], Artifact]
    ) -> Artifact | None:
        """As claim and finish in one, without bytes: *make* is given what the upload's
        tenant has stored under *sha256*. None if that is nothing."""

    async def get_artifact(self, id: str) -> Artifact:  # noqa: A002
        """RESOURCE_NOT_FOUND if there is none such."""

    async def list_artifacts(self, query: Query) -> list[Artifact]:
        """What *query* asks for."""

    async def find_by_sha256(self, tenant: str, sha256: Iterable[str], now: datetime) -> dict[str, str]:
        """Digest -> id of an artifact of *tenant* that has this content and is alive."""

    async def update_artifact(self, id: str, change: Callable[[Artifact], Artifact]) -> Artifact:  # noqa: A002
        """Put in its place what *change* makes of the present one; what it raises undoes all."""

    async def delete_artifacts(
        self, ids: Iterable[str], check: Callable[[Artifact], None], now: datetime
    ) -> None:
        """Forget them all, or none where one is missing (RESOURCE_NOT_FOUND) or *check* raises.

        Blobs that nothing means any more are doomed.
        """

    async def list_expired_uploads(self, now: datetime, limit: int) -> list[str]:
        """Uploads past their time."""

    async def delete_expired_artifacts(self, now: datetime, limit: int) -> int:
        """Forget artifacts past their time, at most *limit*; how many they were."""

    async def doom_unused_blobs(self, before: datetime, now: datetime, limit: int) -> None:
        """Doom blobs claimed *before* and used by nothing: their writer died."""

    async def list_doomed_keys(self, limit: int) -> list[str]:
        """Keys whose bytes may be deleted."""

    async def delete_doomed_keys(self, keys: Iterable[str]) -> None:
        """Their bytes are deleted."""

    async def find_known_keys(self, keys: Iterable[str]) -> set[str]:
        """Those of *keys* that are catalogued, doomed or not."""

    async def find_unfinished_uploads(self, ids: Iterable[str]) -> set[str]:
        """Those of *ids* that are catalogued and not finished."""
