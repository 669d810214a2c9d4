"""Clients that write, read and delete artifacts whatever happens to the storage service."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import google_crc32c
import httpx
from grpc import aio

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2_grpc, upload_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import error_from_rpc

T = TypeVar("T")

# Longer than a run: what is left at its end has not expired.
_TTL = timedelta(days=30)
_TENANTS = ("one", "two")
_PIECE = 256 << 10
_RETRY_SECONDS = 0.02
_CALL_SECONDS = 20.0
# How often a writer repeats the content of an earlier one, leaves its upload, and deletes an artifact.
_REPEATED, _ABANDONED, _DELETED = 0.3, 0.1, 0.3
_AWAY = (ErrorReason.SERVICE_UNAVAILABLE, ErrorReason.STORAGE_UNAVAILABLE, ErrorReason.REQUEST_TIMED_OUT)
_CONFLICT = ErrorReason.WRITE_OFFSET_CONFLICT


class Clients:
    """Clients of one service, which they call through *stub*.

    *work* is the folder that it adopts from, *sizes* are those of the files.
    """

    def __init__(
        self,
        stub: storage_service_pb2_grpc.StorageServiceAsyncStub,
        work: Path,
        sizes: Sequence[int],
        rng: random.Random,
    ) -> None:
        self._stub, self._work, self._sizes, self._rng = stub, work, sizes, rng
        self._contents: deque[bytes] = deque(maxlen=20)
        #: Name and SHA-256 of the artifacts that exist.
        self.finished: dict[str, bytes] = {}
        #: What must never happen, in words.
        self.problems: list[str] = []
        #: Number of artifacts by the way in which they were written.
        self.written: Counter[str] = Counter()
        self.stopping = False

    async def run(self, *, direct: bool) -> None:
        """Work until ``stopping`` is set and an artifact exists; with *direct* send parts to S3."""
        ways: list[Callable[[bytes], Awaitable[artifact_pb2.Artifact | None]]]
        ways = [self._write_at_once, self._write_resumably, self._write_resumably]
        ways.append(self._send_parts if direct else self._adopt)
        while not (self.stopping and self.finished):
            content, way = self._choose_content(), self._rng.choice(ways)
            artifact = await way(content)
            if artifact is not None:
                self.written[way.__name__.strip("_")] += 1
                await self._check_and_maybe_delete(artifact, content)

    async def read_latest(self) -> None:
        """Read the latest artifacts, of which some were written just before the last kill."""
        for name, sha256 in list(self.finished.items())[-5:]:
            if await self.read(name) != sha256:
                self.problems.append(f"{name} is damaged or missing")

    async def read(self, name: str) -> bytes:
        """Return the SHA-256 of an artifact; empty if it cannot be read."""

        async def read() -> bytes:
            digest = hashlib.sha256()
            async for response in self._stub.ReadArtifact(
                pb.ReadArtifactRequest(name=name), timeout=_CALL_SECONDS
            ):
                digest.update(response.content)
            return digest.digest()

        try:
            return await self._call(read)
        except ReelhaulError as error:
            self.problems.append(f"{name} cannot be read: {error}")
            return b""

    async def _check_and_maybe_delete(self, artifact: artifact_pb2.Artifact, content: bytes) -> None:
        sha256 = hashlib.sha256(content).digest()
        if artifact.checksums.sha256 != sha256 or artifact.size_bytes != len(content):
            self.problems.append(f"{artifact.name} has other content than was written")
        if self._rng.random() < _DELETED:
            request = pb.DeleteArtifactRequest(name=artifact.name, allow_missing=True)
            await self._call(lambda: self._stub.DeleteArtifact(request, timeout=_CALL_SECONDS))
        else:
            self.finished[artifact.name] = sha256

    async def _write_at_once(self, content: bytes) -> artifact_pb2.Artifact | None:
        """Write in one call. If it fails, nobody knows whether the artifact exists, so it expires."""

        async def requests() -> AsyncIterator[pb.WriteArtifactRequest]:
            for request in _pieces(content, 0):
                if not request.write_offset:
                    request.artifact.MergeFrom(self._draft("at-once"))
                if request.write_offset + len(request.content) == len(content):
                    request.finish_write = True
                    request.total_checksums.MergeFrom(_checksums(content))
                yield request

        try:
            return (await self._stub.WriteArtifact(requests(), timeout=_CALL_SECONDS)).artifact
        except aio.AioRpcError as error:
            self._check_away(error)
            await asyncio.sleep(_RETRY_SECONDS)
            return None

    async def _write_resumably(self, content: bytes) -> artifact_pb2.Artifact | None:
        upload = await self._create(content, expected=self._rng.random() < 0.5)
        if self._rng.random() < _ABANDONED:
            await self._append(upload.name, content[: len(content) // 2])
            return None
        while True:
            try:
                if not upload.content_exists:
                    await self._append(upload.name, content)
                return await self._finish(upload.name, content)
            except ReelhaulError as error:
                # Content that was stored is gone, or bytes that were not synced are.
                if error.reason != _CONFLICT:
                    raise
                upload = await self._get(upload.name)

    async def _adopt(self, content: bytes) -> artifact_pb2.Artifact | None:
        file = self._work / uuid4().hex
        file.write_bytes(content)
        try:
            upload = await self._create(content, adopt_path=file.name)
            request = pb.FinishUploadRequest(name=upload.name, adopt_path=file.name)
            return await self._call(lambda: self._stub.FinishUpload(request, timeout=_CALL_SECONDS))
        finally:
            file.unlink()

    async def _send_parts(self, content: bytes) -> artifact_pb2.Artifact | None:
        """Send the parts to S3, all of them again if the service has lost some."""
        upload = await self._create(content, direct=True)
        while True:
            parts = [] if upload.content_exists else await self._put_parts(upload, content)
            if self._rng.random() < _ABANDONED:
                return None
            try:
                return await self._finish(upload.name, content, parts)
            except ReelhaulError as error:
                if error.reason != _CONFLICT:
                    raise
                upload = await self._get(upload.name)

    async def _put_parts(
        self, upload: upload_pb2.Upload, content: bytes
    ) -> list[pb.FinishUploadRequest.Part]:
        parts = []
        async with httpx.AsyncClient(trust_env=False, timeout=_CALL_SECONDS) as s3:
            for number, url in enumerate(upload.part_urls, 1):
                part = content[(number - 1) * upload.part_size : number * upload.part_size]
                response = (await s3.put(url, content=part)).raise_for_status()
                parts.append(pb.FinishUploadRequest.Part(number=number, etag=response.headers["etag"]))
        self.written["parts"] += len(parts)
        return parts

    async def _finish(
        self, name: str, content: bytes, parts: Sequence[pb.FinishUploadRequest.Part] = ()
    ) -> artifact_pb2.Artifact:
        request = pb.FinishUploadRequest(name=name, total_checksums=_checksums(content), parts=parts)
        return await self._call(lambda: self._stub.FinishUpload(request, timeout=_CALL_SECONDS))

    async def _create(
        self, content: bytes, *, adopt_path: str = "", direct: bool = False, expected: bool = False
    ) -> upload_pb2.Upload:
        request = pb.CreateUploadRequest(
            upload=upload_pb2.Upload(
                artifact=self._draft("resumable"), total_size=len(content), direct=direct
            ),
            request_id=str(uuid4()),
            adopt_path=adopt_path,
        )
        if expected or direct:
            request.expected_checksums.MergeFrom(_checksums(content))
        return await self._call(lambda: self._stub.CreateUpload(request, timeout=_CALL_SECONDS))

    async def _get(self, name: str) -> upload_pb2.Upload:
        request = pb.GetUploadRequest(name=name)
        return await self._call(lambda: self._stub.GetUpload(request, timeout=_CALL_SECONDS))

    async def _append(self, name: str, content: bytes) -> None:
        """Write the rest of *content* from where the service has it, until all of it is durable."""
        while (persisted := (await self._get(name)).persisted_size) < len(content):

            async def requests(offset: int) -> AsyncIterator[pb.WriteArtifactRequest]:
                for request in _pieces(content, offset):
                    if request.write_offset == offset:
                        request.upload = name
                    yield request

            try:
                await self._stub.WriteArtifact(requests(persisted), timeout=_CALL_SECONDS)
            except aio.AioRpcError as error:
                self._check_away(error, _CONFLICT)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what *call* returns, repeated while the service is away. Raises its other failures."""
        while True:
            try:
                return await call()
            except aio.AioRpcError as error:
                failure = error_from_rpc(error, "storage")
                if failure.reason not in _AWAY:
                    raise failure from error
                await asyncio.sleep(_RETRY_SECONDS)

    def _check_away(self, error: aio.AioRpcError, *allowed: ErrorReason.ValueType) -> None:
        """Raise *error* unless it says that the service is away, or has an *allowed* reason."""
        failure = error_from_rpc(error, "storage")
        if failure.reason not in (*_AWAY, *allowed):
            raise failure from error

    def _choose_content(self) -> bytes:
        if self._contents and self._rng.random() < _REPEATED:
            return self._rng.choice(self._contents)
        self._contents.append(self._rng.randbytes(self._rng.choice(self._sizes)))
        return self._contents[-1]

    def _draft(self, name: str) -> artifact_pb2.Artifact:
        draft = artifact_pb2.Artifact(file_name=name, tenant=self._rng.choice(_TENANTS))
        draft.ttl.FromTimedelta(_TTL)
        return draft


def _pieces(content: bytes, offset: int) -> list[pb.WriteArtifactRequest]:
    """Return the messages that write *content* from *offset*; at least one."""
    return [
        pb.WriteArtifactRequest(write_offset=begin, content=content[begin : begin + _PIECE])
        for begin in range(offset, max(len(content), offset + 1), _PIECE)
    ]


def _checksums(content: bytes) -> media_pb2.Checksums:
    return media_pb2.Checksums(sha256=hashlib.sha256(content).digest(), crc32c=google_crc32c.value(content))
