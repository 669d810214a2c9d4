"""Link import: adopting files from a shared folder."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest
from tests.storage.conftest import StartStorage, StorageService, error_details, random_bytes


@pytest.fixture
def shared(storage: StorageService) -> Path:
    folder = storage.folder / "work"
    (folder / "job").mkdir(parents=True)
    (storage.folder / "secret").write_bytes(b"secret")
    return folder


async def test_adopt_by_link(storage: StorageService, shared: Path):
    """An adopted file becomes the blob itself by a hard link and is read-only."""
    content = random_bytes(3 << 20)
    source = shared / "job" / "video.mp4"
    source.write_bytes(content)
    upload = await storage.create_upload(content, adopt_path="job/video.mp4", file_name="video.mp4")
    assert upload.adoptable
    artifact = await storage.finish_upload(upload.name, content, adopt_path="job/video.mp4")
    assert await storage.read(artifact.name) == content
    (blob,) = storage.blob_files()
    assert blob.samefile(source)
    assert blob.stat().st_mode & 0o777 == 0o440
    source.unlink()
    assert await storage.read(artifact.name) == content


async def test_adopt_across_filesystems(start_storage: StartStorage):
    """A file that cannot be linked is copied."""
    folder = Path("/dev/shm") / f"reelhaul-test-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "video").write_bytes(b"from afar")
        async with start_storage(storage_adopt_dir=folder) as storage:
            upload = await storage.create_upload()
            artifact = await storage.finish_upload(upload.name, b"from afar", adopt_path="video")
            assert await storage.read(artifact.name) == b"from afar"
    finally:
        (folder / "video").unlink()
        folder.rmdir()


async def test_adopt_wrong_checksum(storage: StorageService, shared: Path):
    """A file with another checksum than stated makes no artifact and is left untouched."""
    (shared / "video").write_bytes(b"other")
    upload = await storage.create_upload()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish_upload(upload.name, b"meant", adopt_path="video")
    assert error_details(failure.value).reason == "WRITE_CHECKSUM_MISMATCH"
    assert storage.staged_files() == storage.blob_files() == []
    assert (shared / "video").read_bytes() == b"other"


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "job/../../secret",
        "/etc/hostname",
        "link",
        "linked/secret",
        "job",
        "none",
        "pipe",
        "a\0b",
        ".",
    ],
)
async def test_adopt_path_outside_folder(storage: StorageService, shared: Path, path: str):
    """A path that leads out of the shared folder, through a link, or to no regular file is rejected."""
    (shared / "link").symlink_to(storage.folder / "secret")
    (shared / "linked").symlink_to(storage.folder)
    os.mkfifo(shared / "pipe")
    upload = await storage.create_upload(adopt_path=path)
    assert not upload.adoptable
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish_upload(upload.name, b"secret", adopt_path=path)
    details = error_details(failure.value)
    assert (details.reason, details.metadata) == ("FIELD_INVALID", {"field": "adopt_path"})
    assert storage.blob_files() == storage.staged_files() == []


async def test_adopt_without_shared_folder(storage: StorageService):
    """Without a shared folder, no file is adoptable, so that the sender sends the bytes."""
    upload = await storage.create_upload(adopt_path="video")
    assert not upload.adoptable
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish_upload(upload.name, b"video", adopt_path="video")
    assert error_details(failure.value).reason == "FIELD_INVALID"


async def test_adopt_open_for_writing(storage: StorageService, shared: Path):
    """A file that is open for writing is rejected."""
    with (shared / "video").open("wb") as writer:
        writer.write(b"video")
        writer.flush()
        upload = await storage.create_upload()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.finish_upload(upload.name, b"video", adopt_path="video")
    assert error_details(failure.value).reason == "FIELD_INVALID"
    artifact = await storage.finish_upload(upload.name, b"video", adopt_path="video")
    assert artifact.size_bytes == 5
