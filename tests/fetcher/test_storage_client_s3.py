"""Storage client against a real storage service on a real S3 server: bytes go straight to the bucket."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.s3_server import S3Server, running_s3_server

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.storage.v1 import storage_service_pb2_grpc
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.clients.part_upload import PartUploader
from reelhaul_fetcher.clients.storage import ArtifactUploader
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.ports import ArtifactMetadata
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_storage.app import running
from reelhaul_storage.settings import Settings

_SERVICE = pb.DESCRIPTOR.services_by_name["StorageService"]
_TOKEN = "only the suite knows"
_METADATA = ArtifactMetadata("jobs/0190a0a0-0000-7000-8000-000000000001", 1, "local", {}, timedelta(hours=1))
# More parts than are sent at the same time.
_SIZE = 48 << 20
_CONTENT = os.urandom(_SIZE)


@dataclass
class Storage:
    """A storage service on S3, and a client of it."""

    stub: storage_service_pb2_grpc.StorageServiceAsyncStub
    artifacts: ArtifactUploader
    s3: S3Server
    prefix: str

    async def read(self, name: str) -> bytes:
        """Return the content of an artifact."""
        responses = self.stub.ReadArtifact(pb.ReadArtifactRequest(name=name))
        return b"".join([response.content async for response in responses])

    async def unfinished(self) -> list[str]:
        """Return what is left of uploads that were not finished."""
        uploads = (await self.stub.ListUploads(pb.ListUploadsRequest())).uploads
        open_uploads = await asyncio.to_thread(self.s3.list_multipart_uploads, self.prefix)
        return [upload.name for upload in uploads] + open_uploads

    async def objects(self) -> list[str]:
        """Return the keys of all objects."""
        return await asyncio.to_thread(self.s3.list_keys, self.prefix)


@asynccontextmanager
async def _running_storage(s3: S3Server, folder: Path, retry_seconds: float = 30) -> AsyncIterator[Storage]:
    prefix = folder.name
    settings = Settings(
        data_dir=folder / "storage",
        storage_url=s3.storage_url(prefix),
        storage_address="127.0.0.1:0",
        suite_token=_TOKEN,
        drain_seconds=0,
    )
    async with (
        running(settings) as port,
        open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as channel,
        PartUploader.open() as parts,
    ):
        artifacts = ArtifactUploader(channel, parts, folder / "work", retry_seconds)
        stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        yield Storage(stub, artifacts, s3, f"{prefix}/")  # type: ignore[arg-type]


@pytest.fixture
def credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials of the S3 server in the environment."""
    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def storage(s3_server: S3Server, credentials: None, tmp_path: Path) -> AsyncIterator[Storage]:
    async with _running_storage(s3_server, tmp_path) as storage:
        yield storage


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """A file of several parts in the work folder."""
    folder = tmp_path / "work" / "job"
    folder.mkdir(parents=True)
    path = folder / "video.mp4"
    path.write_bytes(_CONTENT)
    yield Product(path, media_pb2.ArtifactInfo(size_bytes=_SIZE, file_name="video.mp4"))
    path.unlink(missing_ok=True)


def _ignore(reason: str) -> None:
    """Ignore why an upload waits."""


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "not prepared"])
async def test_sent_straight_to_s3(storage: Storage, product: Product, prepared: bool):
    """The file becomes one object; progress counts the parts that S3 has; equal content is not sent again."""
    progress = list[int]()
    if prepared:
        storage.artifacts.prepare(product, _METADATA)
    info = await storage.artifacts.store(product, _METADATA, progress.append, _ignore)
    assert await storage.read(info.name) == _CONTENT
    assert info.checksums.sha256 == hashlib.sha256(_CONTENT).digest()
    assert len(progress) == len(set(progress)) > 4
    assert progress[-1] == _SIZE
    again = await storage.artifacts.store(product, _METADATA, progress.append, _ignore)
    assert await storage.read(again.name) == _CONTENT
    assert progress[-1:] == [_SIZE] == [size for size in progress if size >= _SIZE]
    assert len(await storage.objects()) == 1
    assert not await storage.unfinished()


@pytest.mark.parametrize("size", [0, 1, 10_000])
async def test_small_file(storage: Storage, tmp_path: Path, size: int):
    """A file that is smaller than a part is stored, and nothing is left of its upload."""
    path = tmp_path / "subtitles.srt"
    path.write_bytes(_CONTENT[:size])
    product = Product(path, media_pb2.ArtifactInfo(size_bytes=size))
    info = await storage.artifacts.store(product, _METADATA, lambda _: None, _ignore)
    assert await storage.read(info.name) == _CONTENT[:size]
    assert not await storage.unfinished()


async def test_cancelled_upload(storage: Storage, product: Product):
    """Cancelling an upload leaves neither objects nor a multipart upload."""
    sending = asyncio.Event()
    storing = asyncio.create_task(
        storage.artifacts.store(product, _METADATA, lambda _: sending.set(), _ignore)
    )
    await sending.wait()
    assert len(await storage.unfinished()) == 2
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    assert not await storage.unfinished()
    assert not await storage.objects()


async def test_file_changed_after_hashing(
    s3_server: S3Server, credentials: None, product: Product, tmp_path: Path
):
    """A file that changes after it was hashed becomes no artifact, and nothing is left of it."""
    # It is hashed before the upload is created, because it is not in the shared folder.
    product = replace(product, path=product.path.rename(tmp_path / "video.mp4"))
    async with _running_storage(s3_server, tmp_path, retry_seconds=0) as storage:
        storage.artifacts.prepare(product, _METADATA)
        async with asyncio.timeout(10):
            while not await storage.unfinished():
                pass
        product.path.write_bytes(_CONTENT[::-1])
        with pytest.raises(ReelhaulError, match="sha256") as failure:
            await storage.artifacts.store(product, _METADATA, lambda _: None, _ignore)
        assert failure.value.reason == ErrorReason.STORAGE_UNAVAILABLE
        assert not (await storage.stub.ListArtifacts(pb.ListArtifactsRequest())).artifacts
        assert not await storage.unfinished()
        assert not await storage.objects()


async def test_s3_server_killed_in_mid_upload(credentials: None, product: Product, tmp_path: Path):
    """An upload waits while S3 is away, says why, and sends only the parts that are missing."""
    with running_s3_server(tmp_path / "s3") as s3:
        async with _running_storage(s3, tmp_path) as storage:
            progress, reasons = list[int](), asyncio.Queue[str]()

            def on_progress(size: int) -> None:
                if not progress:
                    s3.kill()
                progress.append(size)

            storing = asyncio.create_task(
                storage.artifacts.store(product, _METADATA, on_progress, reasons.put_nowait)
            )
            assert "S3" in await reasons.get()
            before = progress[-1]
            await asyncio.to_thread(s3.start)
            info = await storing
            assert await storage.read(info.name) == _CONTENT
            assert progress == sorted(set(progress))
            assert 0 < before < _SIZE
            assert not await storage.unfinished()
