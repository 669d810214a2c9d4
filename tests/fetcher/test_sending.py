"""Sending finished files to a real storage service, over links that break."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.storage.v1 import storage_service_pb2_grpc
from reelhaul.type.v1 import media_pb2
from reelhaul_fetcher.clients import RemoteArtifacts
from reelhaul_fetcher.model.orders import Product
from reelhaul_fetcher.ports import Stamp
from reelhaul_runtime.rpc.channels import channel
from reelhaul_storage.app import running
from reelhaul_storage.settings import Settings

_SERVICE = pb.DESCRIPTOR.services_by_name["StorageService"]
_TOKEN = "only the suite knows"
_CUT_AFTER_BYTES = 1 << 20


class HalfOpen:
    """A link whose first connection dies in mid-file for its client, and only later for the server."""

    def __init__(self, port: int, lag: float) -> None:
        self._port, self._lag = port, lag
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on."""
        with suppress(asyncio.CancelledError):  # the test is over
            await self._pass(reader, writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        limit = _CUT_AFTER_BYTES if self.connections == 1 else None
        onward, answers = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(_passed(onward, writer))
        with suppress(ConnectionError):
            await _passed(reader, answers, limit)
        back.cancel()
        writer.close()
        if limit is not None:
            await asyncio.sleep(self._lag)
        answers.close()


async def _passed(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, limit: int | None = None
) -> None:
    passed = 0
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


@asynccontextmanager
async def linked(link: HalfOpen) -> AsyncIterator[str]:
    """The address at which *link* is entered."""
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_link_that_dies_for_the_sender_first(port: int, tmp_path: Path):
    """While storage still holds the broken write, the next one is tried again, and not given up."""
    content = os.urandom(4 << 20)
    file = tmp_path / "film.mp4"
    file.write_bytes(content)
    sums = media_pb2.Checksums(sha256=hashlib.sha256(content).digest())
    product = Product(file, media_pb2.ArtifactInfo(size_bytes=len(content), checksums=sums))
    stamp = Stamp("jobs/0190a0a0-0000-7000-8000-000000000001", 1, "local", {}, timedelta(hours=1))
    link = HalfOpen(port, lag=1.5)
    async with (
        linked(link) as address,
        channel(address, [_SERVICE], suite_token=_TOKEN) as broken,
        channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as direct,
    ):
        info = await RemoteArtifacts(broken, tmp_path / "not shared", patience=20).store(
            product, stamp, lambda _: None
        )
        stub = storage_service_pb2_grpc.StorageServiceStub(direct)
        read = stub.ReadArtifact(pb.ReadArtifactRequest(name=info.name))
        assert b"".join([part.content async for part in read]) == content
    assert link.connections > 1
