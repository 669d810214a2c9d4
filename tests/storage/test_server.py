"""How the service behaves as a server."""

from __future__ import annotations

import os
import shutil

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.storage.conftest import Running, messages, noise, until

from reelhaul.storage.v1 import storage_service_pb2 as pb

MIB = 1 << 20


async def test_health(storage: Running):
    """Database and disk each have a health of their own; a disk that is gone is told, and told when back."""
    health = health_pb2_grpc.HealthStub(storage.channel)

    async def status(component: str) -> str:
        try:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=component))
        except grpc.aio.AioRpcError as error:
            return error.code().name  # NOT_FOUND: not looked at yet
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    async def become(component: str, wanted: str) -> None:
        async def is_so() -> bool:
            return await status(component) == wanted

        await until(is_so)

    await become("storage.database", "SERVING")
    await become("storage.backend", "SERVING")
    staging = storage.folder / "artifacts" / "staging"
    shutil.rmtree(staging)
    await become("storage.backend", "NOT_SERVING")
    assert await status("storage.database") == "SERVING"
    staging.mkdir()
    await become("storage.backend", "SERVING")
    assert storage.staged() == []


async def test_callers_that_hang_up(storage: Running):
    """Reads and writes that break off leave no file open."""
    artifact = await storage.put(noise(8 * MIB))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        reading = storage.suite.ReadArtifact(pb.ReadArtifactRequest(name=artifact.name))
        await reading.read()
        reading.cancel()
        upload = await storage.begin()
        writing = storage.suite.WriteArtifact(messages(noise(6 * MIB), upload=upload.name))
        staged = storage.folder / "artifacts" / "staging" / upload.name.partition("/")[2]
        await until(staged.exists)
        writing.cancel()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert len(await storage.get(artifact.name)) == 8 * MIB
