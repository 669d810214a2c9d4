"""The gRPC client saving files from storage, over a network that breaks."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from google.protobuf import duration_pb2
from tests.relay import run_relay
from tests.storage.conftest import random_bytes

from reelhaul.client import CallFailed, Client, SaveFailed
from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1.storage_service_pb2 import DeleteArtifactRequest, UpdateArtifactRequest
from reelhaul.type.v1 import media_pb2

CONTENT = random_bytes(24 * 1024 * 1024)


@pytest.fixture
async def artifact(storage) -> media_pb2.ArtifactInfo:
    """A stored video, as its job describes it."""
    artifact = await storage.write_artifact(CONTENT, file_name="A video.mp4", tenant="local")
    return media_pb2.ArtifactInfo(
        name=artifact.name,
        file_name=artifact.file_name,
        size_bytes=artifact.size_bytes,
        checksums=artifact.checksums,
    )


def create_client(port: int) -> Client:
    return Client(storage=f"127.0.0.1:{port}", retry_timeout=10)


async def test_save(storage, artifact, tmp_path):
    """A file is saved under the given name, or into a folder under its own."""
    (tmp_path / "videos").mkdir()
    async with create_client(storage.port) as client:
        assert await client.save(artifact, tmp_path / "mine.mp4") == tmp_path / "mine.mp4"
        assert await client.save(artifact, tmp_path / "videos") == tmp_path / "videos" / "A video.mp4"
    assert (tmp_path / "mine.mp4").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["A video.mp4"]


async def test_resume_interrupted_save(storage, artifact, tmp_path):
    """An interrupted save resumes: no byte is received twice."""
    sizes = []
    async with run_relay(storage.port) as relay, create_client(relay.port) as client:

        def on_progress(size: int) -> None:
            sizes.append(size)
            if len(sizes) in (5, 20):
                relay.cut()

        await client.save(artifact, tmp_path / "video.mp4", on_progress=on_progress)
    assert relay.cuts == 2
    assert sizes == sorted(set(sizes))
    assert (tmp_path / "video.mp4").read_bytes() == CONTENT


async def test_artifact_changed_during_save(storage, artifact, tmp_path):
    """A new expiry does not prevent a resume: the bytes are the same."""
    updates = []

    async def extend() -> None:
        extended = artifact_pb2.Artifact(name=artifact.name, ttl=duration_pb2.Duration(seconds=86400))
        await storage.suite.UpdateArtifact(UpdateArtifactRequest(artifact=extended))

    async with run_relay(storage.port) as relay, create_client(relay.port) as client:

        def on_progress(size: int) -> None:
            if not updates and size > 1024 * 1024:
                updates.append(asyncio.ensure_future(extend()))
                updates[0].add_done_callback(lambda _: relay.cut())

        await client.save(artifact, tmp_path / "video.mp4", on_progress=on_progress)
        await updates[0]
    assert (tmp_path / "video.mp4").read_bytes() == CONTENT


async def test_part_file_of_earlier_call(storage, artifact, tmp_path):
    """A part file of an earlier call is resumed; a damaged one is replaced."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    part = tmp_path / f".{digest[:16]}.video.mp4.part"
    sizes = []
    async with create_client(storage.port) as client:
        part.write_bytes(CONTENT[: 20 * 1024 * 1024])
        await client.save(artifact, tmp_path / "video.mp4", on_progress=sizes.append)
        assert sizes[0] > 20 * 1024 * 1024
        (tmp_path / "video.mp4").unlink()
        part.write_bytes(b"damaged" * 100)
        await client.save(artifact, tmp_path / "video.mp4")
    assert (tmp_path / "video.mp4").read_bytes() == CONTENT
    assert not part.exists()


async def test_wrong_checksum(storage, artifact, tmp_path):
    """A file with another digest is not kept, and the error says so."""
    artifact.checksums.sha256 = b"\x00" * 32
    async with create_client(storage.port) as client:
        with pytest.raises(SaveFailed, match="SHA-256"):
            await client.save(artifact, tmp_path / "video.mp4")
    assert not (tmp_path / "video.mp4").exists()


async def test_deleted_artifact(storage, artifact, tmp_path):
    """A deleted artifact fails at once with its reason."""
    await storage.suite.DeleteArtifact(DeleteArtifactRequest(name=artifact.name))
    async with create_client(storage.port) as client:
        with pytest.raises(CallFailed) as failure:
            await client.save(artifact, tmp_path / "video.mp4")
    assert failure.value.reason == "RESOURCE_NOT_FOUND"
