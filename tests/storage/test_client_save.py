"""The gRPC client saving files from storage, over a network that breaks."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from google.protobuf import duration_pb2
from tests.relay import run_relay
from tests.storage.conftest import random_bytes

from reelhaul.client import AsyncClient, File, NotFound, SaveFailed
from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1.storage_service_pb2 import DeleteArtifactRequest, UpdateArtifactRequest

CONTENT = random_bytes(24 * 1024 * 1024)


@pytest.fixture
async def artifact(storage) -> artifact_pb2.Artifact:
    """A stored video."""
    return await storage.write_artifact(CONTENT, file_name="A video.mp4", tenant="local")


@pytest.fixture
def file(artifact) -> File:
    """The video, as its job describes it."""
    return File(
        name=artifact.file_name,
        size_bytes=artifact.size_bytes,
        sha256=artifact.checksums.sha256.hex(),
        url=f"/v1/{artifact.name}:download",
    )


def create_client(port: int) -> AsyncClient:
    return AsyncClient(storage=f"127.0.0.1:{port}", reconnect_timeout=10)


async def test_save(storage, file, tmp_path):
    """A file is saved under its name into a folder, which is created; the second time nothing happens."""
    async with create_client(storage.port) as client:
        (saved,) = await client.save_files([file], tmp_path / "videos")
        assert (saved.path, saved.outcome) == (tmp_path / "videos" / "A video.mp4", "saved")
        (again,) = await client.save_files([file], tmp_path / "videos")
        assert (again.path, again.outcome) == (saved.path, "identical")
    assert saved.path.read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["A video.mp4"]


async def test_resume_interrupted_save(storage, file, tmp_path):
    """An interrupted save resumes: no byte is received twice."""
    sizes = []
    async with run_relay(storage.port) as relay, create_client(relay.port) as client:

        def on_progress(_: File, size: int) -> None:
            sizes.append(size)
            if len(sizes) in (5, 20):
                relay.cut()

        (saved,) = await client.save_files([file], tmp_path, on_progress=on_progress)
    assert relay.cuts == 2
    assert sizes == sorted(set(sizes))
    assert saved.path.read_bytes() == CONTENT


async def test_artifact_changed_during_save(storage, artifact, file, tmp_path):
    """A new expiry does not prevent a resume: the bytes are the same."""
    updates = []

    async def extend() -> None:
        extended = artifact_pb2.Artifact(name=artifact.name, ttl=duration_pb2.Duration(seconds=86400))
        await storage.suite.UpdateArtifact(UpdateArtifactRequest(artifact=extended))

    async with run_relay(storage.port) as relay, create_client(relay.port) as client:

        def on_progress(_: File, size: int) -> None:
            if not updates and size > 1024 * 1024:
                updates.append(asyncio.ensure_future(extend()))
                updates[0].add_done_callback(lambda _: relay.cut())

        (saved,) = await client.save_files([file], tmp_path, on_progress=on_progress)
        await updates[0]
    assert saved.path.read_bytes() == CONTENT


async def test_part_file_of_earlier_call(storage, file, tmp_path):
    """A part file of an earlier call is resumed; a damaged one is replaced."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    part = tmp_path / f".{digest[:16]}.A video.mp4.part"
    sizes = []
    async with create_client(storage.port) as client:
        part.write_bytes(CONTENT[: 20 * 1024 * 1024])
        (saved,) = await client.save_files([file], tmp_path, on_progress=lambda _, size: sizes.append(size))
        assert sizes[0] > 20 * 1024 * 1024
        saved.path.unlink()
        part.write_bytes(b"damaged" * 100)
        await client.save_files([file], tmp_path)
    assert saved.path.read_bytes() == CONTENT
    assert not part.exists()


async def test_wrong_checksum(storage, file, tmp_path):
    """A file with another digest is not kept, and the error says so."""
    file.sha256 = "00" * 32
    async with create_client(storage.port) as client:
        with pytest.raises(SaveFailed, match="SHA-256"):
            await client.save_files([file], tmp_path / "videos")
    assert list((tmp_path / "videos").iterdir()) == []


async def test_deleted_artifact(storage, artifact, file, tmp_path):
    """A deleted artifact fails at once with its reason."""
    await storage.suite.DeleteArtifact(DeleteArtifactRequest(name=artifact.name))
    async with create_client(storage.port) as client:
        with pytest.raises(NotFound) as failure:
            await client.save_files([file], tmp_path)
    assert failure.value.reason == "RESOURCE_NOT_FOUND"
