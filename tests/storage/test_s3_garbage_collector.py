"""Garbage collection on S3: nothing without an owner stays in the bucket, and crashes lose nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import google_crc32c
import httpx
import pytest
from tests.s3_server import S3Server
from tests.storage.conftest import Clock, checksums, random_bytes
from tests.storage.test_garbage_collector import CrashingCatalog

from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.identity import Caller, set_caller
from reelhaul_runtime.sql import migrations
from reelhaul_storage.errors import ChecksumMismatch
from reelhaul_storage.model import Artifact, Chunk, ExpectedChecksums, NewArtifact, SentPart, Upload
from reelhaul_storage.s3.blobs import S3BlobStore
from reelhaul_storage.s3.location import parse_location
from reelhaul_storage.service.garbage_collector import GarbageCollector
from reelhaul_storage.service.uploads import Uploads

MIB = 1 << 20
# A part and a rest that is shorter than a part.
CONTENT = random_bytes(9 * MIB)


class Services:
    """The use cases of storage on one prefix; ``restart`` forgets what the process had in memory."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.prefix, self.clock = f"garbage/{uuid4()}", Clock()
        self.stack = AsyncExitStack()

    async def restart(self) -> None:
        await self.stack.aclose()
        url = f"sqlite:///{self.folder}/storage.db"
        migrations.migrate_if_behind(url, "reelhaul_storage")
        location = parse_location(self.server.storage_url(self.prefix))
        self.catalog = await self.stack.enter_async_context(CrashingCatalog.open(url))
        self.blobs = await self.stack.enter_async_context(S3BlobStore.open(location))
        self.uploads = Uploads(self.catalog, self.blobs, self.clock, max_bytes=1 << 30)
        self.garbage_collector = GarbageCollector(self.catalog, self.blobs, self.clock, timedelta())

    async def create(self, *, direct: bool = False) -> tuple[str, tuple[str, ...]]:
        """Create an upload of CONTENT; return its id and part URLs."""
        now = self.clock()
        draft = NewArtifact(tenant="one", expire_time=now + timedelta(days=1))
        upload = Upload("", draft, now, now, total_size=len(CONTENT), direct=direct)
        status = await self.uploads.create(upload)
        return status.upload.id, status.part_urls.urls if status.part_urls else ()

    async def write(self, upload: str, content: bytes = CONTENT) -> None:
        async def chunks() -> AsyncIterator[Chunk]:
            for begin in range(0, len(content), MIB):
                yield Chunk(begin, content[begin : begin + MIB])

        await self.uploads.write(upload, chunks())

    async def send(self, content: bytes = CONTENT) -> tuple[str, list[SentPart]]:
        """Send *content* straight to S3; return the upload and its parts."""
        upload, urls = await self.create(direct=True)
        async with httpx.AsyncClient(trust_env=False) as client:
            responses = [
                await client.put(url, content=content[n * 8 * MIB :][: 8 * MIB]) for n, url in enumerate(urls)
            ]
        return upload, [SentPart(n, r.headers["etag"]) for n, r in enumerate(responses, start=1)]

    async def finish(self, upload: str, parts: list[SentPart] | None = None) -> Artifact:
        expected = ExpectedChecksums(checksums(CONTENT).sha256.hex(), google_crc32c.value(CONTENT))
        return await self.uploads.finish(upload, expected, parts=parts or [])

    async def crash(self, upload: str, parts: list[SentPart] | None = None) -> None:
        """Finish *upload* up to a crash right before its artifact is committed."""
        self.catalog.crashes = True
        with pytest.raises(RuntimeError, match="crash"):
            await self.finish(upload, parts)
        await self.restart()

    async def read(self, artifact: Artifact) -> bytes:
        pieces = self.blobs.read(artifact.key, 0, artifact.content.size)
        return b"".join([piece async for piece in pieces])

    def stored(self) -> list[str]:
        """Return the keys of all objects and of all open multipart uploads."""
        return self.server.list_keys(self.prefix) + self.server.list_multipart_uploads(self.prefix)


@pytest.fixture
async def services(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Services]:
    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)
    set_caller(Caller("suite", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, suite=True))
    services = Services(s3_server, tmp_path)
    await services.restart()
    yield services
    await services.stack.aclose()


async def test_finish_after_crash(services: Services):
    """After a crash before the commit, finishing again needs no bytes, written or sent."""
    upload, _ = await services.create()
    await services.write(upload)
    await services.crash(upload)
    assert await services.read(await services.finish(upload)) == CONTENT
    sent, parts = await services.send()
    await services.crash(sent, parts)
    artifact = await services.finish(sent, parts)
    assert await services.read(artifact) == CONTENT
    assert len(services.stored()) == 1


async def test_sent_bytes_of_others(services: Services):
    """A crash gives nobody the bytes that another one has sent under the same, false digest."""
    liar, parts = await services.send(bytes(len(CONTENT)))
    await services.finish(liar, parts)
    honest, parts = await services.send()
    await services.crash(honest, parts)
    artifact = await services.finish(honest, parts)
    assert await services.read(artifact) == CONTENT


async def test_nothing_stays(services: Services):
    """Whatever was left unfinished at some step is deleted in the end, with its multipart uploads."""
    half, _ = await services.create()
    await services.write(half, CONTENT[:-1])
    whole, _ = await services.create()
    await services.write(whole)
    await services.send()
    crashed, parts = await services.send()
    await services.crash(crashed, parts)
    wrong, _ = await services.create()
    await services.write(wrong, bytes(len(CONTENT)))
    await services.restart()
    with pytest.raises(ChecksumMismatch):
        await services.finish(wrong)
    await services.blobs.hash_staged(whole)
    await services.restart()
    assert services.stored()
    services.clock.offset = timedelta(hours=30)
    for _ in range(2):
        await services.garbage_collector.delete_expired()
        await services.garbage_collector.delete_orphans()
    assert services.stored() == []
