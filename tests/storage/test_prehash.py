"""Prehash: hashing files before they are adopted, and detecting changes made in between."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tests.storage.conftest import StorageService, error_details, random_bytes

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul_storage.disk.prehash import PrehashCache

_VIDEO = random_bytes(1 << 20)
_OTHER = random_bytes(1 << 20)


@pytest.fixture
def shared(storage: StorageService) -> Path:
    folder = storage.folder / "work"
    folder.mkdir()
    (folder / "video").write_bytes(_VIDEO)
    return folder


@pytest.fixture
def prehashes(tmp_path: Path) -> Iterator[PrehashCache]:
    """A cache with one reader, which reads in the order of the calls."""
    (tmp_path / "video").write_bytes(_VIDEO)
    (tmp_path / "last").write_bytes(b"")
    cache = PrehashCache(tmp_path, tmp_path.stat().st_dev, readers=1)
    yield cache
    cache.close()


def _take_sha256(prehashes: PrehashCache, path: Path) -> str:
    """Return the SHA-256 that *prehashes* has for *path*, as if it were adopted now; empty if none."""
    fd = os.open(path, os.O_RDONLY)
    try:
        hasher = prehashes.take(path.name, fd)
    finally:
        os.close(fd)
    return hasher.digests().sha256 if hasher else ""


def _wait_for_prehashes(prehashes: PrehashCache, folder: Path) -> None:
    """Return once every prehash is done: the single reader reads in order."""
    prehashes.start("last", "last")
    while not _take_sha256(prehashes, folder / "last"):
        time.sleep(0.001)
        prehashes.start("last", "last")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_finish_without_checksum(storage: StorageService, shared: Path):
    """An announced file can be finished without a checksum; the response has it."""
    upload = await storage.create_upload(adopt_path="video")
    assert (shared / "video").stat().st_nlink == 1
    artifact = await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path="video"))
    assert artifact.checksums.sha256 == hashlib.sha256(_VIDEO).digest()
    assert await storage.read(artifact.name) == _VIDEO


async def test_announce_stored_content(storage: StorageService, shared: Path):
    """Content that is stored already is kept once, even if its digest was not announced."""
    for _ in range(2):
        upload = await storage.create_upload(adopt_path="video")
        await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path="video"))
    assert len(storage.blob_files()) == 1


async def test_announce_empty_file(storage: StorageService, shared: Path):
    """An empty file can be adopted."""
    (shared / "video").write_bytes(b"")
    upload = await storage.create_upload(adopt_path="video")
    artifact = await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path="video"))
    assert artifact.checksums.sha256 == hashlib.sha256().digest()


async def test_replaced_after_announcement(storage: StorageService, shared: Path):
    """The adopted content and its digest are those of the file at the time of adoption."""
    upload = await storage.create_upload(adopt_path="video")
    (shared / "other").write_bytes(_OTHER)
    (shared / "other").replace(shared / "video")
    artifact = await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path="video"))
    assert artifact.checksums.sha256 == hashlib.sha256(_OTHER).digest()
    assert await storage.read(artifact.name) == _OTHER


async def test_announced_file_with_wrong_checksum(storage: StorageService, shared: Path):
    """An announced file must match the checksum if the sender states one."""
    upload = await storage.create_upload(adopt_path="video")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish_upload(upload.name, b"meant", adopt_path="video")
    assert error_details(failure.value).reason == "WRITE_CHECKSUM_MISMATCH"
    assert storage.staged_files() == storage.blob_files() == []


async def test_written_without_checksum(storage: StorageService):
    """An upload without an adopted file must be finished with a checksum."""
    upload = await storage.create_upload()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name))
    assert error_details(failure.value).reason == "FIELD_INVALID"


@pytest.mark.parametrize("path", ["../secret", "none", "link", "pipe"])
async def test_announced_path_outside_folder(storage: StorageService, shared: Path, path: str):
    """An invalid path is not an error when it is announced, only when it is adopted."""
    (storage.folder / "secret").write_bytes(b"secret")
    (shared / "link").symlink_to(storage.folder / "secret")
    os.mkfifo(shared / "pipe")
    upload = await storage.create_upload(adopt_path=path)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path=path))
    assert error_details(failure.value).reason == "FIELD_INVALID"


async def test_announced_and_deleted(storage: StorageService, shared: Path):
    """Deleting an upload that announced a file leaves the file untouched and nothing behind."""
    upload = await storage.create_upload(adopt_path="video")
    await storage.suite.DeleteUpload(pb.DeleteUploadRequest(name=upload.name))
    assert storage.staged_files() == storage.blob_files() == []
    assert (shared / "video").read_bytes() == _VIDEO


def test_unchanged_file(prehashes: PrehashCache, tmp_path: Path):
    """An unchanged file need not be hashed again."""
    prehashes.start("video", "video")
    _wait_for_prehashes(prehashes, tmp_path)
    assert _take_sha256(prehashes, tmp_path / "video") == _sha256(_VIDEO)


def _overwrite(video: Path) -> None:
    before = video.stat()
    with video.open("r+b") as file:
        file.write(b"x")
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))


def _append(video: Path) -> None:
    with video.open("ab") as file:
        file.write(b"x")


def _replace(video: Path) -> None:
    video.with_name("other").write_bytes(_VIDEO)
    video.with_name("other").replace(video)


@pytest.mark.parametrize("change", [_overwrite, _append, _replace])
def test_changed_file(prehashes: PrehashCache, tmp_path: Path, change: Callable[[Path], None]):
    """A changed file is detected even if its modification time was set back."""
    prehashes.start("video", "video")
    _wait_for_prehashes(prehashes, tmp_path)
    change(tmp_path / "video")
    assert not _take_sha256(prehashes, tmp_path / "video")


def test_open_for_writing_while_hashed(prehashes: PrehashCache, tmp_path: Path):
    """A file that was open for writing while it was hashed is hashed again."""
    with (tmp_path / "video").open("r+b"):
        prehashes.start("video", "video")
        _wait_for_prehashes(prehashes, tmp_path)
    assert not _take_sha256(prehashes, tmp_path / "video")


def test_open_for_writing_when_adopted(prehashes: PrehashCache, tmp_path: Path):
    """A file that is open for writing when it is adopted is hashed again."""
    prehashes.start("video", "video")
    _wait_for_prehashes(prehashes, tmp_path)
    with (tmp_path / "video").open("r+b"):
        assert not _take_sha256(prehashes, tmp_path / "video")
