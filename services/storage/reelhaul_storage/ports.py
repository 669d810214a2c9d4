"""Ports of storage: the catalog of artifacts and uploads, and the store of their bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from reelhaul_runtime.filters.ast import Node
from reelhaul_storage.digests import Digests
from reelhaul_storage.model import (
    Artifact,
    Blob,
    BlobHealth,
    BlobLocation,
    DeliveredObject,
    Destination,
    DiskSpace,
    LinkTerms,
    PartUrls,
    Query,
    SentPart,
    TenantUsage,
    Upload,
)


class StagedWriter(Protocol):
    """The only open writer of one upload."""

    async def write(self, content: bytes) -> None:
        """Append *content*; it may reach the disk after this returns."""

    async def persist(self) -> int:
        """Make everything written durable; return the size."""


class BlobStore(Protocol):
    """Stores immutable blobs by key. Bytes are first staged for an upload, then published under a key.

    Every method raises STORAGE_UNAVAILABLE if the store is full or does not respond.
    """

    @property
    def backend(self) -> str:
        """The value of Artifact.backend: ``local`` or ``s3``."""

    def stage(
        self, upload: str, offset: int, total_size: int = 0
    ) -> AbstractAsyncContextManager[StagedWriter]:
        """Open *upload*, which will have *total_size* bytes (0: unknown), for appending at *offset*.

        Raises WRITE_OFFSET_CONFLICT unless exactly *offset* bytes are staged, and while another
        writer is active. However the block ends, bytes that reached the disk stay staged.
        """

    async def staged_size(self, upload: str) -> int:
        """Return the number of durable staged bytes of *upload*; 0 if there are none."""

    async def hash_staged(self, upload: str) -> Digests:
        """Return the digests of all staged bytes; those of empty content if nothing is staged."""

    async def can_adopt(self, path: str) -> bool:
        """Return whether ``adopt`` can take over the file at *path*: a regular file in the shared folder.

        False if the store adopts no files.
        """

    def prehash(self, upload: str, path: str) -> None:
        """Start hashing the file at *path*, which *upload* is going to adopt.

        Returns at once, takes nothing over and never raises; ``discard`` cancels it. If the file
        has changed by the time it is adopted, it is hashed again.
        """

    async def adopt(self, upload: str, path: str) -> None:
        """Stage the file at *path* in the shared folder, in place of what was staged.

        Nobody may write to the file any more. Raises FIELD_INVALID if *path* leads out of the
        folder, through a link, or to anything but a regular file.
        """

    async def open_parts(self, upload: str, total_size: int) -> PartUrls | None:
        """Return URLs for sending *total_size* bytes of *upload* to the store itself; None if it has none.

        The URLs of an earlier call stay valid until they expire.
        """

    async def take_parts(self, upload: str, total_size: int, parts: Sequence[SentPart]) -> None:
        """Stage *parts*, which a client has sent to the URLs of ``open_parts``.

        Raises WRITE_OFFSET_CONFLICT unless they are there, with these ETags, and have *total_size* bytes.
        """

    async def choose_key(self, upload: str, sha256: str) -> str:
        """Return the key under which to publish what is staged, unless its content has a blob already.

        A key is never used for a second blob: a slow deletion of the first could delete it. It is the same
        in two calls only if it depends on what is staged.
        """

    async def publish(self, upload: str, key: str, size: int, *, replace: bool = True) -> None:
        """Move the *size* staged bytes to *key*, atomically and durably; nothing stays staged.

        A blob already published under *key* has the same content. Without *replace* it may stay.
        Raises WRITE_OFFSET_CONFLICT if another number of bytes is staged.
        """

    async def discard(self, upload: str) -> None:
        """Delete what is staged. Nothing staged is not an error."""

    async def size(self, key: str) -> int | None:
        """Return the size of blob *key*; None if it does not exist."""

    def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """Stream *length* bytes of blob *key* from *offset*, in pieces of at most 512 KiB.

        Raises KeyError if *key* does not exist and EOFError if the blob ends too early. A read
        that has started survives ``delete``.
        """

    async def delete(self, key: str) -> None:
        """Delete blob *key*. Deleting a missing key is not an error.

        Raises DeletionPaused while a backup reads the blobs.
        """

    def list_staged(self, before: datetime) -> AsyncIterator[str]:
        """Iterate over the uploads whose staged bytes were last written *before*."""

    def list_keys(self, before: datetime) -> AsyncIterator[str]:
        """Iterate over the keys published *before*."""

    async def check(self) -> None:
        """Write, read and delete some bytes; return if that works."""

    async def measure_space(self) -> DiskSpace | None:
        """Return the space on the disk; None if the store has no limit that it knows."""


class LinkSigner(Protocol):
    """Creates URLs that let whoever knows them read an artifact."""

    @property
    def revocable(self) -> bool:
        """Whether a link is refused once ``Artifact.link_generation`` has grown."""

    async def sign(self, artifact: Artifact, terms: LinkTerms) -> str:
        """Return the URL of *artifact*, under its file name, within *terms*.

        Raises METHOD_UNSUPPORTED if links cannot be bound to the network of *terms*.
        """


class DestinationStore(Protocol):
    """Stores destinations by tenant and id. Each method is one transaction."""

    async def add(self, destination: Destination) -> None:
        """Insert *destination*.

        Raises RESOURCE_EXISTS, and QUOTA_EXCEEDED if the tenant has ``MAX_DESTINATIONS_PER_TENANT``.
        """

    async def get(self, tenant: str, id: str) -> Destination:  # noqa: A002
        """Return the destination. Raises RESOURCE_NOT_FOUND."""

    async def list_page(self, tenant: str, after: str, limit: int) -> list[Destination]:
        """Return the destinations of *tenant* whose ids follow *after*, by id."""

    async def update(
        self,
        tenant: str,
        id: str,  # noqa: A002
        change: Callable[[Destination], Destination],
    ) -> Destination:
        """Replace the destination by what *change* returns. An exception from *change* rolls back."""

    async def delete(self, tenant: str, id: str, check: Callable[[Destination], None]) -> None:  # noqa: A002
        """Delete the destination unless *check* raises. Raises RESOURCE_NOT_FOUND."""


class DestinationBuckets(Protocol):
    """Writes to the buckets of destinations.

    Every method raises URL_FORBIDDEN if the address may not be reached, DESTINATION_UNAVAILABLE if the
    bucket does not respond, and DESTINATION_REFUSED if it rejects the request.
    """

    async def check_endpoint(self, url: str) -> None:
        """Raise URL_INVALID or URL_FORBIDDEN if *url* may not be the endpoint of a destination."""

    async def seal(self, secret: str) -> bytes:
        """Return *secret* as it may be stored."""

    async def check(self, destination: Destination) -> None:
        """Write, read and delete a small object."""

    async def deliver(
        self, destination: Destination, object_name: str, artifact: Artifact, content: AsyncIterator[bytes]
    ) -> DeliveredObject:
        """Store *content*, that of *artifact*, under the destination's prefix and *object_name*; verify it.

        *content* is not read if the object is there already. A call that fails or is cancelled leaves no
        incomplete object and no parts. An exception from *content* is passed on.
        """


class LocationStore(Protocol):
    """Stores where the blobs are. Each method is one transaction."""

    @property
    def version(self) -> Hashable | None:
        """What is another value once the location has changed; None if only ``get_location`` can tell.

        A change within some milliseconds after another one may be missed.
        """

    async def get_location(self) -> BlobLocation:
        """Return the location."""

    async def set_location(self, location: BlobLocation) -> None:
        """Replace the location, whose generation must be the one before. Raises STORAGE_UNAVAILABLE."""

    async def list_blobs(self, after: str, limit: int) -> list[Blob]:
        """Return blobs by key, also those of unfinished uploads, that follow the key *after*."""

    async def sum_blobs(self) -> int:
        """Return the bytes of all blobs."""

    async def is_referenced(self, key: str) -> bool:
        """Return whether an artifact refers to blob *key*."""

    async def end_move(self, location: BlobLocation, pending: Collection[str]) -> list[Blob]:
        """Replace the location unless artifacts refer to blobs with keys in *pending*; return those.

        Raises as ``set_location`` does.
        """


class Catalog(Protocol):
    """Stores artifacts, uploads, and which blobs they reference.

    Each method is one transaction. A blob that loses its last reference is *doomed*: its key is
    never used again, and its bytes may be deleted at any later time.
    """

    async def add_upload(self, upload: Upload, space: DiskSpace | None = None) -> Upload:
        """Insert *upload*, or return the earlier one with the same tenant and request_id.

        Raises REQUEST_ID_REUSED if the earlier one was another request, QUOTA_EXCEEDED if the tenant has
        ``MAX_UPLOADS_PER_TENANT`` unfinished uploads, and STORAGE_UNAVAILABLE if *space* does not suffice for
        what this and all unfinished uploads reserve; then nothing is inserted.
        """

    async def get_upload(self, id: str) -> Upload:  # noqa: A002
        """Return the upload. Raises RESOURCE_NOT_FOUND."""

    async def list_uploads(
        self, tenant: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[Upload]:
        """Return unfinished uploads, oldest first, that follow (create_time, id) *after*.

        Of all tenants if *tenant* is None.
        """

    async def extend_upload(self, id: str, until: datetime) -> None:  # noqa: A002
        """Set the expiry of an upload to *until*. A missing upload is not an error."""

    async def delete_uploads(self, ids: Iterable[str]) -> None:
        """Delete uploads. Missing ones are not an error."""

    async def claim_blob(
        self,
        upload: str,
        content: Digests,
        key: str,
        now: datetime,
        until: datetime,
        generation: int = 0,
    ) -> str:
        """Claim a blob for *content* of *upload* and return its key.

        Raises STORAGE_UNAVAILABLE if the blobs' location has another *generation* now.

        That is the key of the existing blob with this content, or else *key*. A blob that only direct
        uploads of others have claimed is doomed: its bytes are not verified. Otherwise the blob is not
        doomed before *until* or ``finish_upload``. Raises WRITE_OFFSET_CONFLICT if *upload* has claimed
        *key* before, and it is no blob with this content now: a key is not used again.
        """

    async def claim_new_blob(
        self,
        upload: str,
        content: Digests,
        key: str,
        now: datetime,
        until: datetime,
        generation: int = 0,
    ) -> bool:
        """Claim *key* for *content* of *upload* unless another upload has or had a blob with this content.

        Return whether it is claimed. Raises as ``claim_blob`` does.
        """

    async def is_intact(self, key: str) -> bool:
        """Return whether the bytes of blob *key* were verified and not found damaged since."""

    async def finish_upload(self, upload: str, artifact: Artifact, generation: int = 0) -> Artifact:
        """Insert *artifact*, whose bytes are published, and mark *upload* as finished.

        *generation* is that of the blobs' location when the finish began.

        The bytes are new, so they are no longer damaged, and as verified as the artifact is.
        Returns the existing artifact if the upload was finished before. Raises
        STORAGE_UNAVAILABLE if the claim lapsed and the blob is gone: the caller must write again; and if
        the location has another *generation* now: the bytes may be missing there.
        """

    async def finish_from_stored(
        self, upload: str, sha256: str, make: Callable[[Digests, str], Artifact], generation: int = 0
    ) -> Artifact | None:
        """Finish *upload* with an undamaged blob that its tenant already stores under *sha256*.

        *make* receives the content and key of that blob. Returns None if there is no such blob.
        Raises STORAGE_UNAVAILABLE as ``finish_upload`` does.
        """

    async def get_artifact(self, id: str) -> Artifact:  # noqa: A002
        """Return the artifact. Raises RESOURCE_NOT_FOUND."""

    async def get_artifacts(self, ids: Iterable[str]) -> list[Artifact]:
        """Return the artifacts with *ids* that exist, in any order."""

    async def list_artifacts(self, query: Query) -> list[Artifact]:
        """Return the artifacts that match *query*. Raises REQUEST_TIMED_OUT."""

    async def summarize_artifacts(self, tenant: str | None, where: Node | None) -> list[TenantUsage]:
        """Return the number and size of the artifacts that match *where*, by tenant, largest first.

        Of all tenants if *tenant* is None. Raises REQUEST_TIMED_OUT.
        """

    async def find_by_sha256(self, tenant: str, sha256: Iterable[str], now: datetime) -> dict[str, str]:
        """Return digest -> id of an unexpired, undamaged artifact of *tenant* with that content."""

    async def update_artifact(self, id: str, change: Callable[[Artifact], Artifact]) -> Artifact:  # noqa: A002
        """Replace the artifact by what *change* returns. An exception from *change* rolls back."""

    async def delete_artifacts(
        self, ids: Iterable[str], check: Callable[[Artifact], None], now: datetime
    ) -> None:
        """Delete all artifacts in *ids*, and doom the blobs that lose their last reference.

        Deletes none if one is missing (RESOURCE_NOT_FOUND) or if *check* raises for one.
        """

    async def find_crc32s(self, keys: Iterable[str]) -> dict[str, int]:
        """Return key -> CRC-32 of the blobs *keys* whose CRC-32 is known."""

    async def set_crc32(self, key: str, content: Digests, crc32: int) -> None:
        """Save the CRC-32 of blob *key* if it has *content*."""

    async def list_expired_uploads(self, now: datetime, limit: int) -> list[str]:
        """Return ids of expired uploads."""

    async def delete_expired_artifacts(self, now: datetime, limit: int) -> int:
        """Delete at most *limit* expired artifacts; return how many were deleted."""

    async def doom_unused_blobs(self, before: datetime, now: datetime, limit: int) -> None:
        """Doom unreferenced blobs that were claimed *before*: their writers have died."""

    async def list_doomed_keys(self, before: datetime, limit: int) -> list[str]:
        """Return keys that were doomed at or *before* that time, oldest first."""

    async def delete_doomed_keys(self, keys: Iterable[str]) -> None:
        """Remove doomed *keys* whose bytes have been deleted."""

    async def claim_blob_to_verify(self, verified_before: datetime, now: datetime) -> Blob | None:
        """Return the blob that was verified least recently, and *verified_before*; None if there is none.

        Never verified ones come first. A returned blob is not returned again for a day.
        """

    async def mark_verified(self, key: str, time: datetime) -> None:
        """Record that blob *key* was read intact, for it and its artifacts. No blob is not an error."""

    async def mark_damaged(self, key: str, content: Digests, since: datetime, time: datetime) -> None:
        """Record that blob *key* was found to differ from *content* by a read that began at *since*.

        Changes nothing if the blob is gone, has other content, or was verified after that: its bytes were
        replaced.
        """

    async def has_blobs(self) -> bool:
        """Return whether there is any blob."""

    async def get_blob_health(self) -> BlobHealth:
        """Return how many blobs are damaged, and how recently the others were verified."""

    async def find_known_keys(self, keys: Iterable[str]) -> set[str]:
        """Return the subset of *keys* that is in the catalog, doomed or not."""

    async def find_unfinished_uploads(self, ids: Iterable[str]) -> set[str]:
        """Return the subset of *ids* that are unfinished uploads in the catalog."""
