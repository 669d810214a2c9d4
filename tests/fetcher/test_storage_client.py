"""Storage client against a real storage service, over connections that break."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from grpc import aio
from tests.servers import free_port

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


def _uploader(channel: aio.Channel, shared_dir: Path, retry_seconds: float = 20) -> ArtifactUploader:
    # A disk offers no URLs for parts.
    return ArtifactUploader(channel, PartUploader(httpx.AsyncClient()), shared_dir, retry_seconds)


def _ignore(reason: str) -> None:
    """Ignore why an upload waits."""


class BreakingProxy:
    """A TCP proxy to a server; its first connection breaks after *cut_after* bytes."""

    def __init__(self, port: int, cut_after: int) -> None:
        self._port, self._cut_after = port, cut_after
        self.connections = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until it ends, or ``close``."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        with suppress(asyncio.CancelledError):
            await self._forward(reader, writer)

    async def close(self) -> None:
        """Close all connections."""
        for task in self._serving:
            task.cancel()
        await asyncio.wait(self._serving)

    async def _break(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        """Continue a connection whose client no longer receives anything."""
        raise NotImplementedError

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        first = self.connections == 1
        responses, upstream = await asyncio.open_connection("127.0.0.1", self._port)
        returning = asyncio.create_task(_copy(responses, writer))
        try:
            await _copy(reader, upstream, self._cut_after if first else None)
            if first:
                await _cancel(returning)
                await self._break(reader, upstream)
        finally:
            await _cancel(returning)
            for end in (writer, upstream):
                await _close(end)


class HalfOpenProxy(BreakingProxy):
    """It closes the client's side at once, and the server's side *lag* seconds later."""

    def __init__(self, port: int, cut_after: int, lag: float) -> None:
        super().__init__(port, cut_after)
        self._lag = lag

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client = writer
        await super()._forward(reader, writer)

    async def _break(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        await _close(self._client)
        await asyncio.sleep(self._lag)


class OneWayProxy(BreakingProxy):
    """It forwards everything to the server but nothing back, until *done*."""

    def __init__(self, port: int, cut_after: int, done: Callable[[], bool]) -> None:
        super().__init__(port, cut_after)
        self._done = done

    async def _break(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        forwarding = asyncio.create_task(_copy(reader, upstream))
        async with asyncio.timeout(10):
            while not self._done():  # noqa: ASYNC110 - a disk has no Event
                await asyncio.sleep(0.02)
        await _cancel(forwarding)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, limit: int | None = None) -> None:
    copied = 0
    with suppress(ConnectionError):
        while data := await source.read(64 << 10):
            target.write(data)
            await target.drain()
            copied += len(data)
            if limit is not None and copied > limit:
                return


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    settings = Settings(
        data_dir=tmp_path / "storage",
        storage_address="127.0.0.1:0",
        storage_reserve_bytes=0,
        suite_token=_TOKEN,
        drain_seconds=0,
    )
    async with running(settings) as port:
        yield port


def _product(file: Path) -> Product:
    return Product(file, media_pb2.ArtifactInfo(size_bytes=file.stat().st_size))


async def _store_through(proxy: BreakingProxy, port: int, file: Path) -> bytes:
    """Store *file* through *proxy*; return the content of the stored artifact."""
    product = _product(file)
    async with (
        await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server,
        open_channel(
            f"127.0.0.1:{server.sockets[0].getsockname()[1]}", [_SERVICE], suite_token=_TOKEN
        ) as proxied,
        open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct,
    ):
        artifacts = _uploader(proxied, file.parent / "not shared", retry_seconds=20)
        info = await artifacts.store(product, _METADATA, lambda _: None, _ignore)
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        content = [part.content async for part in stub.ReadArtifact(pb.ReadArtifactRequest(name=info.name))]
    await proxy.close()
    return b"".join(content)


async def test_connection_that_breaks_for_the_client_first(port: int, tmp_path: Path):
    """While storage still holds the broken write, the upload is retried."""
    file = tmp_path / "video.mp4"
    file.write_bytes(os.urandom(4 << 20))
    proxy = HalfOpenProxy(port, cut_after=1 << 20, lag=1.5)
    assert await _store_through(proxy, port, file) == file.read_bytes()
    assert proxy.connections > 1


async def test_lost_response_to_a_whole_write(port: int, tmp_path: Path):
    """If storage has every byte of a write whose response was lost, nothing is sent again."""
    file, staging = tmp_path / "video.mp4", tmp_path / "storage" / "artifacts" / "staging"
    # Smaller than the first HTTP/2 window: it is sent without a response from the other side.
    file.write_bytes(os.urandom(40_000))
    proxy = OneWayProxy(
        port, 20_000, lambda: any(each.stat().st_size == 40_000 for each in staging.iterdir())
    )
    assert await _store_through(proxy, port, file) == file.read_bytes()
    assert proxy.connections > 1


async def test_cancelled_upload(port: int, tmp_path: Path):
    """Cancelling an upload leaves nothing staged, and no upload."""
    file, staging = tmp_path / "video.mp4", tmp_path / "storage" / "artifacts" / "staging"
    file.write_bytes(os.urandom(32 << 20))
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        half = asyncio.Event()
        artifacts = _uploader(direct, file.parent / "not shared")

        def on_progress(sent: int) -> None:
            if sent > 8 << 20 and list(staging.iterdir()):
                half.set()

        storing = asyncio.create_task(artifacts.store(_product(file), _METADATA, on_progress, _ignore))
        await half.wait()
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert not (await stub.ListUploads(pb.ListUploadsRequest())).uploads
    assert not list(staging.iterdir())


async def test_progress(port: int, tmp_path: Path):
    """Progress is reported with growing byte counts up to the size."""
    file, progress = tmp_path / "video.mp4", list[int]()
    file.write_bytes(os.urandom(4 << 20))
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        await _uploader(direct, tmp_path / "not shared").store(
            _product(file), _METADATA, progress.append, _ignore
        )
    assert progress == sorted(progress)
    assert len(progress) >= 8
    assert progress[-1] == 4 << 20


async def test_delete(port: int, tmp_path: Path):
    """A deleted artifact is gone; deleting it again is not an error."""
    file = tmp_path / "video.mp4"
    file.write_bytes(b"content")
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts = _uploader(direct, file.parent / "not shared")
        info = await artifacts.store(_product(file), _METADATA, lambda _: None, _ignore)
        for _ in range(2):
            await artifacts.delete([info.name])
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert not (await stub.ListArtifacts(pb.ListArtifactsRequest())).artifacts


async def test_file_changed_after_hashing(port: int, tmp_path: Path):
    """A file that changes after it was hashed becomes no artifact, and nothing remains staged."""
    file, staging = tmp_path / "video.mp4", tmp_path / "storage" / "artifacts" / "staging"
    file.write_bytes(b"content")
    product = _product(file)
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        artifacts = _uploader(direct, tmp_path / "not shared", retry_seconds=0)
        artifacts.prepare(product, _METADATA)
        while not (await stub.ListUploads(pb.ListUploadsRequest())).uploads:
            pass
        file.write_bytes(b"contenT")
        with pytest.raises(ReelhaulError, match="sha256"):
            await artifacts.store(product, _METADATA, lambda _: None, _ignore)
        assert not (await stub.ListArtifacts(pb.ListArtifactsRequest())).artifacts
    assert not list(staging.iterdir())


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The work directory of a job, which storage can read."""
    folder = tmp_path / "storage" / "work" / "job"
    folder.mkdir(parents=True)
    (folder / "video.mp4").write_bytes(b"content")
    return folder


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "not prepared"])
async def test_adopted(port: int, tmp_path: Path, shared: Path, prepared: bool):
    """A file that storage can read is adopted instead of uploaded, with the digest that storage computes."""
    progress = list[int]()
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts, product = (
            _uploader(direct, shared.parent),
            _product(shared / "video.mp4"),
        )
        if prepared:
            artifacts.prepare(product, _METADATA)
        info = await artifacts.store(product, _METADATA, progress.append, _ignore)
        await artifacts.cancel_prepared(shared)
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert len((await stub.ListArtifacts(pb.ListArtifactsRequest())).artifacts) == 1
    assert info.checksums.sha256 == hashlib.sha256(b"content").digest()
    (blob,) = (tmp_path / "storage" / "artifacts" / "blobs").rglob("*/*/*.*")
    assert blob.samefile(shared / "video.mp4")
    assert not progress


