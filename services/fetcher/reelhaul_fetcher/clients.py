"""storage, seen from here."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from google.rpc import code_pb2
from grpc import aio

from reelhaul.storage.v1 import (
    artifact_pb2,
    storage_service_pb2,
    storage_service_pb2_grpc,
    upload_pb2,
)
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_fetcher.model.orders import Product
from reelhaul_fetcher.ports import Stamp
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import status_as_errors

log = logging.getLogger(__name__)

_CHUNK_BYTES = 512 * 1024
# Storage may be restarted under an upload: this long it is waited for.
_PATIENCE_SECONDS = 120.0
# What is dropped expires by itself as well: a storage that is away is not waited for.
_GOODBYE_SECONDS = 1.0


class RemoteArtifacts:
    """storage as ``ports.Artifacts``: nothing is sent that it has, or may take from a shared folder."""

    def __init__(self, channel: aio.Channel, shared: Path, patience: float = _PATIENCE_SECONDS) -> None:
        self._stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        self._shared, self._patience = shared, patience

    async def store(self, product: Product, stamp: Stamp, told: Callable[[int], None]) -> ArtifactInfo:
        """As ``ports.Artifacts.store``."""
        request = _create(product, stamp)
        begun: list[str] = []
        try:
            return await self._persisted(product, request, begun, told)
        except BaseException:
            # Cancelled or given up: nobody goes on with it, and its bytes would lie until they expire.
            await asyncio.shield(self._drop(begun))
            raise

    async def discard(self, names: Sequence[str]) -> None:
        """As ``ports.Artifacts.discard``."""
        for name in names:
            request = storage_service_pb2.DeleteArtifactRequest(name=name, allow_missing=True)
            await _tried(self._stub.DeleteArtifact(request, timeout=_GOODBYE_SECONDS), name)

    async def _drop(self, uploads: Sequence[str]) -> None:
        for name in uploads:
            request = storage_service_pb2.DeleteUploadRequest(name=name)
            await _tried(self._stub.DeleteUpload(request, timeout=_GOODBYE_SECONDS), name)

    async def _persisted(
        self,
        product: Product,
        request: storage_service_pb2.CreateUploadRequest,
        begun: list[str],
        told: Callable[[int], None],
    ) -> ArtifactInfo:
        """Store, again and again while that may help; *begun* hears which uploads there are."""
        give_up = asyncio.get_running_loop().time() + self._patience
        pause = 0.2
        while True:
            try:
                with status_as_errors("storage"):
                    return _info(await self._stored(product, request, begun, told), product)
            except ReelhaulError as error:
                if not error.retryable and error.reason not in _WRITE_ON:
                    raise
                if asyncio.get_running_loop().time() > give_up:
                    raise ReelhaulError(
                        ErrorReason.STORAGE_UNAVAILABLE, error.text, metadata={"backend": ""}
                    ) from error
                job = request.upload.artifact.job
                log.warning("storing failed; trying again", extra={"job": job, "cause": error.text})
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _stored(
        self,
        product: Product,
        request: storage_service_pb2.CreateUploadRequest,
        begun: list[str],
        told: Callable[[int], None],
    ) -> artifact_pb2.Artifact:
        upload = await self._stub.CreateUpload(request)
        begun[:] = [upload.name]
        end = storage_service_pb2.FinishUploadRequest(
            name=upload.name, total_checksums=request.expected_checksums
        )
        if upload.content_exists:
            return await self._stub.FinishUpload(end)
        if product.path.is_relative_to(self._shared):
            end.adopt_path = str(product.path.relative_to(self._shared))
            try:
                return await self._stub.FinishUpload(end)
            except aio.AioRpcError as error:
                # Another disk than ours, or another folder: it is sent, then.
                if error.code().value[0] not in _NOT_SHARED:
                    raise
                end.adopt_path = ""
        # All of it may be there already: storage, or its answer, was lost between write and finish.
        if upload.persisted_size < product.info.size_bytes:
            await self._stub.WriteArtifact(_messages(product.path, upload, told))
        return await self._stub.FinishUpload(end)


async def _tried(call: Awaitable[object], name: str) -> None:
    """Have *name* dropped by *call*; where that fails, it expires."""
    try:
        await call
    except aio.AioRpcError as error:
        log.warning("not dropped; it expires", extra={"artifact": name, "cause": error.details()})


# The upload stands elsewhere than we thought, or a write whose link broke has not ended there yet:
# asking again where it stands is what these call for.
_WRITE_ON = (ErrorReason.WRITE_OFFSET_CONFLICT, ErrorReason.WRITE_CHECKSUM_MISMATCH)
_NOT_SHARED = (
    code_pb2.INVALID_ARGUMENT,
    code_pb2.NOT_FOUND,
    code_pb2.UNIMPLEMENTED,
    code_pb2.FAILED_PRECONDITION,
)


def _create(product: Product, stamp: Stamp) -> storage_service_pb2.CreateUploadRequest:
    info = product.info
    artifact = artifact_pb2.Artifact(
        file_name=info.file_name,
        media_type=info.media_type,
        job=stamp.job,
        epoch=stamp.epoch,
        tenant=stamp.tenant,
        kind=info.kind,
        labels=stamp.labels,
        language_code=info.language_code,
    )
    artifact.ttl.FromTimedelta(stamp.ttl)
    return storage_service_pb2.CreateUploadRequest(
        upload=upload_pb2.Upload(artifact=artifact, total_size=info.size_bytes),
        expected_checksums=info.checksums,
        # The same at each try: a lost answer makes no second upload.
        request_id=str(uuid.uuid4()),
    )


async def _messages(
    path: Path, upload: upload_pb2.Upload, told: Callable[[int], None]
) -> AsyncIterator[storage_service_pb2.WriteArtifactRequest]:
    """*path* in chunks, from where the upload stands."""
    offset = upload.persisted_size
    file = await asyncio.to_thread(path.open, "rb")
    try:
        file.seek(offset)
        first = True
        while content := await asyncio.to_thread(_read, file):
            message = storage_service_pb2.WriteArtifactRequest(write_offset=offset, content=content)
            if first:
                message.upload = upload.name
            yield message
            first = False
            offset += len(content)
            told(offset)
    finally:
        file.close()


def _read(file: BinaryIO) -> bytes:
    return file.read(_CHUNK_BYTES)


def _info(artifact: artifact_pb2.Artifact, product: Product) -> ArtifactInfo:
    info = ArtifactInfo()
    info.CopyFrom(product.info)
    info.name = artifact.name
    info.file_name = artifact.file_name or info.file_name
    return info
