"""Storage and the gateway as processes, and a client of storage."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.servers import free_port

from bench.processes import Process, python_command, running
from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2_grpc
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1.media_pb2 import Checksums
from reelhaul_runtime.rpc.channels import open_channel

_SERVICE = pb.DESCRIPTOR.services_by_name["StorageService"]
_TOKEN = "bench"
_CHUNK = 512 << 10


@dataclass(frozen=True)
class StorageProcess:
    """A running storage service and a stub of it with the suite's rights."""

    folder: Path
    address: str
    process: Process
    channel: grpc.aio.Channel
    stub: storage_service_pb2_grpc.StorageServiceAsyncStub

    async def write(self, source: Path, sha256: bytes) -> artifact_pb2.Artifact:
        """Write the file *source* through the stream; return its artifact."""
        with source.open("rb") as file:
            response = await self.stub.WriteArtifact(_write_requests(lambda: file.read(_CHUNK), sha256))
        return response.artifact

    async def write_bytes(self, content: bytes) -> artifact_pb2.Artifact:
        """Write *content* in one call; return its artifact."""
        pieces = iter([content])
        digest = hashlib.sha256(content).digest()
        response = await self.stub.WriteArtifact(_write_requests(lambda: next(pieces, b""), digest))
        return response.artifact

    async def write_zeros(self, size: int) -> artifact_pb2.Artifact:
        """Write *size* zero bytes through the stream; return their artifact."""
        piece, left = bytes(_CHUNK), size // _CHUNK
        digest = hashlib.sha256()
        for _ in range(left):
            digest.update(piece)

        def read() -> bytes:
            nonlocal left
            left -= 1
            return piece if left >= 0 else b""

        return (await self.stub.WriteArtifact(_write_requests(read, digest.digest()))).artifact

    async def read(self, name: str) -> int:
        """Read the artifact *name* through the stream; return its size."""
        size = 0
        async for response in self.stub.ReadArtifact(pb.ReadArtifactRequest(name=name)):
            size += len(response.content)
        return size

    async def delete(self, name: str) -> None:
        """Delete the artifact *name* and its bytes."""
        await self.stub.DeleteArtifact(pb.DeleteArtifactRequest(name=name))


class MemoryMeter:
    """Samples the resident memory of *process* while its block runs."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.peak_megabytes = process.megabytes
        self._sampling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> MemoryMeter:
        self._sampling = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._sampling is not None
        self._sampling.cancel()

    async def _sample(self) -> None:
        while True:
            self.peak_megabytes = max(self.peak_megabytes, self._process.megabytes)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running_storage(
    folder: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[StorageProcess]:
    """Run storage on *folder* until the block ends; it is ready when the block begins."""
    folder.mkdir(mode=0o700)  # noqa: ASYNC240 - once
    address = f"127.0.0.1:{free_port()}"
    environment = {
        "REELHAUL_DATA_DIR": str(folder),
        "REELHAUL_STORAGE_ADDRESS": address,
        "REELHAUL_STORAGE_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
        "REELHAUL_STORAGE_METRICS_ADDRESS": "127.0.0.1:0",
        "REELHAUL_SUITE_TOKEN": _TOKEN,
        "REELHAUL_AUTH": "none",
        **(settings or {}),
    }
    command = python_command("-m", "reelhaul_runtime", "serve", "storage")
    async with (
        running(command, folder / "storage.log", environment) as process,
        open_channel(address, [_SERVICE], suite_token=_TOKEN) as channel,
    ):
        await _wait_until_serving(channel, folder / "storage.log")
        yield StorageProcess(
            folder, address, process, channel, storage_service_pb2_grpc.StorageServiceStub(channel)
        )


@asynccontextmanager
async def running_gateway(storage: StorageProcess) -> AsyncIterator[tuple[str, Process]]:
    """Run the gateway in front of *storage*, without jobs and fetcher; yield its origin and process."""
    port = free_port()
    environment = {
        "REELHAUL_DATA_DIR": str(storage.folder),
        "REELHAUL_GATEWAY_ADDRESS": f"127.0.0.1:{port}",
        "REELHAUL_GATEWAY_METRICS_ADDRESS": "127.0.0.1:0",
        "REELHAUL_STORAGE_ADDRESS": storage.address,
        "REELHAUL_JOBS_ADDRESS": f"127.0.0.1:{free_port()}",
        "REELHAUL_FETCHER_ADDRESS": f"127.0.0.1:{free_port()}",
        "REELHAUL_SUITE_TOKEN": _TOKEN,
        "REELHAUL_AUTH": "none",
    }
    command = python_command("-m", "reelhaul_runtime", "serve", "gateway")
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(
            running(command, storage.folder / "gateway.log", environment)
        )
        await wait_until_accepting(port)
        yield f"http://127.0.0.1:{port}", process


async def wait_until_accepting(port: int) -> None:
    """Return when a server accepts connections at *port*; raise TimeoutError after 20 s."""
    end = time.monotonic() + 20
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise TimeoutError(f"nothing listens at port {port}") from None
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def _wait_until_serving(channel: grpc.aio.Channel, log: Path) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=_SERVICE.full_name)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            response = await health.Check(request, timeout=1)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.02)
            continue
        if response.status == health_pb2.HealthCheckResponse.SERVING:
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"storage does not serve; its log: {log}")


async def _write_requests(read: Callable[[], bytes], sha256: bytes) -> AsyncIterator[pb.WriteArtifactRequest]:
    """Yield the messages of a one-shot write of what *read* returns until it returns nothing."""
    offset, request = 0, pb.WriteArtifactRequest(artifact=artifact_pb2.Artifact(file_name="bench"))
    while content := read():
        request.write_offset, request.content = offset, content
        yield request
        offset += len(content)
        request = pb.WriteArtifactRequest()
    request.write_offset, request.finish_write = offset, True
    request.total_checksums.CopyFrom(Checksums(sha256=sha256))
    yield request
