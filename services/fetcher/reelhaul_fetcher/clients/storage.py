"""Storage client: hands files over in a shared folder, or uploads them in resumable chunks."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from google.rpc import code_pb2
from grpc import aio

from reelhaul.backoff import Backoff
from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2, storage_service_pb2_grpc, upload_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.ports import ArtifactMetadata
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import status_as_errors

log = logging.getLogger(__name__)

# Storage may be restarted during an upload: retry for this long.
_RETRY_SECONDS = 120.0
# After storage failed to adopt a file, the next ones are uploaded for this long.
_UPLOAD_ONLY_SECONDS = 300.0
# Deletions do not wait longer for a storage that is down: what remains there expires anyway.
_DELETE_TIMEOUT_SECONDS = 1.0
_CHUNK_BYTES = 512 * 1024

# The upload's offset is not where we assumed, or storage still holds a write whose connection broke:
# retry from the offset that storage reports.
_RETRY_FROM_OFFSET = (ErrorReason.WRITE_OFFSET_CONFLICT, ErrorReason.WRITE_CHECKSUM_MISMATCH)
_CANNOT_ADOPT = (
    code_pb2.INVALID_ARGUMENT,
    code_pb2.NOT_FOUND,
    code_pb2.UNIMPLEMENTED,
    code_pb2.FAILED_PRECONDITION,
)


@dataclass(slots=True)
class _PendingUpload:
    """An upload and the request that creates it; the request is sent again unchanged, for idempotency."""

    request: storage_service_pb2.CreateUploadRequest
    #: None until storage has answered.
    upload: upload_pb2.Upload | None = None


class ArtifactUploader:
    """``ports.ArtifactStore`` on the storage service.

    Storage adopts files from *shared_dir* and hashes them itself. Files that it cannot adopt are hashed
    here, and uploaded unless storage has their content already.
    """

    def __init__(self, channel: aio.Channel, shared_dir: Path, retry_seconds: float = _RETRY_SECONDS) -> None:
        self._stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        self._shared_dir, self._retry_seconds = shared_dir, retry_seconds
        self._upload_only_until = float("-inf")
        self._prepared: dict[Path, tuple[Product, asyncio.Task[_PendingUpload]]] = {}

    def prepare(self, product: Product, metadata: ArtifactMetadata) -> None:
        if product.path not in self._prepared:
            creating = asyncio.create_task(self._create_ahead(product, metadata))
            self._prepared[product.path] = product, creating

    async def cancel_prepared(self, folder: Path) -> None:
        for path in [path for path in self._prepared if path.parent == folder]:
            await self._abandon(self._prepared.pop(path)[1])

    async def store(
        self, product: Product, metadata: ArtifactMetadata, on_progress: Callable[[int], None]
    ) -> ArtifactInfo:
        uploads: list[str] = []
        try:
            return await self._store_with_retries(product, metadata, uploads, on_progress)
        except BaseException:
            # Cancelled or failed: the staged bytes would remain until they expire.
            await asyncio.shield(self._delete_uploads(uploads))
            raise

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            request = storage_service_pb2.DeleteArtifactRequest(name=name, allow_missing=True)
            await _try_delete(self._stub.DeleteArtifact(request, timeout=_DELETE_TIMEOUT_SECONDS), name)

    async def _delete_uploads(self, uploads: Sequence[str]) -> None:
        for name in uploads:
            request = storage_service_pb2.DeleteUploadRequest(name=name)
            await _try_delete(self._stub.DeleteUpload(request, timeout=_DELETE_TIMEOUT_SECONDS), name)

    async def _abandon(self, creating: asyncio.Task[_PendingUpload]) -> None:
        await asyncio.wait({creating}, timeout=_DELETE_TIMEOUT_SECONDS)
        if not creating.done():
            creating.cancel()
        elif creating.exception() is None and (upload := creating.result().upload):
            await self._delete_uploads([upload.name])

    async def _create_ahead(self, product: Product, metadata: ArtifactMetadata) -> _PendingUpload:
        pending = _PendingUpload(await self._upload_request(product, metadata))
        try:
            pending.upload = await self._stub.CreateUpload(pending.request)
        except aio.AioRpcError as error:
            log.warning(
                "the upload could not be created ahead", extra={"job": metadata.job, "cause": error.details()}
            )
        return pending

    async def _upload_request(
        self, product: Product, metadata: ArtifactMetadata
    ) -> storage_service_pb2.CreateUploadRequest:
        request = _create_upload_request(product, metadata)
        upload_only = asyncio.get_running_loop().time() < self._upload_only_until
        if product.path.is_relative_to(self._shared_dir) and not upload_only:
            request.adopt_path = str(product.path.relative_to(self._shared_dir))
        else:
            request.expected_checksums.sha256 = await asyncio.to_thread(_sha256, product.path)
        return request

    async def _take_prepared(self, product: Product, metadata: ArtifactMetadata) -> _PendingUpload:
        """Return the upload that was prepared for *product*, else a new one."""
        prepared, creating = self._prepared.get(product.path, (None, None))
        if creating is not None and prepared == product:
            pending = await asyncio.shield(creating)
            # Only now: until then ``cancel_prepared`` must find it.
            del self._prepared[product.path]
            return pending
        return _PendingUpload(await self._upload_request(product, metadata))

    async def _store_with_retries(
        self,
        product: Product,
        metadata: ArtifactMetadata,
        uploads: list[str],
        on_progress: Callable[[int], None],
    ) -> ArtifactInfo:
        """Store *product*; keep the name of the current upload in *uploads*."""
        give_up_at = asyncio.get_running_loop().time() + self._retry_seconds
        backoff, pending = Backoff(), await self._take_prepared(product, metadata)
        while True:
            try:
                with status_as_errors("storage"):
                    upload = pending.upload or await self._stub.CreateUpload(pending.request)
                    # A retry must ask again: the upload's offset may have changed.
                    uploads[:], pending.upload = [upload.name], None
                    artifact = await self._transfer(product, pending.request, upload, on_progress)
                    return _artifact_info(artifact, product)
            except ReelhaulError as error:
                if not error.retryable and error.reason not in _RETRY_FROM_OFFSET:
                    raise
                if asyncio.get_running_loop().time() > give_up_at:
                    raise ReelhaulError(
                        ErrorReason.STORAGE_UNAVAILABLE, error.text, metadata={"backend": ""}
                    ) from error
                log.warning("storing failed; trying again", extra={"job": metadata.job, "cause": error.text})
            await asyncio.sleep(backoff.next_delay())

    async def _transfer(
        self,
        product: Product,
        request: storage_service_pb2.CreateUploadRequest,
        upload: upload_pb2.Upload,
        on_progress: Callable[[int], None],
    ) -> artifact_pb2.Artifact:
        """Let storage adopt the file or upload it; return the finished artifact."""
        finish = storage_service_pb2.FinishUploadRequest(
            name=upload.name,
            total_checksums=request.expected_checksums,
            adopt_path=request.adopt_path,
        )
        if upload.content_exists or finish.adopt_path:
            try:
                return await self._stub.FinishUpload(finish)
            except aio.AioRpcError as error:
                # Storage has another disk or another folder: upload the file.
                if not finish.adopt_path or error.code().value[0] not in _CANNOT_ADOPT:
                    raise
            self._upload_only_until = asyncio.get_running_loop().time() + _UPLOAD_ONLY_SECONDS
            finish.adopt_path = ""
            finish.total_checksums.sha256 = await asyncio.to_thread(_sha256, product.path)
        # Everything may have been written already, if storage or its response was lost before the finish.
        if upload.persisted_size < product.info.size_bytes:
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
        upload=upload_pb2.Upload(artifact=artifact, total_size=info.size_bytes),
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


def _sha256(path: Path) -> bytes:
    """Return the SHA-256 of the file. Blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _artifact_info(artifact: artifact_pb2.Artifact, product: Product) -> ArtifactInfo:
    """Return *product*'s info with the name and checksums of the stored *artifact*."""
    info = ArtifactInfo()
    info.CopyFrom(product.info)
    info.name = artifact.name
    info.file_name = artifact.file_name or info.file_name
    info.checksums.sha256 = artifact.checksums.sha256
    return info
