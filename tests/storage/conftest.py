"""Fixtures: a storage service over real gRPC, with a real disk and a real SQLite file."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.s3_server import S3Server
from tests.sqlite import create_migrated_file

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2_grpc
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1 import media_pb2
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_storage.app import running
from reelhaul_storage.settings import Settings

SERVICE = pb.DESCRIPTOR.services_by_name["StorageService"]
TOKEN = "only the suite knows"


@dataclass
class Clock:
    """A clock that tests can set forward."""

    offset: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


@dataclass
class StorageService:
    """A running service and two stubs: one with the suite's token, one of an ordinary client."""

    suite: storage_service_pb2_grpc.StorageServiceAsyncStub
    client: storage_service_pb2_grpc.StorageServiceAsyncStub
    channel: grpc.aio.Channel
    folder: Path
    clock: Clock
    port: int
    #: The S3 server and prefix that it stores in; None on a disk.
    bucket: tuple[S3Server, str] | None = None

    def blob_keys(self) -> list[str]:
        """Return the names of all published blobs."""
        if self.bucket is None:
            return [path.name for path in self.blob_files()]
        server, prefix = self.bucket
        return server.list_keys(f"{prefix}/blobs/")

    def staged(self) -> list[str]:
        """Return the names of everything that is stored of unfinished uploads."""
        if self.bucket is None:
            return [path.name for path in self.staged_files()]
        server, prefix = self.bucket
        return server.list_keys(f"{prefix}/staging/") + server.list_multipart_uploads(f"{prefix}/")

    def blob_files(self) -> list[Path]:
        """Return all published files."""
        return [path for path in (self.folder / "artifacts" / "blobs").rglob("*") if path.is_file()]

    def staged_files(self) -> list[Path]:
        """Return all files of unfinished uploads."""
        return [path for path in (self.folder / "artifacts" / "staging").iterdir() if path.name[0] != "."]

    async def write_artifact(self, content: bytes, **artifact: object) -> artifact_pb2.Artifact:
        """Write *content* in one call; return its artifact."""
        requests = write_requests(content, artifact=artifact_pb2.Artifact(**artifact))
        return (await self.suite.WriteArtifact(requests)).artifact

    async def create_upload(self, content: bytes = b"", adopt_path: str = "", **artifact: object):
        """Create an upload that announces *content*, or the file at *adopt_path*, if given."""
        request = pb.CreateUploadRequest(adopt_path=adopt_path)
        request.upload.artifact.MergeFrom(artifact_pb2.Artifact(**artifact))
        request.upload.artifact.SetInParent()
        request.upload.total_size = len(content)
        if content:
            request.expected_checksums.sha256 = hashlib.sha256(content).digest()
        return await self.suite.CreateUpload(request)

    async def finish_upload(self, name: str, content: bytes, **fields: str) -> artifact_pb2.Artifact:
        """Finish an upload that holds *content*; return its artifact."""
        return await self.suite.FinishUpload(
            pb.FinishUploadRequest(name=name, total_checksums=checksums(content), **fields)
        )

    async def write_upload(self, name: str, content: bytes) -> int:
        """Write *content*, from its beginning, to an upload; return the durable size."""
        requests = write_requests(content, finish=False, upload=name)
        return (await self.suite.WriteArtifact(requests)).persisted_size

    async def is_serving(self) -> bool:
        """Return whether the service is ready."""
        request = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
        response = await health_pb2_grpc.HealthStub(self.channel).Check(request)
        return response.status == health_pb2.HealthCheckResponse.SERVING

    async def read(self, name: str, **fields: object) -> bytes:
        """Return the bytes of an artifact."""
        responses = self.suite.ReadArtifact(pb.ReadArtifactRequest(name=name, **fields))
        return b"".join([response.content async for response in responses])


StartStorage = Callable[..., AbstractAsyncContextManager[StorageService]]


#: For tests that run on a disk and on S3.
ON_BOTH = pytest.mark.parametrize("backend", ["disk", "s3"], indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """Where storage keeps the bytes: ``disk``, or ``s3`` for tests that are parametrized so."""
    return getattr(request, "param", "disk")


@pytest.fixture
def start_storage(
    tmp_path: Path, backend: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> StartStorage:
    """Return a context manager that runs the service; each run uses the same folder, or the same prefix."""
    bucket: tuple[S3Server, str] | None = None
    url = ""
    if backend == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        bucket = server, str(uuid4())
        url = server.storage_url(*bucket[1:])
        for name, value in server.credentials().items():
            monkeypatch.setenv(name, value)

    @asynccontextmanager
    async def start(
        clock_offset: timedelta = timedelta(), **overrides: object
    ) -> AsyncIterator[StorageService]:
        settings = Settings(
            data_dir=tmp_path,
            storage_address="127.0.0.1:0",
            suite_token=TOKEN,
            drain_seconds=0,
            **({"storage_reserve_bytes": 0, "storage_url": url} | overrides),
        )
        if not (tmp_path / "storage.db").exists():
            create_migrated_file("reelhaul_storage", tmp_path / "storage.db")
        clock = Clock(clock_offset)
        async with (
            running(settings, now=clock) as port,
            open_channel(f"127.0.0.1:{port}", [SERVICE], suite_token=TOKEN) as suite,
            open_channel(f"127.0.0.1:{port}", [SERVICE]) as client,
        ):
            stub = storage_service_pb2_grpc.StorageServiceStub
            yield StorageService(stub(suite), stub(client), suite, tmp_path, clock, port, bucket)

    return start


@pytest.fixture
async def storage(start_storage: StartStorage) -> AsyncIterator[StorageService]:
    async with start_storage() as service:
        yield service


def checksums(content: bytes) -> media_pb2.Checksums:
    return media_pb2.Checksums(sha256=hashlib.sha256(content).digest())


async def write_requests(
    content: bytes, *, at: int = 0, finish: bool = True, whole: bytes = b"", step: int = 512 << 10, **target
) -> AsyncIterator[pb.WriteArtifactRequest]:
    """Yield the messages that write *content* at offset *at*; *whole* is the complete content."""
    for begin in range(0, max(len(content), 1), step):
        request = pb.WriteArtifactRequest(write_offset=at + begin, content=content[begin : begin + step])
        if begin == 0:
            request.MergeFrom(pb.WriteArtifactRequest(**target))
        if finish and begin + step >= len(content):
            request.finish_write = True
            request.total_checksums.MergeFrom(checksums(whole or content))
        yield request


@dataclass
class ErrorDetails:
    """Status code and ErrorInfo of a failed call."""

    reason: str
    metadata: dict[str, str]
    code: grpc.StatusCode


def error_details(error: grpc.aio.AioRpcError) -> ErrorDetails:
    """Return the details of *error*."""
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(raw).details[0].Unpack(info)
    return ErrorDetails(info.reason, dict(info.metadata), error.code())


def random_bytes(size: int) -> bytes:
    """Return bytes that no other test writes."""
    return os.urandom(size)


async def wait_until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once *condition* holds; the test's timeout ends an endless wait."""
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        await asyncio.sleep(0.005)
