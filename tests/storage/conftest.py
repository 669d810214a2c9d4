"""A storage service as others meet it: real gRPC, a real disk, a real SQLite file."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2_grpc
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1 import media_pb2
from reelhaul_runtime.rpc.channels import channel
from reelhaul_storage.app import running
from reelhaul_storage.settings import Settings

SERVICE = pb.DESCRIPTOR.services_by_name["StorageService"]
TOKEN = "only the suite knows"


@dataclass
class Clock:
    """A clock that the tests set forward."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Running:
    """The service, and the two who call it."""

    suite: storage_service_pb2_grpc.StorageServiceAsyncStub
    stranger: storage_service_pb2_grpc.StorageServiceAsyncStub
    channel: grpc.aio.Channel
    folder: Path
    clock: Clock
    port: int

    def blobs(self) -> list[Path]:
        """All published files."""
        return [path for path in (self.folder / "artifacts" / "blobs").rglob("*") if path.is_file()]

    def staged(self) -> list[Path]:
        """All files of unfinished writes."""
        return [path for path in (self.folder / "artifacts" / "staging").iterdir() if path.name[0] != "."]

    async def put(self, content: bytes, **artifact: object) -> artifact_pb2.Artifact:
        """An artifact of *content*, written in one go."""
        answer = await self.suite.WriteArtifact(messages(content, artifact=artifact_pb2.Artifact(**artifact)))
        return answer.artifact

    async def begin(self, content: bytes = b"", adopt_path: str = "", **artifact: object):
        """An upload that announces *content*, or the file at *adopt_path*, where it is given."""
        request = pb.CreateUploadRequest(adopt_path=adopt_path)
        request.upload.artifact.MergeFrom(artifact_pb2.Artifact(**artifact))
        request.upload.artifact.SetInParent()
        request.upload.total_size = len(content)
        if content:
            request.expected_checksums.sha256 = hashlib.sha256(content).digest()
        return await self.suite.CreateUpload(request)

    async def finish(self, name: str, content: bytes, **more: str) -> artifact_pb2.Artifact:
        """The artifact of an upload that holds *content*."""
        return await self.suite.FinishUpload(
            pb.FinishUploadRequest(name=name, total_checksums=checksums(content), **more)
        )

    async def get(self, name: str, **more: object) -> bytes:
        """The bytes of an artifact."""
        pieces = self.suite.ReadArtifact(pb.ReadArtifactRequest(name=name, **more))
        return b"".join([piece.content async for piece in pieces])


Enter = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def enter(tmp_path: Path) -> Enter:
    """Runs the service on one folder, as often as a test likes."""

    @asynccontextmanager
    async def entered(**settings: object) -> AsyncIterator[Running]:
        told = Settings(
            data_dir=tmp_path,
            storage_address="127.0.0.1:0",
            suite_token=TOKEN,
            drain_seconds=0,
            **({"storage_reserve_bytes": 0} | settings),
        )
        clock = Clock()
        async with (
            running(told, now=clock) as port,
            channel(f"127.0.0.1:{port}", [SERVICE], suite_token=TOKEN) as suite,
            channel(f"127.0.0.1:{port}", [SERVICE]) as stranger,
        ):
            stub = storage_service_pb2_grpc.StorageServiceStub
            yield Running(stub(suite), stub(stranger), suite, tmp_path, clock, port)

    return entered


@pytest.fixture
async def storage(enter: Enter) -> AsyncIterator[Running]:
    async with enter() as entered:
        yield entered


def checksums(content: bytes) -> media_pb2.Checksums:
    return media_pb2.Checksums(sha256=hashlib.sha256(content).digest())


async def messages(
    content: bytes, *, at: int = 0, finish: bool = True, whole: bytes = b"", step: int = 512 << 10, **target
) -> AsyncIterator[pb.WriteArtifactRequest]:
    """The messages that write *content* from offset *at*; *whole* is what it makes in the end."""
    for begin in range(0, max(len(content), 1), step):
        request = pb.WriteArtifactRequest(write_offset=at + begin, content=content[begin : begin + step])
        if begin == 0:
            request.MergeFrom(pb.WriteArtifactRequest(**target))
        if finish and begin + step >= len(content):
            request.finish_write = True
            request.total_checksums.MergeFrom(checksums(whole or content))
        yield request


@dataclass
class Refused:
    """How a call was refused."""

    reason: str
    metadata: dict[str, str]
    code: grpc.StatusCode


def refused(error: grpc.aio.AioRpcError) -> Refused:
    """What *error* says to a program."""
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(raw).details[0].Unpack(info)
    return Refused(info.reason, dict(info.metadata), error.code())


def noise(size: int) -> bytes:
    """Bytes that were never there before."""
    return os.urandom(size)


async def until(done: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once *done* says so; the test's own time limit ends what never is."""
    while True:
        answer = done()
        if answer if isinstance(answer, bool) else await answer:
            return
        await asyncio.sleep(0.005)
