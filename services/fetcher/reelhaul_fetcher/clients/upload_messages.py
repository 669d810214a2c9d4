"""What is said to storage of a product, and its bytes."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2, upload_pb2
from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.ports import ArtifactMetadata

_CHUNK_BYTES = 512 * 1024


def request_for(product: Product, stamp: ArtifactMetadata) -> storage_service_pb2.CreateUploadRequest:
    """Asks for an upload of *product*, the same one however often it is sent."""
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
        # The same at each try: a lost answer makes no second upload.
        request_id=str(uuid.uuid4()),
    )


async def messages(
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


def digest(path: Path) -> bytes:
    """SHA-256 of the whole file. Blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _read(file: BinaryIO) -> bytes:
    return file.read(_CHUNK_BYTES)


def info_of(artifact: artifact_pb2.Artifact, product: Product) -> ArtifactInfo:
    """*product* as it is stored: *artifact*."""
    info = ArtifactInfo()
    info.CopyFrom(product.info)
    info.name = artifact.name
    info.file_name = artifact.file_name or info.file_name
    info.checksums.sha256 = artifact.checksums.sha256
    return info
