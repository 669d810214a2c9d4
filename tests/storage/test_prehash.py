"""How files that are to be taken over are read before that, and what happens between."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tests.storage.conftest import Running, noise, refused

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul_storage.disk.prehash import PrehashCache

_FILM = noise(1 << 20)
_OTHER = noise(1 << 20)


@pytest.fixture
def shared(storage: Running) -> Path:
    folder = storage.folder / "work"
    folder.mkdir()
    (folder / "film").write_bytes(_FILM)
    return folder


@pytest.fixture
def ahead(tmp_path: Path) -> Iterator[PrehashCache]:
    """With one reader: what was begun first is read first."""
    (tmp_path / "film").write_bytes(_FILM)
    (tmp_path / "last").write_bytes(b"")
    reading = PrehashCache(tmp_path, tmp_path.stat().st_dev, readers=1)
    yield reading
    reading.close()


def _taken(ahead: PrehashCache, path: Path) -> str:
    """The SHA-256 that is known of *path*, when it is taken over as what was begun; empty: none."""
    opened = os.open(path, os.O_RDONLY)
    try:
        found = ahead.take(path.name, opened)
    finally:
        os.close(opened)
    return found.digests().sha256 if found else ""


def _all_read(ahead: PrehashCache, folder: Path) -> None:
    """Return once all is read that was begun: one reader reads in order."""
    ahead.start("last", "last")
    while not _taken(ahead, folder / "last"):
        time.sleep(0.001)
        ahead.start("last", "last")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_digest_that_nobody_told(storage: Running, shared: Path):
    """A file that was announced is taken over without its sender's digest: storage answers with its own."""
    upload = await storage.begin(adopt_path="film")
    assert (shared / "film").stat().st_nlink == 1
    artifact = await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path="film"))
    assert artifact.checksums.sha256 == hashlib.sha256(_FILM).digest()
    assert await storage.get(artifact.name) == _FILM


async def test_known_content_announced_again(storage: Running, shared: Path):
    """What is stored already is kept once, also where nobody said so before."""
    for _ in range(2):
        upload = await storage.begin(adopt_path="film")
        await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path="film"))
    assert len(storage.blobs()) == 1


async def test_empty_file_announced(storage: Running, shared: Path):
    """An empty file is one as well."""
    (shared / "film").write_bytes(b"")
    upload = await storage.begin(adopt_path="film")
    artifact = await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path="film"))
    assert artifact.checksums.sha256 == hashlib.sha256().digest()


async def test_replaced_after_it_was_announced(storage: Running, shared: Path):
    """What is taken over is what lies there in the end, and its digest is of that."""
    upload = await storage.begin(adopt_path="film")
    (shared / "other").write_bytes(_OTHER)
    (shared / "other").replace(shared / "film")
    artifact = await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path="film"))
    assert artifact.checksums.sha256 == hashlib.sha256(_OTHER).digest()
    assert await storage.get(artifact.name) == _OTHER


async def test_promised_and_announced(storage: Running, shared: Path):
    """Where its sender does tell a digest, a file that was announced is held to it."""
    upload = await storage.begin(adopt_path="film")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish(upload.name, b"meant", adopt_path="film")
    assert refused(failure.value).reason == "WRITE_CHECKSUM_MISMATCH"
    assert storage.staged() == storage.blobs() == []


async def test_sent_without_a_digest(storage: Running):
    """Who sends bytes, and has nothing taken over, must say their digest."""
    upload = await storage.begin()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name))
    assert refused(failure.value).reason == "FIELD_INVALID"


@pytest.mark.parametrize("path", ["../secret", "none", "link", "pipe"])
async def test_announced_paths_that_lead_out(storage: Running, shared: Path, path: str):
    """What could not be taken over is not read ahead either; only taking it over fails."""
    (storage.folder / "secret").write_bytes(b"secret")
    (shared / "link").symlink_to(storage.folder / "secret")
    os.mkfifo(shared / "pipe")
    upload = await storage.begin(adopt_path=path)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path=path))
    assert refused(failure.value).reason == "FIELD_INVALID"


async def test_announced_and_dropped(storage: Running, shared: Path):
    """Who announces a file and drops it has lost nothing, and left nothing."""
    upload = await storage.begin(adopt_path="film")
    await storage.suite.DeleteUpload(pb.DeleteUploadRequest(name=upload.name))
    assert storage.staged() == storage.blobs() == []
    assert (shared / "film").read_bytes() == _FILM


def test_read_ahead(ahead: PrehashCache, tmp_path: Path):
    """What was read ahead and is as it was need not be read again."""
    ahead.start("film", "film")
    _all_read(ahead, tmp_path)
    assert _taken(ahead, tmp_path / "film") == _sha256(_FILM)


def _overwritten(film: Path) -> None:
    before = film.stat()
    with film.open("r+b") as file:
        file.write(b"x")
    os.utime(film, ns=(before.st_atime_ns, before.st_mtime_ns))


def _appended(film: Path) -> None:
    with film.open("ab") as file:
        file.write(b"x")


def _replaced(film: Path) -> None:
    film.with_name("other").write_bytes(_FILM)
    film.with_name("other").replace(film)


@pytest.mark.parametrize("change", [_overwritten, _appended, _replaced])
def test_changed_since_it_was_read(ahead: PrehashCache, tmp_path: Path, change: Callable[[Path], None]):
    """Of a file that was changed since, however its times were turned back, nothing is known."""
    ahead.start("film", "film")
    _all_read(ahead, tmp_path)
    change(tmp_path / "film")
    assert not _taken(ahead, tmp_path / "film")


def test_open_for_writing_while_it_is_read(ahead: PrehashCache, tmp_path: Path):
    """Of a file that somebody could have written to while it was read nothing is known."""
    with (tmp_path / "film").open("r+b"):
        ahead.start("film", "film")
        _all_read(ahead, tmp_path)
    assert not _taken(ahead, tmp_path / "film")


def test_open_for_writing_when_it_is_taken(ahead: PrehashCache, tmp_path: Path):
    """Nor of one that somebody has open for writing in the end."""
    ahead.start("film", "film")
    _all_read(ahead, tmp_path)
    with (tmp_path / "film").open("r+b"):
        assert not _taken(ahead, tmp_path / "film")
