"""Sending finished files to a real storage service, over links that break."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.storage.v1 import storage_service_pb2_grpc
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.clients.storage import ArtifactUploader
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.ports import ArtifactMetadata
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_storage.app import running
from reelhaul_storage.settings import Settings

_SERVICE = pb.DESCRIPTOR.services_by_name["StorageService"]
_TOKEN = "only the suite knows"
_STAMP = ArtifactMetadata("jobs/0190a0a0-0000-7000-8000-000000000001", 1, "local", {}, timedelta(hours=1))


class Link:
    """A link to a server, whose first connection breaks once *cut_after* bytes have been sent."""

    def __init__(self, port: int, cut_after: int) -> None:
        self._port, self._cut_after = port, cut_after
        self.connections = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on, until it ends or ``close``."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        with suppress(asyncio.CancelledError):
            await self._pass(reader, writer)

    async def close(self) -> None:
        """End all connections."""
        for task in self._serving:
            task.cancel()
        await asyncio.wait(self._serving)

    async def _break(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        """What still happens to a connection whose client hears nothing any more."""
        raise NotImplementedError

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        first = self.connections == 1
        answers, onward = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(_passed(answers, writer))
        try:
            await _passed(reader, onward, self._cut_after if first else None)
            if first:
                await _ended(back)
                await self._break(reader, onward)
        finally:
            await _ended(back)
            for end in (writer, onward):
                await _closed(end)


class HalfOpen(Link):
    """It is dead for its client at once, and for the server only *lag* seconds later."""

    def __init__(self, port: int, cut_after: int, lag: float) -> None:
        super().__init__(port, cut_after)
        self._lag = lag

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client = writer
        await super()._pass(reader, writer)

    async def _break(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        await _closed(self._client)
        await asyncio.sleep(self._lag)


class Deaf(Link):
    """It still brings all to the server, and nothing back, until *done*."""

    def __init__(self, port: int, cut_after: int, done: Callable[[], bool]) -> None:
        super().__init__(port, cut_after)
        self._done = done

    async def _break(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        going = asyncio.create_task(_passed(reader, onward))
        async with asyncio.timeout(10):
            while not self._done():  # noqa: ASYNC110 - a disk has no Event
                await asyncio.sleep(0.02)
        await _ended(going)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _passed(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, limit: int | None = None
) -> None:
    passed = 0
    with suppress(ConnectionError):
        while piece := await source.read(64 << 10):
            target.write(piece)
            await target.drain()
            passed += len(piece)
            if limit is not None and passed > limit:
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


async def _sent(link: Link, port: int, file: Path) -> bytes:
    """What storage has of *file*, sent to it over *link*."""
    product = _product(file)
    async with (
        await asyncio.start_server(link.serve, "127.0.0.1", 0) as server,
        open_channel(
            f"127.0.0.1:{server.sockets[0].getsockname()[1]}", [_SERVICE], suite_token=_TOKEN
        ) as linked,
        open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct,
    ):
        artifacts = ArtifactUploader(linked, file.parent / "not shared", retry_seconds=20)
        info = await artifacts.store(product, _STAMP, lambda _: None)
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        read = [part.content async for part in stub.ReadArtifact(pb.ReadArtifactRequest(name=info.name))]
    await link.close()
    return b"".join(read)


async def test_link_that_dies_for_the_sender_first(port: int, tmp_path: Path):
    """While storage still holds the broken write, the next one is tried again, and not given up."""
    file = tmp_path / "film.mp4"
    file.write_bytes(os.urandom(4 << 20))
    link = HalfOpen(port, cut_after=1 << 20, lag=1.5)
    assert await _sent(link, port, file) == file.read_bytes()
    assert link.connections > 1


async def test_all_was_sent_and_no_answer_came(port: int, tmp_path: Path):
    """Where storage has every byte of a write whose answer was lost, nothing is sent again."""
    file, staging = tmp_path / "film.mp4", tmp_path / "storage" / "artifacts" / "staging"
    # Below the first window of HTTP/2: it is sent without a word from the other side.
    file.write_bytes(os.urandom(40_000))
    link = Deaf(port, 20_000, lambda: any(each.stat().st_size == 40_000 for each in staging.iterdir()))
    assert await _sent(link, port, file) == file.read_bytes()
    assert link.connections > 1


async def test_cancelled_while_it_is_sent(port: int, tmp_path: Path):
    """A file that is cancelled in the middle of being sent leaves nothing staged, and no upload."""
    file, staging = tmp_path / "film.mp4", tmp_path / "storage" / "artifacts" / "staging"
    file.write_bytes(os.urandom(32 << 20))
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        half = asyncio.Event()
        artifacts = ArtifactUploader(direct, file.parent / "not shared")

        def told(sent: int) -> None:
            if sent > 8 << 20 and list(staging.iterdir()):
                half.set()

        sending = asyncio.create_task(artifacts.store(_product(file), _STAMP, told))
        await half.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert not (await stub.ListUploads(pb.ListUploadsRequest())).uploads
    assert not list(staging.iterdir())


async def test_what_is_sent_is_counted(port: int, tmp_path: Path):
    """Whoever listens hears of the bytes that are on their way, more each time, up to the last."""
    file, told = tmp_path / "film.mp4", list[int]()
    file.write_bytes(os.urandom(4 << 20))
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        await ArtifactUploader(direct, tmp_path / "not shared").store(_product(file), _STAMP, told.append)
    assert told == sorted(told)
    assert len(told) >= 8
    assert told[-1] == 4 << 20


async def test_discarded(port: int, tmp_path: Path):
    """What is stored and then not wanted is gone; discarding what is gone already is no error."""
    file = tmp_path / "film.mp4"
    file.write_bytes(b"a film")
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts = ArtifactUploader(direct, file.parent / "not shared")
        info = await artifacts.store(_product(file), _STAMP, lambda _: None)
        for _ in range(2):
            await artifacts.delete([info.name])
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert not (await stub.ListArtifacts(pb.ListArtifactsRequest())).artifacts


async def test_changed_after_it_was_hashed(port: int, tmp_path: Path):
    """A file that is not what it was when it was hashed becomes no artifact, and nothing of it is left."""
    file, staging = tmp_path / "film.mp4", tmp_path / "storage" / "artifacts" / "staging"
    file.write_bytes(b"a film")
    product = _product(file)
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        artifacts = ArtifactUploader(direct, tmp_path / "not shared", retry_seconds=0)
        artifacts.prepare(product, _STAMP)
        while not (await stub.ListUploads(pb.ListUploadsRequest())).uploads:
            pass
        file.write_bytes(b"a fil_")
        with pytest.raises(ReelhaulError, match="sha256"):
            await artifacts.store(product, _STAMP, lambda _: None)
        assert not (await stub.ListArtifacts(pb.ListArtifactsRequest())).artifacts
    assert not list(staging.iterdir())


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The work folder of a job, which storage can reach."""
    folder = tmp_path / "storage" / "work" / "job"
    folder.mkdir(parents=True)
    (folder / "film.mp4").write_bytes(b"a film")
    return folder


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
async def test_taken_over(port: int, tmp_path: Path, shared: Path, announced: bool):
    """What storage can reach is not sent: it is taken over, and its digest is storage's word."""
    told = list[int]()
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts, product = ArtifactUploader(direct, shared.parent), _product(shared / "film.mp4")
        if announced:
            artifacts.prepare(product, _STAMP)
        info = await artifacts.store(product, _STAMP, told.append)
        await artifacts.cancel_prepared(shared)
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert len((await stub.ListArtifacts(pb.ListArtifactsRequest())).artifacts) == 1
    assert info.checksums.sha256 == hashlib.sha256(b"a film").digest()
    (blob,) = (tmp_path / "storage" / "artifacts" / "blobs").rglob("*/*/*.*")
    assert blob.samefile(shared / "film.mp4")
    assert not told