async def test_prepared_as_another_product(port: int, tmp_path: Path, shared: Path):
    """The product that is passed to ``store`` is stored, whatever was prepared for its path."""
    video = _product(shared / "video.mp4")
    other = Product(video.path, media_pb2.ArtifactInfo(size_bytes=7, file_name="Other.mp4"))
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts = _uploader(direct, shared.parent)
        artifacts.prepare(video, _METADATA)
        assert (await artifacts.store(other, _METADATA, lambda _: None, _ignore)).file_name == "Other.mp4"
        await artifacts.cancel_prepared(shared)
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert not (await stub.ListUploads(pb.ListUploadsRequest())).uploads


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "not shared"])
async def test_cancel_prepared(port: int, tmp_path: Path, shared: Path, is_shared: bool):
    """Cancelling a prepared file leaves nothing in storage, and keeps the file."""
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts = _uploader(direct, shared.parent if is_shared else tmp_path / "not shared")
        artifacts.prepare(_product(shared / "video.mp4"), _METADATA)
        await artifacts.cancel_prepared(shared)
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert not (await stub.ListUploads(pb.ListUploadsRequest())).uploads
    assert not list((tmp_path / "storage" / "artifacts" / "staging").iterdir())
    assert (shared / "video.mp4").read_bytes() == b"content"


