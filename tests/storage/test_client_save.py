"""The client that programs import, saving files from storage over a network that breaks."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from google.protobuf import duration_pb2
from tests.relay import relaying
from tests.storage.conftest import random_bytes

from reelhaul.client import CallFailed, Client, SaveFailed
from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1.storage_service_pb2 import DeleteArtifactRequest, UpdateArtifactRequest
from reelhaul.type.v1 import media_pb2

CONTENT = random_bytes(24 * 1024 * 1024)


@pytest.fixture
async def artifact(storage) -> media_pb2.ArtifactInfo:
    """A stored film, as its job tells of it."""
    made = await storage.write_artifact(CONTENT, file_name="A film.mp4", tenant="local")
    return media_pb2.ArtifactInfo(
        name=made.name, file_name=made.file_name, size_bytes=made.size_bytes, checksums=made.checksums
    )


def client(port: int) -> Client:
    return Client(storage=f"127.0.0.1:{port}", patience=10)


async def test_save(storage, artifact, tmp_path):
    """A file is saved under the name asked for, or in a folder under its own."""
    (tmp_path / "films").mkdir()
    async with client(storage.port) as opened:
        assert await opened.save(artifact, tmp_path / "mine.mp4") == tmp_path / "mine.mp4"
        assert await opened.save(artifact, tmp_path / "films") == tmp_path / "films" / "A film.mp4"
    assert (tmp_path / "mine.mp4").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["A film.mp4"]


async def test_interrupted_save_goes_on(storage, artifact, tmp_path):
    """Cut off in the middle, a file is taken up where it was: no byte is received twice."""
    told = []
    async with relaying(storage.port) as relay, client(relay.port) as opened:

        def received(size: int) -> None:
            told.append(size)
            if len(told) in (5, 20):
                relay.cut()

        await opened.save(artifact, tmp_path / "film.mp4", received=received)
    assert relay.cuts == 2
    assert told == sorted(set(told))
    assert (tmp_path / "film.mp4").read_bytes() == CONTENT


async def test_artifact_changed_meanwhile(storage, artifact, tmp_path):
    """A new expiry while its bytes are read does not stop a resume: the bytes are the same."""
    changes = []

    async def keep_longer() -> None:
        later = artifact_pb2.Artifact(name=artifact.name, ttl=duration_pb2.Duration(seconds=86400))
        await storage.suite.UpdateArtifact(UpdateArtifactRequest(artifact=later))

    async with relaying(storage.port) as relay, client(relay.port) as opened:

        def received(size: int) -> None:
            if not changes and size > 1024 * 1024:
                changes.append(asyncio.ensure_future(keep_longer()))
                changes[0].add_done_callback(lambda _: relay.cut())

        await opened.save(artifact, tmp_path / "film.mp4", received=received)
        await changes[0]
    assert (tmp_path / "film.mp4").read_bytes() == CONTENT


async def test_piece_from_another_time(storage, artifact, tmp_path):
    """What an earlier call left is taken up; where it is damaged, the file is received anew."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    part = tmp_path / f".{digest[:16]}.film.mp4.part"
    told = []
    async with client(storage.port) as opened:
        part.write_bytes(CONTENT[: 20 * 1024 * 1024])
        await opened.save(artifact, tmp_path / "film.mp4", received=told.append)
        assert told[0] > 20 * 1024 * 1024
        (tmp_path / "film.mp4").unlink()
        part.write_bytes(b"damaged" * 100)
        await opened.save(artifact, tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == CONTENT
    assert not part.exists()


async def test_not_what_was_promised(storage, artifact, tmp_path):
    """A file of another digest is not kept, and the failure says so."""
    artifact.checksums.sha256 = b"\x00" * 32
    async with client(storage.port) as opened:
        with pytest.raises(SaveFailed, match="SHA-256"):
            await opened.save(artifact, tmp_path / "film.mp4")
    assert not (tmp_path / "film.mp4").exists()


async def test_deleted_artifact(storage, artifact, tmp_path):
    """A file that is gone is told so at once, by its reason."""
    await storage.suite.DeleteArtifact(DeleteArtifactRequest(name=artifact.name))
    async with client(storage.port) as opened:
        with pytest.raises(CallFailed) as failure:
            await opened.save(artifact, tmp_path / "film.mp4")
    assert failure.value.reason == "RESOURCE_NOT_FOUND"