async def test_announced_as_another(port: int, tmp_path: Path, shared: Path):
    """What is stored is what is said in the end, whatever was announced in its place."""
    film = _product(shared / "film.mp4")
    other = Product(film.path, media_pb2.ArtifactInfo(size_bytes=6, file_name="Other.mp4"))
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts = ArtifactUploader(direct, shared.parent)
        artifacts.prepare(film, _STAMP)
        assert (await artifacts.store(other, _STAMP, lambda _: None)).file_name == "Other.mp4"
        await artifacts.cancel_prepared(shared)
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert not (await stub.ListUploads(pb.ListUploadsRequest())).uploads


@pytest.mark.parametrize("reached", [True, False], ids=["shared", "not shared"])
async def test_announced_and_withdrawn(port: int, tmp_path: Path, shared: Path, reached: bool):
    """A file that was announced and did not pass leaves nothing with storage, and is still there."""
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts = ArtifactUploader(direct, shared.parent if reached else tmp_path / "not shared")
        artifacts.prepare(_product(shared / "film.mp4"), _STAMP)
        await artifacts.cancel_prepared(shared)
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert not (await stub.ListUploads(pb.ListUploadsRequest())).uploads
    assert not list((tmp_path / "storage" / "artifacts" / "staging").iterdir())
    assert (shared / "film.mp4").read_bytes() == b"a film"


async def test_thought_to_be_shared(port: int, tmp_path: Path):
    """Where storage has another folder than we think, what it cannot take over is sent."""
    file = tmp_path / "film.mp4"
    file.write_bytes(b"a film")
    async with open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct:
        artifacts = ArtifactUploader(direct, tmp_path)
        for _ in range(2):
            artifacts.prepare(_product(file), _STAMP)
            info = await artifacts.store(_product(file), _STAMP, lambda _: None)
            assert info.checksums.sha256 == hashlib.sha256(b"a film").digest()
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        assert len((await stub.ListArtifacts(pb.ListArtifactsRequest())).artifacts) == 2


async def test_announced_while_storage_is_away(tmp_path: Path, shared: Path):
    """To announce to a storage that is away costs nothing but what storing would cost."""
    async with open_channel("127.0.0.1:9", [_SERVICE], suite_token=_TOKEN) as nowhere:
        artifacts = ArtifactUploader(nowhere, shared.parent, retry_seconds=0)
        product = _product(shared / "film.mp4")
        artifacts.prepare(product, _STAMP)
        with pytest.raises(ReelhaulError) as failure:
            await artifacts.store(product, _STAMP, lambda _: None)
        await artifacts.cancel_prepared(shared)
    assert failure.value.reason == ErrorReason.STORAGE_UNAVAILABLE
