"""Garbage collector: expired and orphaned data is deleted, and nothing else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.storage.conftest import (
    Clock,
    StartStorage,
    checksums,
    wait_until,
)

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.identity import Caller, set_caller
from reelhaul_runtime.sql import migrations
from reelhaul_storage.catalog.store import SqlCatalog
from reelhaul_storage.disk.blobs import DiskBlobStore
from reelhaul_storage.disk.files import Files, pause_deletion
from reelhaul_storage.errors import BackendUnavailable, DeletionPaused, OffsetConflict
from reelhaul_storage.model import Artifact, Chunk, ExpectedChecksums, NewArtifact, Upload
from reelhaul_storage.service.artifacts import Artifacts
from reelhaul_storage.service.garbage_collector import GarbageCollector
from reelhaul_storage.service.uploads import Uploads

_TOKEN = "the suite's own"


class CrashingCatalog(SqlCatalog):
    """A catalog that can crash right before it commits an artifact, and lose what it has just found."""

    crashes = False
    loses_found = False

    async def find_by_sha256(self, tenant: str, sha256: Iterable[str], now: datetime) -> dict[str, str]:
        found = await super().find_by_sha256(tenant, sha256, now)
        if self.loses_found:
            await self.delete_artifacts(found.values(), lambda _: None, now)
        return found

    async def finish_upload(self, upload: str, artifact: Artifact, generation: int = 0) -> Artifact:
        if self.crashes:
            raise RuntimeError("crash")
        return await super().finish_upload(upload, artifact, generation)


class Services:
    """The objects of the storage service, called step by step."""

    def __init__(self, catalog: CrashingCatalog, blobs: DiskBlobStore) -> None:
        self.clock = Clock()
        self.catalog, self.blobs = catalog, blobs
        self.garbage_collector = GarbageCollector(catalog, blobs, self.clock)
        self.uploads = Uploads(catalog, blobs, self.clock, max_bytes=1 << 30)
        self.artifacts = Artifacts(catalog, blobs, self.garbage_collector, self.clock)

    async def create_upload(self) -> str:
        now = self.clock()
        upload = Upload("", NewArtifact(tenant="one", expire_time=now + timedelta(days=1)), now, now)
        return (await self.uploads.create(upload)).upload.id

    async def write(self, upload: str, content: bytes) -> None:
        async def chunks() -> AsyncIterator[Chunk]:
            yield Chunk(0, content)

        await self.uploads.write(upload, chunks())

    async def read(self, artifact: Artifact) -> bytes:
        _, pieces = await self.artifacts.read(artifact.id)
        return b"".join([piece async for piece in pieces])


@asynccontextmanager
async def _open_services(folder: Path) -> AsyncIterator[Services]:
    url = f"sqlite:///{folder}/storage.db"
    migrations.migrate_if_behind(url, "reelhaul_storage")
    disk = DiskBlobStore.open(folder / "artifacts", adopt_from=folder / "work")
    async with CrashingCatalog.open(url) as catalog, disk as blobs:
        yield Services(catalog, blobs)


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    set_caller(Caller("suite", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, suite=True))
    async with _open_services(tmp_path) as services:
        yield services


def _expected(content: bytes) -> ExpectedChecksums:
    return ExpectedChecksums(checksums(content).sha256.hex())


def _files(folder: Path) -> list[Path]:
    return [path for path in (folder / "artifacts").rglob("*") if path.is_file() and path.name[0] != "."]


async def _crash_before_commit(services: Services, content: bytes) -> str:
    """Write *content* and crash right before its artifact is committed; return the upload."""
    upload = await services.create_upload()
    await services.write(upload, content)
    services.catalog.crashes = True
    with pytest.raises(RuntimeError, match="crash"):
        await services.uploads.finish(upload, _expected(content))
    services.catalog.crashes = False
    return upload


async def test_crash_between_rename_and_commit(services: Services, tmp_path: Path):
    """After a crash the blob exists without an artifact; finishing again needs no bytes."""
    upload = await _crash_before_commit(services, b"video")
    assert len(_files(tmp_path)) == 1
    assert await services.catalog.find_by_sha256("one", [_expected(b"video").sha256], services.clock()) == {}
    async with _open_services(tmp_path) as restarted:
        artifact = await restarted.uploads.finish(upload, _expected(b"video"))
        assert await restarted.read(artifact) == b"video"


async def test_crash_and_never_finished(services: Services, tmp_path: Path):
    """A blob whose writer crashed and never finishes is deleted, but not before an hour has passed."""
    await _crash_before_commit(services, b"video")
    await services.garbage_collector.delete_expired()
    await services.garbage_collector.delete_orphans()
    assert len(_files(tmp_path)) == 1
    services.clock.offset = timedelta(hours=2)
    await services.garbage_collector.delete_expired()
    assert _files(tmp_path) == []


async def test_finish_after_collection(services: Services, tmp_path: Path):
    """A writer whose blob was collected must write again; no artifact without bytes is made."""
    upload = await _crash_before_commit(services, b"video")
    services.clock.offset = timedelta(hours=2)
    await services.garbage_collector.delete_expired()
    with pytest.raises((OffsetConflict, BackendUnavailable)):
        await services.uploads.finish(upload, _expected(b"video"))
    await services.write(upload, b"video")
    assert await services.read(await services.uploads.finish(upload, _expected(b"video"))) == b"video"


async def test_delete_while_an_upload_is_created(services: Services):
    """An upload of content whose only artifact is deleted meanwhile is created, and asks for the bytes."""
    first = await services.create_upload()
    await services.write(first, b"video")
    await services.uploads.finish(first, _expected(b"video"))
    now = services.clock()
    draft = NewArtifact(tenant="one", expire_time=now + timedelta(days=1))
    upload = Upload("", draft, now, now, total_size=5, expected_sha256=_expected(b"video").sha256)
    services.catalog.loses_found = True
    assert not (await services.uploads.create(upload)).content_exists


async def test_delete_while_claimed(services: Services, tmp_path: Path):
    """Deleting the last artifact keeps bytes that another writer of the same content has just claimed."""
    first = await services.create_upload()
    await services.write(first, b"same")
    artifact = await services.uploads.finish(first, _expected(b"same"))
    second = await _crash_before_commit(services, b"same")
    await services.artifacts.delete([artifact.id])
    assert len(_files(tmp_path)) == 1
    assert await services.read(await services.uploads.finish(second, _expected(b"same"))) == b"same"


async def test_no_deletion_during_a_backup(services: Services, tmp_path: Path):
    """While a backup reads the blobs, a deleted artifact is gone and its bytes stay; then they go."""
    upload = await services.create_upload()
    await services.write(upload, b"video")
    artifact = await services.uploads.finish(upload, _expected(b"video"))
    with pause_deletion(tmp_path / "artifacts"):
        await services.artifacts.delete([artifact.id])
        await services.garbage_collector.delete_expired()
        with pytest.raises(NotFound):
            await services.read(artifact)
        services.clock.offset = timedelta(hours=2)
        await services.garbage_collector.delete_orphans()
        assert len(_files(tmp_path)) == 1
    await services.garbage_collector.delete_expired()
    assert _files(tmp_path) == []


def test_deletions_while_a_backup_begins(tmp_path: Path):
    """A backup that begins while files are deleted waits for them: it does not take them for a backup."""
    files, stopped = Files(tmp_path, tmp_path, 0), threading.Event()

    def delete_missing() -> None:
        while not stopped.is_set():
            with suppress(DeletionPaused):
                files.delete("missing")

    deleting = threading.Thread(target=delete_missing)
    deleting.start()
    try:
        for _ in range(50):
            with pause_deletion(tmp_path), pytest.raises(DeletionPaused):
                files.delete("missing")
    finally:
        stopped.set()
        deleting.join()
        files.prehashes.close()


async def test_late_blob_deletion(services: Services, tmp_path: Path):
    """A late deletion does not affect a new blob with the same digest."""
    first = await services.create_upload()
    await services.write(first, b"same")
    artifact = await services.uploads.finish(first, _expected(b"same"))
    await services.catalog.delete_artifacts([artifact.id], lambda _: None, services.clock())
    doomed = await services.catalog.list_doomed_keys(services.clock(), 10)
    second = await services.create_upload()
    await services.write(second, b"same")
    artifact = await services.uploads.finish(second, _expected(b"same"))
    for key in doomed:
        await services.blobs.delete(key)
    assert await services.read(artifact) == b"same"


async def test_expired_artifacts_and_uploads(services: Services, tmp_path: Path):
    """Expired artifacts are deleted, and uploads 24 h after their last write."""
    finished, unfinished = await services.create_upload(), await services.create_upload()
    await services.write(finished, b"video")
    await services.uploads.finish(finished, _expected(b"video"))
    await services.write(unfinished, b"half")
    await services.garbage_collector.delete_expired()
    assert len(_files(tmp_path)) == 2
    services.clock.offset = timedelta(hours=25)
    await services.garbage_collector.delete_expired()
    assert _files(tmp_path) == []
    assert await services.catalog.list_uploads(None, None, 10) == []


async def test_bytes_that_cannot_be_deleted(services: Services, tmp_path: Path):
    """Bytes that cannot be deleted are left to the next run, and keep nothing else from being deleted."""
    stuck, other, stored = [await services.create_upload() for _ in range(3)]
    for upload in (stuck, other, stored):
        await services.write(upload, upload.encode())
    artifact = await services.uploads.finish(stored, _expected(stored.encode()))
    # A folder in place of the file cannot be unlinked.
    path = tmp_path / "artifacts" / "staging" / stuck
    path.unlink()
    path.mkdir()
    services.clock.offset = timedelta(days=2)
    await services.garbage_collector.delete_expired()
    assert _files(tmp_path) == []
    assert [upload.id for upload in await services.catalog.list_uploads(None, None, 10)] == [stuck]
    with pytest.raises(NotFound):
        await services.catalog.get_artifact(artifact.id)
    path.rmdir()
    await services.garbage_collector.delete_expired()
    assert await services.catalog.list_uploads(None, None, 10) == []


async def test_orphaned_files(services: Services, tmp_path: Path):
    """Files that the catalog does not know are deleted after an hour; known and recent ones stay."""
    upload = await services.create_upload()
    await services.write(upload, b"video")
    artifact = await services.uploads.finish(upload, _expected(b"video"))
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
    await services.garbage_collector.delete_orphans()
    assert [path.exists() for path in (*old, fresh)] == [False, False, True]
    assert await services.read(artifact) == b"video"


async def test_runs_in_background(start_storage: StartStorage):
    """The running service collects garbage by itself."""
    async with start_storage(storage_sweep_seconds=0.05) as storage:
        await storage.write_artifact(b"x", ttl={"seconds": 60})
        assert len(storage.blob_files()) == 1
        storage.clock.offset = timedelta(seconds=61)
        await wait_until(lambda: storage.blob_files() == [])


async def test_grace_period(start_storage: StartStorage):
    """Bytes stay for the grace period after their last artifact; stored again, the content has its own."""
    async with start_storage(storage_sweep_seconds=0.05, storage_grace_seconds=3600) as storage:
        artifact = await storage.write_artifact(b"x")
        await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=artifact.name))
        again = await storage.write_artifact(b"x")
        assert len(storage.blob_files()) == 2
        storage.clock.offset = timedelta(seconds=3601)
        await wait_until(lambda: len(storage.blob_files()) == 1)
        assert await storage.read(again.name) == b"x"
