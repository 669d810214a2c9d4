"""A full disk, on a small file system of its own: clear errors, nothing partial, and recovery."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grpc
import pytest
from tests.servers import free_port, running_process, wait_until_listening
from tests.storage.conftest import SERVICE, TOKEN, checksums, error_details, random_bytes, write_requests

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2_grpc
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul_runtime.rpc.channels import open_channel

_MIB = 1 << 20
_PROGRAM = (
    "import asyncio; from reelhaul_storage.app import service\n"
    "async def main():\n  async with service.running(): await asyncio.Event().wait()\nasyncio.run(main())"
)


@dataclass
class SmallStorage:
    """A storage process whose data folder is a small file system."""

    stub: storage_service_pb2_grpc.StorageServiceAsyncStub
    process: int
    #: The data folder as the process has it mounted.
    folder: Path

    def files(self) -> list[str]:
        """Return the names of all staged and published files."""
        found = (self.folder / "artifacts").rglob("*")
        return [path.name for path in found if path.is_file() and path.name[0] != "."]

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Fill the file system to its last byte; free it at the end."""
        path = self.folder / "filler"
        with path.open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
        yield
        path.unlink()

    async def create_upload(self, size: int) -> str:
        request = pb.CreateUploadRequest()
        request.upload.total_size = size
        request.upload.artifact.SetInParent()
        return (await self.stub.CreateUpload(request)).name

    async def persisted_size(self, upload: str) -> int:
        return (await self.stub.GetUpload(pb.GetUploadRequest(name=upload))).persisted_size

    async def write(self, upload: str, content: bytes) -> int:
        """Write what is missing of *content*; return the durable size."""
        at = await self.persisted_size(upload)
        requests = write_requests(content[at:], at=at, finish=False, upload=upload)
        return (await self.stub.WriteArtifact(requests)).persisted_size

    async def finish(self, upload: str, content: bytes) -> artifact_pb2.Artifact:
        return await self.stub.FinishUpload(
            pb.FinishUploadRequest(name=upload, total_checksums=checksums(content))
        )

    async def write_artifact(self, content: bytes) -> artifact_pb2.Artifact:
        return (await self.stub.WriteArtifact(write_requests(content, artifact={}))).artifact

    async def read(self, name: str) -> bytes:
        responses = self.stub.ReadArtifact(pb.ReadArtifactRequest(name=name))
        return b"".join([response.content async for response in responses])

    async def delete(self, name: str) -> None:
        await self.stub.DeleteArtifact(pb.DeleteArtifactRequest(name=name))


@cache
def _can_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except OSError:
        return False


@asynccontextmanager
async def _small_storage(folder: Path, reserve: int = 0) -> AsyncIterator[SmallStorage]:
    """Run storage with a data folder of 16 MiB, catalog included."""
    if not _can_mount():
        pytest.skip("this platform does not allow to mount a file system")
    mount = 'mount -t tmpfs -o size=16m tmpfs "$REELHAUL_DATA_DIR" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", _PROGRAM]
    async with _storage(command, folder, reserve) as storage:
        storage.folder = Path(f"/proc/{storage.process}/root{folder}")
        yield storage


@asynccontextmanager
async def _storage(command: list[str], folder: Path, reserve: int = 0) -> AsyncIterator[SmallStorage]:
    port = free_port()
    environment = os.environ | {
        "REELHAUL_DATA_DIR": str(folder),
        "REELHAUL_STORAGE_ADDRESS": f"127.0.0.1:{port}",
        "REELHAUL_STORAGE_RESERVE_BYTES": str(reserve),
        "REELHAUL_SUITE_TOKEN": TOKEN,
    }
    with running_process(command, env=environment) as process:
        await wait_until_listening(port, 20)
        async with open_channel(f"127.0.0.1:{port}", [SERVICE], suite_token=TOKEN) as channel:
            stub = storage_service_pb2_grpc.StorageServiceStub(channel)
            yield SmallStorage(stub, process.pid, folder)


async def _unavailable(call: Callable[[], Awaitable[object]]) -> dict[str, str]:
    """Return the metadata of the error of *call*, which must be STORAGE_UNAVAILABLE."""
    while True:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call()
        # A client that still sends when the server ends the call may miss the status: it tries again.
        if failure.value.code() != grpc.StatusCode.INTERNAL:
            details = error_details(failure.value)
            assert (details.reason, details.code) == ("STORAGE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
            return details.metadata


async def test_disk_fills_during_a_write(tmp_path: Path):
    """A write that fills the disk fails and leaves nothing; an upload continues once there is space."""
    async with _small_storage(tmp_path, reserve=2 * _MIB) as storage:
        content = random_bytes(8 * _MIB)
        stored = await storage.write_artifact(content)
        await _unavailable(lambda: storage.write_artifact(random_bytes(10 * _MIB)))
        assert len(storage.files()) == 1
        upload, second = await storage.create_upload(0), random_bytes(10 * _MIB)
        await _unavailable(lambda: storage.write(upload, second))
        assert 0 < await storage.persisted_size(upload) < len(second)
        assert await storage.read(stored.name) == content
        await storage.delete(stored.name)
        assert await storage.write(upload, second) == len(second)
        assert await storage.read((await storage.finish(upload, second)).name) == second


async def test_disk_is_full_before_the_finish(tmp_path: Path):
    """While the catalog cannot be written, uploads can neither start nor finish; afterwards both can."""
    async with _small_storage(tmp_path) as storage:
        content = random_bytes(_MIB)
        upload = await storage.create_upload(len(content))
        await storage.write(upload, content)
        stored = await storage.write_artifact(b"small")
        with storage.filled():
            await _unavailable(lambda: storage.finish(upload, content))
            await _unavailable(lambda: storage.create_upload(1))
            assert await storage.read(stored.name) == b"small"
        assert await storage.read((await storage.finish(upload, content)).name) == content
        assert len(storage.files()) == 2


async def test_uploads_reserve_space(tmp_path: Path):
    """An upload for which the disk has no space is refused at its start; those that run can finish."""
    async with _small_storage(tmp_path, reserve=4 * _MIB) as storage:
        content = random_bytes(6 * _MIB)
        upload = await storage.create_upload(len(content))
        metadata = await _unavailable(lambda: storage.create_upload(len(content)))
        assert metadata["neededBytes"] == str(len(content))
        assert int(metadata["freeBytes"]) < len(content)
        half = len(content) // 2
        assert await storage.write(upload, content[:half]) == half
        assert await storage.create_upload(_MIB)
        await _unavailable(lambda: storage.create_upload(len(content)))
        await storage.write(upload, content)
        artifact = await storage.finish(upload, content)
        await _unavailable(lambda: storage.create_upload(len(content)))
        await storage.delete(artifact.name)
        assert await storage.create_upload(len(content))


async def test_limit_of_file_sizes(tmp_path: Path):
    """Content above the limit of the process (RLIMIT_FSIZE) is treated as on a full disk."""
    limited = ["sh", "-c", 'ulimit -S -f 4096 && exec "$@"', "sh", sys.executable, "-c", _PROGRAM]
    async with _storage(limited, tmp_path) as storage:
        content = random_bytes(5 * _MIB)
        await _unavailable(lambda: storage.write_artifact(content))
        assert storage.files() == []
        assert await storage.read((await storage.write_artifact(b"small")).name) == b"small"
        unlimited = resource.RLIM_INFINITY
        resource.prlimit(storage.process, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        assert await storage.read((await storage.write_artifact(content)).name) == content
