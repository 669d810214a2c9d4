"""How files on a shared disk are taken over."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest
from tests.storage.conftest import Enter, Running, noise, refused


@pytest.fixture
def shared(storage: Running) -> Path:
    folder = storage.folder / "work"
    (folder / "job").mkdir(parents=True)
    (storage.folder / "secret").write_bytes(b"secret")
    return folder


async def test_adopted_without_a_copy(storage: Running, shared: Path):
    """A file in the shared folder becomes the blob itself, and can no longer be written to."""
    content = noise(3 << 20)
    source = shared / "job" / "film.mp4"
    source.write_bytes(content)
    upload = await storage.begin(content, file_name="film.mp4")
    artifact = await storage.finish(upload.name, content, adopt_path="job/film.mp4")
    assert await storage.get(artifact.name) == content
    (blob,) = storage.blobs()
    assert blob.samefile(source)
    assert blob.stat().st_mode & 0o777 == 0o440
    source.unlink()
    assert await storage.get(artifact.name) == content


async def test_adopted_across_filesystems(enter: Enter):
    """Where no link is possible the file is copied."""
    folder = Path("/dev/shm") / f"reelhaul-test-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "film").write_bytes(b"from afar")
        async with enter(storage_adopt_dir=folder) as storage:
            upload = await storage.begin()
            artifact = await storage.finish(upload.name, b"from afar", adopt_path="film")
            assert await storage.get(artifact.name) == b"from afar"
    finally:
        (folder / "film").unlink()
        folder.rmdir()


async def test_adopted_file_is_hashed(storage: Running, shared: Path):
    """A file that is not what its sender says makes no artifact, and stays his."""
    (shared / "film").write_bytes(b"other")
    upload = await storage.begin()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish(upload.name, b"meant", adopt_path="film")
    assert refused(failure.value).reason == "WRITE_CHECKSUM_MISMATCH"
    assert storage.staged() == storage.blobs() == []
    assert (shared / "film").read_bytes() == b"other"


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
async def test_paths_that_lead_out(storage: Running, shared: Path, path: str):
    """No path leads out of the shared folder, through a link, or to anything but a file."""
    (shared / "link").symlink_to(storage.folder / "secret")
    (shared / "linked").symlink_to(storage.folder)
    os.mkfifo(shared / "pipe")
    upload = await storage.begin()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish(upload.name, b"secret", adopt_path=path)
    answer = refused(failure.value)
    assert (answer.reason, answer.metadata) == ("FIELD_INVALID", {"field": "adopt_path"})
    assert storage.blobs() == storage.staged() == []


async def test_no_shared_folder(storage: Running):
    """Where there is no shared folder the sender is told to send."""
    upload = await storage.begin()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish(upload.name, b"film", adopt_path="film")
    assert refused(failure.value).reason == "FIELD_INVALID"


async def test_still_open_for_writing(storage: Running, shared: Path):
    """A file that somebody can still write to is not taken."""
    with (shared / "film").open("wb") as writer:
        writer.write(b"film")
        writer.flush()
        upload = await storage.begin()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.finish(upload.name, b"film", adopt_path="film")
    assert refused(failure.value).reason == "FIELD_INVALID"
    artifact = await storage.finish(upload.name, b"film", adopt_path="film")
    assert artifact.size_bytes == 4
