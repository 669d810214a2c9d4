"""The storage service as a server: health checks and cancelled calls."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.storage.conftest import StorageService, random_bytes, wait_until, write_requests

from reelhaul.storage.v1 import storage_service_pb2 as pb

MIB = 1 << 20


async def test_health(storage: StorageService):
    """Database and disk have their own health; a missing disk is reported, and its recovery too."""
    health = health_pb2_grpc.HealthStub(storage.channel)

    async def status(component: str) -> str:
        try:
            response = await health.Check(health_pb2.HealthCheckRequest(service=component))
        except grpc.aio.AioRpcError as error:
            return error.code().name  # NOT_FOUND: not checked yet
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

    async def wait_for_status(component: str, expected: str) -> None:
        async def matches() -> bool:
            return await status(component) == expected

        await wait_until(matches)

    await wait_for_status("storage.database", "SERVING")
    await wait_for_status("storage.backend", "SERVING")
    staging = storage.folder / "artifacts" / "staging"
    shutil.rmtree(staging)
    await wait_for_status("storage.backend", "NOT_SERVING")
    assert await status("storage.database") == "SERVING"
    staging.mkdir()
    await wait_for_status("storage.backend", "SERVING")
    assert storage.staged_files() == []


async def test_cancelled_calls(storage: StorageService):
    """Cancelled reads and writes leave no file open."""
    artifact = await storage.write_artifact(random_bytes(8 * MIB))
    for _ in range(10):
        reading = storage.suite.ReadArtifact(pb.ReadArtifactRequest(name=artifact.name))
        await reading.read()
        reading.cancel()
        upload = await storage.create_upload()
        writing = storage.suite.WriteArtifact(write_requests(random_bytes(6 * MIB), upload=upload.name))
        staged = storage.folder / "artifacts" / "staging" / upload.name.partition("/")[2]
        await wait_until(staged.exists)
        writing.cancel()
    await wait_until(lambda: _open_files(storage) == [])
    assert len(await storage.read(artifact.name)) == 8 * MIB


def _open_files(storage: StorageService) -> list[str]:
    """Return the staged and published files that this process has open."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        # The one of the listing is closed by now.
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [link for link in links if link.startswith(f"{storage.folder}/artifacts/")]
