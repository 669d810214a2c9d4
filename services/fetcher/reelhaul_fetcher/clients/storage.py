"""storage, seen from here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.rpc import code_pb2
from grpc import aio

from reelhaul.backoff import Backoff
from reelhaul.storage.v1 import (
    artifact_pb2,
    storage_service_pb2,
    storage_service_pb2_grpc,
    upload_pb2,
)
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_fetcher.clients.upload_messages import digest, info_of, messages, request_for
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.ports import ArtifactMetadata
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import status_as_errors

log = logging.getLogger(__name__)

# Storage may be restarted under an upload: this long it is waited for.
_PATIENCE_SECONDS = 120.0
# So long nothing is offered to a storage that could not take it over.
_APART_SECONDS = 300.0
# What is dropped expires by itself as well: a storage that is away is not waited for.
_GOODBYE_SECONDS = 1.0


@dataclass(slots=True)
class _Begun:
    """An upload, and what it is asked for with: the same each time, so that there is only one."""

    request: storage_service_pb2.CreateUploadRequest
    #: None while there was no answer.
    upload: upload_pb2.Upload | None = None


class ArtifactUploader:
    """storage as ``ports.Artifacts``.

    It takes files over from the folder *shared* with it, and hashes them itself. Where it
    cannot, they are hashed here, and sent unless it has them.
    """

    def __init__(self, channel: aio.Channel, shared: Path, patience: float = _PATIENCE_SECONDS) -> None:
        self._stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        self._shared, self._patience = shared, patience
        self._apart_until = float("-inf")
        self._announced: dict[Path, tuple[Product, asyncio.Task[_Begun]]] = {}

    def prepare(self, product: Product, stamp: ArtifactMetadata) -> None:
        """As ``ports.Artifacts.announce``."""
        if product.path not in self._announced:
            self._announced[product.path] = product, asyncio.create_task(self._begun(product, stamp))

    async def cancel_prepared(self, folder: Path) -> None:
        """As ``ports.Artifacts.withdraw``."""
        for path in [path for path in self._announced if path.parent == folder]:
            await self._undo(self._announced.pop(path)[1])

    async def store(
        self, product: Product, stamp: ArtifactMetadata, on_progress: Callable[[int], None]
    ) -> ArtifactInfo:
        """As ``ports.Artifacts.store``."""
        uploads: list[str] = []
        try:
            return await self._persisted(product, stamp, uploads, on_progress)
        except BaseException:
            # Cancelled or given up: nobody goes on with it, and its bytes would lie until they expire.
            await asyncio.shield(self._drop(uploads))
            raise

    async def delete(self, names: Sequence[str]) -> None:
        """As ``ports.Artifacts.discard``."""
        for name in names:
            request = storage_service_pb2.DeleteArtifactRequest(name=name, allow_missing=True)
            await _tried(self._stub.DeleteArtifact(request, timeout=_GOODBYE_SECONDS), name)

    async def _drop(self, uploads: Sequence[str]) -> None:
        for name in uploads:
            request = storage_service_pb2.DeleteUploadRequest(name=name)
            await _tried(self._stub.DeleteUpload(request, timeout=_GOODBYE_SECONDS), name)

    async def _undo(self, beginning: asyncio.Task[_Begun]) -> None:
        await asyncio.wait({beginning}, timeout=_GOODBYE_SECONDS)
        if not beginning.done():
            beginning.cancel()
        elif beginning.exception() is None and (upload := beginning.result().upload):
            await self._drop([upload.name])

    async def _begun(self, product: Product, stamp: ArtifactMetadata) -> _Begun:
        begun = _Begun(await self._request(product, stamp))
        try:
            begun.upload = await self._stub.CreateUpload(begun.request)
        except aio.AioRpcError as error:
            log.warning("not begun", extra={"job": stamp.job, "cause": error.details()})
        return begun

    async def _request(
        self, product: Product, stamp: ArtifactMetadata
    ) -> storage_service_pb2.CreateUploadRequest:
        request = request_for(product, stamp)
        apart = asyncio.get_running_loop().time() < self._apart_until
        if product.path.is_relative_to(self._shared) and not apart:
            request.adopt_path = str(product.path.relative_to(self._shared))
        else:
            request.expected_checksums.sha256 = await asyncio.to_thread(digest, product.path)
        return request

    async def _first(self, product: Product, stamp: ArtifactMetadata) -> _Begun:
        """The upload of *product* as it was announced, else a new one."""
        announced, beginning = self._announced.get(product.path, (None, None))
        if beginning is not None and announced == product:
            begun = await asyncio.shield(beginning)
            # Not before: until it is in our hands, ``withdraw`` must find it.
            del self._announced[product.path]
            return begun
        return _Begun(await self._request(product, stamp))

    async def _persisted(
        self, product: Product, stamp: ArtifactMetadata, uploads: list[str], told: Callable[[int], None]
    ) -> ArtifactInfo:
        """Store, again and again while that may help; *uploads* hears which there are."""
        give_up = asyncio.get_running_loop().time() + self._patience
        backoff, begun = Backoff(), await self._first(product, stamp)
        while True:
            try:
                with status_as_errors("storage"):
                    upload = begun.upload or await self._stub.CreateUpload(begun.request)
                    # It may stand elsewhere at the next turn.
                    uploads[:], begun.upload = [upload.name], None
                    return info_of(await self._stored(product, begun.request, upload, told), product)
            except ReelhaulError as error:
                if not error.retryable and error.reason not in _WRITE_ON:
                    raise
                if asyncio.get_running_loop().time() > give_up:
                    raise ReelhaulError(
                        ErrorReason.STORAGE_UNAVAILABLE, error.text, metadata={"backend": ""}
                    ) from error
                log.warning("storing failed; trying again", extra={"job": stamp.job, "cause": error.text})
            await asyncio.sleep(backoff.next_delay())

    async def _stored(
        self,
        product: Product,
        request: storage_service_pb2.CreateUploadRequest,
        upload: upload_pb2.Upload,
        told: Callable[[int], None],
    ) -> artifact_pb2.Artifact:
        end = storage_service_pb2.FinishUploadRequest(
            name=upload.name,
            total_checksums=request.expected_checksums,
            adopt_path=request.adopt_path,
        )
        if upload.content_exists or end.adopt_path:
            try:
                return await self._stub.FinishUpload(end)
            except aio.AioRpcError as error:
                # Another disk than ours, or another folder: it is sent, then.
                if not end.adopt_path or error.code().value[0] not in _NOT_SHARED:
                    raise
            self._apart_until = asyncio.get_running_loop().time() + _APART_SECONDS
            end.adopt_path = ""
            end.total_checksums.sha256 = await asyncio.to_thread(digest, product.path)
        # All of it may be there already: storage, or its answer, was lost between write and finish.
        if upload.persisted_size < product.info.size_bytes:
            await self._stub.WriteArtifact(messages(product.path, upload, told))
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