async def test_storage_has_another_folder(port: int, tmp_path: Path):
    """If storage's folder is not the shared one, a file is uploaded, unless storage has its content."""
    file, progress = tmp_path / "video.mp4", list[int]()
    file.write_bytes(b"content")
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts = _uploader(direct, tmp_path)
        for _ in range(2):
            artifacts.prepare(_product(file), _METADATA)
            info = await artifacts.store(_product(file), _METADATA, progress.append, _ignore)
            assert info.checksums.sha256 == hashlib.sha256(b"content").digest()
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert len((await stub.ListArtifacts(pb.ListArtifactsRequest())).artifacts) == 2
    assert progress == [7]


async def test_prepare_while_storage_is_down(tmp_path: Path, shared: Path):
    """Preparing while storage is down does not fail; storing raises STORAGE_UNAVAILABLE."""
    async with open_channel("127.0.0.1:9", [_SERVICE], suite_token=_TOKEN) as nowhere:
        artifacts = _uploader(nowhere, shared.parent, retry_seconds=0)
        product = _product(shared / "video.mp4")
        artifacts.prepare(product, _METADATA)
        with pytest.raises(ReelhaulError) as failure:
            await artifacts.store(product, _METADATA, lambda _: None, _ignore)
        await artifacts.cancel_prepared(shared)
    assert failure.value.reason == ErrorReason.STORAGE_UNAVAILABLE


@pytest.mark.parametrize("irreplaceable", [False, True], ids=["patient", "irreplaceable"])
async def test_storage_that_comes_back(tmp_path: Path, irreplaceable: bool):
    """While storage is away an upload waits and says why, a recording longer than that; then it goes on."""
    file, port = tmp_path / "video.mp4", free_port()
    file.write_bytes(b"content")
    reasons: asyncio.Queue[str] = asyncio.Queue()
    settings = Settings(
        data_dir=tmp_path / "storage",
        storage_address=f"127.0.0.1:{port}",
        storage_reserve_bytes=0,
        suite_token=_TOKEN,
        drain_seconds=0,
    )
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as channel:
        artifacts = _uploader(channel, tmp_path / "not shared", 0 if irreplaceable else 20)
        storing = asyncio.create_task(
            artifacts.store(
                _product(file), _METADATA, lambda _: None, reasons.put_nowait, irreplaceable=irreplaceable
            )
        )
        assert await reasons.get() == "storage does not answer"
        async with running(settings):
            info = await storing
    assert info.checksums.sha256 == hashlib.sha256(b"content").digest()
