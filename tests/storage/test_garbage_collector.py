"""What is past its time goes; what crashes leave behind goes too; nothing else does."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from tests.servers import free_port, running_process, wait_until_listening
from tests.storage.conftest import SERVICE, Clock, Enter, checksums, messages, noise, until

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.storage.v1 import storage_service_pb2_grpc
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.identity import Caller, set_caller
from reelhaul_runtime.rpc.channels import channel
from reelhaul_runtime.sql import migrations
from reelhaul_storage.catalog.store import SqlCatalog
from reelhaul_storage.disk.blobs import DiskBlobStore
from reelhaul_storage.errors import BackendUnavailable, OffsetConflict
from reelhaul_storage.model import Artifact, Chunk, ExpectedChecksums, NewArtifact, Upload
from reelhaul_storage.service.artifacts import Artifacts
from reelhaul_storage.service.garbage_collector import GarbageCollector
from reelhaul_storage.service.uploads import Uploads


class Dying(SqlCatalog):
    """A catalogue whose process is killed right before it commits an artifact."""

    dies = False

    async def finish_upload(self, upload: str, artifact: Artifact) -> Artifact:
        if self.dies:
            raise RuntimeError("killed")
        return await super().finish_upload(upload, artifact)


class House:
    """The parts of the service, to be stopped between any two steps."""

    def __init__(self, catalogue: Dying, blobs: DiskBlobStore) -> None:
        self.clock = Clock()
        self.catalogue, self.blobs = catalogue, blobs
        self.sweep = GarbageCollector(catalogue, blobs, self.clock)
        self.uploads = Uploads(catalogue, blobs, self.clock, max_bytes=1 << 30)
        self.artifacts = Artifacts(catalogue, blobs, self.sweep, self.clock)

    async def begin(self) -> str:
        now = self.clock()
        upload = Upload("", NewArtifact(tenant="one", expire_time=now + timedelta(days=1)), now, now)
        return (await self.uploads.create(upload)).upload.id

    async def write(self, upload: str, content: bytes) -> None:
        async def chunks() -> AsyncIterator[Chunk]:
            yield Chunk(0, content)

        await self.uploads.write(upload, chunks())

    async def content(self, artifact: Artifact) -> bytes:
        _, pieces = await self.artifacts.read(artifact.id)
        return b"".join([piece async for piece in pieces])


@asynccontextmanager
async def _house(folder: Path) -> AsyncIterator[House]:
    url = f"sqlite:///{folder}/storage.db"
    migrations.migrate_if_behind(url, "reelhaul_storage")
    disk = DiskBlobStore.open(folder / "artifacts", adopt_from=folder / "work")
    async with Dying.open(url) as catalogue, disk as blobs:
        yield House(catalogue, blobs)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    set_caller(Caller("suite", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, suite=True))
    async with _house(tmp_path) as entered:
        yield entered


def _expected(content: bytes) -> ExpectedChecksums:
    return ExpectedChecksums(checksums(content).sha256.hex())


def _files(folder: Path) -> list[Path]:
    return [path for path in (folder / "artifacts").rglob("*") if path.is_file() and path.name[0] != "."]


async def _killed_before_commit(house: House, content: bytes) -> str:
    upload = await house.begin()
    await house.write(upload, content)
    house.catalogue.dies = True
    with pytest.raises(RuntimeError, match="killed"):
        await house.uploads.finish(upload, _expected(content))
    house.catalogue.dies = False
    return upload


async def test_killed_between_rename_and_commit(house: House, tmp_path: Path):
    """The bytes lie published, but no artifact speaks of them; finishing again needs no bytes."""
    upload = await _killed_before_commit(house, b"film")
    assert len(_files(tmp_path)) == 1
    assert await house.catalogue.find_by_sha256("one", [_expected(b"film").sha256], house.clock()) == {}
    async with _house(tmp_path) as again:
        artifact = await again.uploads.finish(upload, _expected(b"film"))
        assert await again.content(artifact) == b"film"


async def test_killed_and_never_finished(house: House, tmp_path: Path):
    """What a killed writer published and nobody finishes is swept, but not too soon."""
    await _killed_before_commit(house, b"film")
    await house.sweep.delete_expired()
    await house.sweep.delete_orphans()
    assert len(_files(tmp_path)) == 1
    house.clock.ahead = timedelta(hours=2)
    await house.sweep.delete_expired()
    assert _files(tmp_path) == []


async def test_finished_after_the_sweep(house: House, tmp_path: Path):
    """A writer that slept through the sweep is told to write again; no artifact lies."""
    upload = await _killed_before_commit(house, b"film")
    house.clock.ahead = timedelta(hours=2)
    await house.sweep.delete_expired()
    with pytest.raises((OffsetConflict, BackendUnavailable)):
        await house.uploads.finish(upload, _expected(b"film"))
    await house.write(upload, b"film")
    assert await house.content(await house.uploads.finish(upload, _expected(b"film"))) == b"film"


async def test_deleted_while_another_publishes(house: House, tmp_path: Path):
    """Deleting the last artifact spares bytes that a writer of the same content just claimed."""
    first = await house.begin()
    await house.write(first, b"same")
    artifact = await house.uploads.finish(first, _expected(b"same"))
    second = await _killed_before_commit(house, b"same")
    await house.artifacts.delete([artifact.id])
    assert len(_files(tmp_path)) == 1
    assert await house.content(await house.uploads.finish(second, _expected(b"same"))) == b"same"


async def test_slow_deletion_spares_new_bytes(house: House, tmp_path: Path):
    """A deletion that comes late does not hit what was stored anew under the same digest."""
    first = await house.begin()
    await house.write(first, b"same")
    artifact = await house.uploads.finish(first, _expected(b"same"))
    await house.catalogue.delete_artifacts([artifact.id], lambda _: None, house.clock())
    late = await house.catalogue.list_doomed_keys(10)
    second = await house.begin()
    await house.write(second, b"same")
    anew = await house.uploads.finish(second, _expected(b"same"))
    for key in late:
        await house.blobs.delete(key)
    assert await house.content(anew) == b"same"


async def test_expired_artifacts_and_uploads(house: House, tmp_path: Path):
    """Artifacts past their time and uploads 24 h after their last byte are taken away."""
    done, undone = await house.begin(), await house.begin()
    await house.write(done, b"film")
    await house.uploads.finish(done, _expected(b"film"))
    await house.write(undone, b"half")
    await house.sweep.delete_expired()
    assert len(_files(tmp_path)) == 2
    house.clock.ahead = timedelta(hours=25)
    await house.sweep.delete_expired()
    assert _files(tmp_path) == []
    assert await house.catalogue.list_uploads(None, None, 10) == []


async def test_files_nobody_knows(house: House, tmp_path: Path):
    """Files unknown to the catalogue go after an hour; known and fresh ones stay."""
    upload = await house.begin()
    await house.write(upload, b"film")
    artifact = await house.uploads.finish(upload, _expected(b"film"))
    old = [
        tmp_path / "artifacts" / "staging" / "lost",
        tmp_path / "artifacts" / "blobs" / "ab" / "cd" / "lost",
    ]
    fresh = tmp_path / "artifacts" / "staging" / "fresh"
    for path in (*old, fresh):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for path in (*old, tmp_path / "artifacts" / "blobs" / artifact.key):
        os.utime(path, (time.time() - 7200,) * 2)
    await house.sweep.delete_orphans()
    assert [path.exists() for path in (*old, fresh)] == [False, False, True]
    assert await house.content(artifact) == b"film"


async def test_sweeps_by_itself(enter: Enter):
    """The running service sweeps without being asked."""
    async with enter(storage_sweep_seconds=0.05) as storage:
        await storage.put(b"x", ttl={"seconds": 60})
        assert len(storage.blobs()) == 1
        storage.clock.ahead = timedelta(seconds=61)
        await until(lambda: storage.blobs() == [])


async def test_killed_in_the_middle(tmp_path: Path):
    """kill -9 under load: every artifact that was answered can be read after the restart."""
    answered: dict[str, bytes] = {}

    async def writes(stub: storage_service_pb2_grpc.StorageServiceAsyncStub) -> None:
        while True:
            content = noise(300_000)
            answer = await stub.WriteArtifact(messages(content, artifact={}))
            answered[answer.artifact.name] = content

    async with _process(tmp_path) as (pid, stub):
        writers = [asyncio.ensure_future(writes(stub)) for _ in range(4)]
        await until(lambda: len(answered) > 20)
        os.kill(pid, 9)
        outcomes = await asyncio.gather(*writers, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {grpc.aio.AioRpcError}
    async with _process(tmp_path) as (_, stub):
        for name, content in answered.items():
            pieces = stub.ReadArtifact(pb.ReadArtifactRequest(name=name))
            assert b"".join([piece.content async for piece in pieces]) == content


@asynccontextmanager
async def _process(
    folder: Path,
) -> AsyncIterator[tuple[int, storage_service_pb2_grpc.StorageServiceAsyncStub]]:
    port = free_port()
    program = "import asyncio; from reelhaul_storage.app import service\n"
    program += (
        "async def main():\n  async with service.running(): await asyncio.Event().wait()\nasyncio.run(main())"
    )
    environment = os.environ | {
        "REELHAUL_DATA_DIR": str(folder),
        "REELHAUL_STORAGE_ADDRESS": f"127.0.0.1:{port}",
        "REELHAUL_STORAGE_RESERVE_BYTES": "0",
    }
    with running_process([sys.executable, "-c", program], env=environment) as process:
        await wait_until_listening(port, 20)
        async with channel(f"127.0.0.1:{port}", [SERVICE]) as opened:
            yield process.pid, storage_service_pb2_grpc.StorageServiceStub(opened)
