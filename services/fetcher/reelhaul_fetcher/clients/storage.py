"""Storage client: hands files over in a shared folder, sends them straight to S3, or uploads them in chunks.

Storage chooses the way, by the capabilities of its backend.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import google_crc32c  # type: ignore[import-untyped, unused-ignore]
from grpc import aio

from reelhaul.backoff import Backoff
from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2, storage_service_pb2_grpc, upload_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, Checksums
from reelhaul_fetcher.clients.part_upload import PartUploader
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.ports import ArtifactMetadata
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import status_as_errors

log = logging.getLogger(__name__)

# Storage or S3 may be away during an upload: retry until nothing has been stored for this long.
_RETRY_SECONDS = 120.0
# Deletions do not wait longer for a storage that is down: what remains there expires anyway.
_DELETE_TIMEOUT_SECONDS = 1.0
_CHUNK_BYTES = 512 * 1024

# The upload's offset is not where we assumed, its parts are not those of which we have the ETags, or storage
# still holds a write whose connection broke: retry from the state that storage reports.
_RETRY_FROM_OFFSET = (ErrorReason.WRITE_OFFSET_CONFLICT, ErrorReason.WRITE_CHECKSUM_MISMATCH)


@dataclass(slots=True)
class _PendingUpload:
    """An upload and the request that creates it; the request is sent again unchanged, for idempotency."""

    request: storage_service_pb2.CreateUploadRequest
    #: Name of the upload; empty until storage has answered.
    name: str = ""
    #: Storage's answer, unless it is used up: a retry must ask again.
    upload: upload_pb2.Upload | None = None
    #: Checksums of the file; None while only storage needs to know them.
    checksums: Checksums | None = None
    #: When the file was last changed before that, in nanoseconds.
    modify_time: int = 0
    #: ETags of the parts that S3 has, by number.
    etags: dict[int, str] = field(default_factory=dict)


class ArtifactUploader:
    """``ports.ArtifactStore`` on the storage service.

    Files in *shared_dir* are offered for adoption; storage hashes those itself. Files that it cannot adopt
    are hashed here, and sent by *parts* or by WriteArtifact unless storage has their content already.
    """

    def __init__(
        self,
        channel: aio.Channel,
        parts: PartUploader,
        shared_dir: Path,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        self._parts, self._shared_dir, self._retry_seconds = parts, shared_dir, retry_seconds
        self._prepared: dict[Path, tuple[Product, _PendingUpload, asyncio.Task[None]]] = {}

    def prepare(self, product: Product, metadata: ArtifactMetadata) -> None:
        if product.path not in self._prepared:
            pending = self._pending_upload(product, metadata)
            creating = asyncio.create_task(self._create_ahead(product, pending))
            self._prepared[product.path] = product, pending, creating

    async def cancel_prepared(self, folder: Path) -> None:
        for path in [path for path in self._prepared if path.parent == folder]:
            _, pending, creating = self._prepared.pop(path)
            await asyncio.wait({creating}, timeout=_DELETE_TIMEOUT_SECONDS)
            creating.cancel()
            await self._delete_upload(pending)

    async def store(
        self,
        product: Product,
        metadata: ArtifactMetadata,
        on_progress: Callable[[int], None],
        on_wait: Callable[[str], None],
        *,
        irreplaceable: bool = False,
    ) -> ArtifactInfo:
        pending = await self._take_prepared(product, metadata)
        patience = math.inf if irreplaceable else self._retry_seconds
        try:
            return await self._store_with_retries(product, pending, on_progress, on_wait, patience)
        except BaseException:
            # Cancelled or failed: the staged bytes would remain until they expire.
            await asyncio.shield(self._delete_upload(pending))
            raise

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            request = storage_service_pb2.DeleteArtifactRequest(name=name, allow_missing=True)
            await _try_delete(self._stub.DeleteArtifact(request, timeout=_DELETE_TIMEOUT_SECONDS), name)

    async def _delete_upload(self, pending: _PendingUpload) -> None:
        if pending.name:
            request = storage_service_pb2.DeleteUploadRequest(name=pending.name)
            await _try_delete(self._stub.DeleteUpload(request, timeout=_DELETE_TIMEOUT_SECONDS), pending.name)

    async def _create_ahead(self, product: Product, pending: _PendingUpload) -> None:
        try:
            pending.upload = await self._create(product, pending)
        except (aio.AioRpcError, OSError) as error:
            cause = error.strerror if isinstance(error, OSError) else error.details()
            fields = {"job": pending.request.upload.artifact.job, "cause": cause}
            log.warning("the upload could not be created ahead", extra=fields)

    def _pending_upload(self, product: Product, metadata: ArtifactMetadata) -> _PendingUpload:
        request = _create_upload_request(product, metadata)
        if product.path.is_relative_to(self._shared_dir):
            request.adopt_path = str(product.path.relative_to(self._shared_dir))
        return _PendingUpload(request)

    async def _take_prepared(self, product: Product, metadata: ArtifactMetadata) -> _PendingUpload:
        """Return the upload that was prepared for *product*, else a new one."""
        prepared = self._prepared.get(product.path)
        if prepared is None or prepared[0] != product:
            return self._pending_upload(product, metadata)
        _, pending, creating = prepared
        await asyncio.shield(creating)
        # Only now: until then ``cancel_prepared`` must find it.
        del self._prepared[product.path]
        return pending

    async def _create(self, product: Product, pending: _PendingUpload) -> upload_pb2.Upload:
        """Create the upload, or return its present state; the file is hashed unless storage adopts it."""
        request = pending.request
        if not request.adopt_path and pending.checksums is None:
            checksums = await asyncio.to_thread(_hash_file, product.path, pending)
            request.expected_checksums.sha256 = checksums.sha256
        upload = await self._stub.CreateUpload(request)
        pending.name = upload.name
        if not (upload.adoptable or upload.content_exists) and pending.checksums is None:
            checksums = await asyncio.to_thread(_hash_file, product.path, pending)
            upload.content_exists = await self._is_stored(checksums, request.upload.artifact.tenant)
        return upload

    async def _is_stored(self, checksums: Checksums, tenant: str) -> bool:
        request = storage_service_pb2.FindArtifactsRequest(sha256=[checksums.sha256], tenant=tenant)
        return bool((await self._stub.FindArtifacts(request)).artifacts)

    async def _store_with_retries(
        self,
        product: Product,
        pending: _PendingUpload,
        on_progress: Callable[[int], None],
        on_wait: Callable[[str], None],
        patience: float,
    ) -> ArtifactInfo:
        """Store *product*; give up if nothing was stored for *patience* seconds."""
        now, backoff = asyncio.get_running_loop().time, Backoff()
        stored_at, most = now(), 0

        def on_stored(size: int) -> None:
            nonlocal stored_at, most
            if size > most:
                stored_at, most = now(), size
                backoff.reset()
            on_progress(size)

        while True:
            try:
                with status_as_errors("storage"):
                    upload = pending.upload or await self._create(product, pending)
                    # A retry must ask again: the upload's offset or URLs may have changed.
                    pending.upload = None
                    artifact = await self._transfer(product, pending, upload, on_stored)
                    return _artifact_info(artifact, product)
            except ReelhaulError as error:
                if not error.retryable and error.reason not in _RETRY_FROM_OFFSET:
                    raise
                if error.reason in _RETRY_FROM_OFFSET:
                    pending.etags.clear()
                    # No outage: waiting longer does not help.
                    patience = self._retry_seconds
                timed_out = error.reason == ErrorReason.REQUEST_TIMED_OUT
                text = "storage does not answer in time" if timed_out else error.text
                if now() - stored_at > patience:
                    backend = error.metadata.get("backend", "")
                    raise ReelhaulError(
                        ErrorReason.STORAGE_UNAVAILABLE, text, metadata={"backend": backend}
                    ) from error
                job = pending.request.upload.artifact.job
                log.warning("storing failed; trying again", extra={"job": job, "cause": text})
                on_wait(text)
            await asyncio.sleep(backoff.next_delay())

    async def _transfer(
        self,
        product: Product,
        pending: _PendingUpload,
        upload: upload_pb2.Upload,
        on_progress: Callable[[int], None],
    ) -> artifact_pb2.Artifact:
        """Bring the file to storage in the way that *upload* allows; return the finished artifact."""
        finish = storage_service_pb2.FinishUploadRequest(name=upload.name, total_checksums=pending.checksums)
        if pending.checksums is None:
            # It is adoptable, or adopted already if the response was lost.
            finish.adopt_path = pending.request.adopt_path
        elif upload.content_exists:
            pass
        elif upload.part_urls:
            await self._parts.send(product.path, upload, pending.etags, on_progress)
            for number, etag in sorted(pending.etags.items()):
                finish.parts.add(number=number, etag=etag)
            # S3 has checked the parts only. Storage checks the whole when it next reads it.
            if await asyncio.to_thread(_modify_time, product.path) != pending.modify_time:
                raise ReelhaulError(
                    ErrorReason.WRITE_CHECKSUM_MISMATCH, "the file has changed since its sha256 was computed"
                )
        # Everything may have been written already, if storage or its response was lost before the finish.
        elif upload.persisted_size < product.info.size_bytes:
            await self._stub.WriteArtifact(_write_requests(product.path, upload, on_progress))
        return await self._stub.FinishUpload(finish)


async def _try_delete(call: Awaitable[object], name: str) -> None:
    try:
        await call
    except aio.AioRpcError as error:
        log.warning(
            "deleting failed; it expires by itself", extra={"artifact": name, "cause": error.details()}
        )


def _create_upload_request(
    product: Product, metadata: ArtifactMetadata
) -> storage_service_pb2.CreateUploadRequest:
    info = product.info
    artifact = artifact_pb2.Artifact(
        file_name=info.file_name,
        media_type=info.media_type,
        job=metadata.job,
        epoch=metadata.epoch,
        tenant=metadata.tenant,
        kind=info.kind,
        labels=metadata.labels,
        language_code=info.language_code,
    )
    artifact.ttl.FromTimedelta(metadata.ttl)
    return storage_service_pb2.CreateUploadRequest(
        upload=upload_pb2.Upload(artifact=artifact, total_size=info.size_bytes, direct=True),
        # The same in every retry: a lost response creates no second upload.
        request_id=str(uuid.uuid4()),
    )


async def _write_requests(
    path: Path, upload: upload_pb2.Upload, on_progress: Callable[[int], None]
) -> AsyncIterator[storage_service_pb2.WriteArtifactRequest]:
    """Yield *path* in chunks, from the upload's offset on; report the new offset after each."""
    offset = upload.persisted_size
    file = await asyncio.to_thread(path.open, "rb")
    try:
        file.seek(offset)
        first = True
        while content := await asyncio.to_thread(_read_chunk, file):
            message = storage_service_pb2.WriteArtifactRequest(write_offset=offset, content=content)
            if first:
                message.upload = upload.name
            yield message
            first = False
            offset += len(content)
            on_progress(offset)
    finally:
        file.close()


def _read_chunk(file: BinaryIO) -> bytes:
    return file.read(_CHUNK_BYTES)


def _hash_file(path: Path, pending: _PendingUpload) -> Checksums:
    """Return the SHA-256 and CRC32C of the file, and remember them in *pending*. Blocks."""
    pending.modify_time = _modify_time(path)
    sha256, crc32c = hashlib.sha256(), 0
    with path.open("rb") as file:
        while content := _read_chunk(file):
            sha256.update(content)
            crc32c = google_crc32c.extend(crc32c, content)
    pending.checksums = Checksums(sha256=sha256.digest(), crc32c=crc32c)
    return pending.checksums


def _modify_time(path: Path) -> int:
    return path.stat().st_mtime_ns


def _artifact_info(artifact: artifact_pb2.Artifact, product: Product) -> ArtifactInfo:
    """Return *product*'s info with the name and checksums of the stored *artifact*."""
    info = ArtifactInfo()
    info.CopyFrom(product.info)
    info.name = artifact.name
    info.file_name = artifact.file_name or info.file_name
    info.checksums.sha256 = artifact.checksums.sha256
    return info
