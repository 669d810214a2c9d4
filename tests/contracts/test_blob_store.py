"""Contract of BlobStore, run against every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from tests.s3_server import S3Server

from reelhaul_runtime.errors import FieldInvalid
from reelhaul_storage.digests import Hasher
from reelhaul_storage.disk.blobs import DiskBlobStore
from reelhaul_storage.errors import BackendUnavailable, OffsetConflict
from reelhaul_storage.ports import BlobStore
from reelhaul_storage.s3.blobs import S3BlobStore
from reelhaul_storage.s3.location import parse_location

UPLOAD = "0b8a4f0e-0000-4000-8000-000000000001"
KEY = "ab/cd/abcd.1"
# More than a part of a multipart upload.
CONTENT = bytes(range(256)) * 36_000


@dataclass
class Backend:
    """A store, and what makes its disk or server fail and work again."""

    blobs: BlobStore
    fail: Callable[[], object]
    recover: Callable[[], object]


@asynccontextmanager
async def _disk(folder: Path) -> AsyncIterator[Backend]:
    (folder / "work").mkdir()
    (folder / "work" / "video").write_bytes(CONTENT)
    staging, hidden = folder / "store" / "staging", folder / "store" / "hidden"
    async with DiskBlobStore.open(folder / "store", adopt_from=folder / "work") as blobs:
        yield Backend(blobs, fail=lambda: staging.rename(hidden), recover=lambda: hidden.rename(staging))


@asynccontextmanager
async def _s3(server: S3Server) -> AsyncIterator[Backend]:
    location = parse_location(server.storage_url(prefix=f"contract/{uuid4()}"))
    async with S3BlobStore.open(location) as blobs:
        yield Backend(blobs, fail=server.kill, recover=server.start)


@pytest.fixture(params=["disk", "s3"])
async def backend(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backend]:
    if request.param == "disk":
        async with _disk(tmp_path) as backend:
            yield backend
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        for name, value in server.credentials().items():
            monkeypatch.setenv(name, value)
        async with _s3(server) as backend:
            yield backend


@pytest.fixture
def blobs(backend: Backend) -> BlobStore:
    return backend.blobs


async def _stage(blobs: BlobStore, content: bytes = CONTENT, offset: int = 0) -> int:
    async with blobs.stage(UPLOAD, offset) as staged:
        await staged.write(content)
        return await staged.persist()


async def _read(blobs: BlobStore, offset: int = 0, length: int = len(CONTENT)) -> bytes:
    return b"".join([piece async for piece in blobs.read(KEY, offset, length)])


async def test_stage_and_publish(blobs: BlobStore):
    """Staged bytes can be hashed and published; then they can be read and are no longer staged."""
    assert await _stage(blobs) == len(CONTENT)
    hasher = Hasher()
    hasher.update(CONTENT)
    assert await blobs.hash_staged(UPLOAD) == hasher.digests()
    assert await blobs.size(KEY) is None
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    assert await blobs.size(KEY) == len(CONTENT)
    assert await blobs.staged_size(UPLOAD) == 0
    assert await _read(blobs) == CONTENT
    assert await _read(blobs, 700_000, 1000) == CONTENT[700_000:701_000]


async def test_stage_in_parts(blobs: BlobStore):
    """A write resumes exactly at the end of the staged bytes and nowhere else."""
    await _stage(blobs, CONTENT[:1000])
    for wrong in (0, 999, 1001):
        with pytest.raises(OffsetConflict) as failure:
            await _stage(blobs, b"x", wrong)
        assert failure.value.metadata["persistedSize"] == "1000"
    assert await _stage(blobs, CONTENT[1000:], 1000) == len(CONTENT)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    assert await _read(blobs) == CONTENT


async def test_single_writer(blobs: BlobStore):
    """While one writer is active, another is rejected, and nothing can be hashed or published."""
    async with blobs.stage(UPLOAD, 0):
        with pytest.raises(OffsetConflict):
            await _stage(blobs)
        with pytest.raises(OffsetConflict):
            await blobs.hash_staged(UPLOAD)
        with pytest.raises(OffsetConflict):
            await blobs.publish(UPLOAD, KEY, 0)


async def test_publish_other_size(blobs: BlobStore):
    """Bytes that grew after they were hashed are not published."""
    await _stage(blobs)
    with pytest.raises(OffsetConflict):
        await blobs.publish(UPLOAD, KEY, len(CONTENT) - 1)
    assert await blobs.size(KEY) is None


async def test_publish_twice(blobs: BlobStore):
    """Publishing the same content under an existing key leaves a readable blob."""
    for _ in range(2):
        await _stage(blobs)
        await blobs.publish(UPLOAD, KEY, len(CONTENT))
    assert await _read(blobs) == CONTENT


async def test_nothing_staged(blobs: BlobStore):
    """An unknown upload has size 0 and the digests of empty content; discarding it is not an error."""
    assert await blobs.staged_size(UPLOAD) == 0
    assert await blobs.hash_staged(UPLOAD) == Hasher().digests()
    await blobs.discard(UPLOAD)


async def test_discard(blobs: BlobStore):
    """Discarded bytes are gone, and so are their digests."""
    await _stage(blobs)
    await blobs.discard(UPLOAD)
    assert await blobs.staged_size(UPLOAD) == 0
    await _stage(blobs, b"other")
    assert (await blobs.hash_staged(UPLOAD)).size == 5


async def test_adopt(blobs: BlobStore):
    """An adopted file replaces what was staged; a store that adopts no files says so and rejects it."""
    await _stage(blobs, b"before")
    if not await blobs.can_adopt("video"):
        assert blobs.backend == "s3"
        with pytest.raises(FieldInvalid):
            await blobs.adopt(UPLOAD, "video")
        return
    await blobs.adopt(UPLOAD, "video")
    assert (await blobs.hash_staged(UPLOAD)).size == len(CONTENT)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    assert await _read(blobs) == CONTENT


async def test_adopt_missing_file(blobs: BlobStore):
    """A path to a missing file is rejected."""
    with pytest.raises(FieldInvalid):
        await blobs.adopt(UPLOAD, "none")


async def test_read_missing_bytes(blobs: BlobStore):
    """Reading a missing blob raises KeyError; reading past the end raises EOFError."""
    with pytest.raises(KeyError):
        await _read(blobs)
    await _stage(blobs)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    with pytest.raises(EOFError):
        await _read(blobs, 0, len(CONTENT) + 1)


async def test_delete(blobs: BlobStore):
    """A deleted blob is gone, deleting it again is not an error, and a started read continues."""
    await _stage(blobs)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    pieces = aiter(blobs.read(KEY, 0, len(CONTENT)))
    received = await anext(pieces)
    for _ in range(2):
        await blobs.delete(KEY)
    assert await blobs.size(KEY) is None
    async for piece in pieces:
        received += piece
    assert received == CONTENT


async def test_list_by_age(blobs: BlobStore):
    """Only staged uploads and keys last written before the given time are listed."""
    await _stage(blobs)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    await _stage(blobs)
    now = datetime.now(UTC)
    for before, expected in ((now - timedelta(hours=1), []), (now + timedelta(hours=1), [UPLOAD])):
        assert [upload async for upload in blobs.list_staged(before)] == expected
        assert [key async for key in blobs.list_keys(before)] == ([KEY] if expected else [])


async def test_check(backend: Backend):
    """The check fails while the backend does, succeeds when it works, and leaves nothing behind."""
    await backend.blobs.check()
    backend.fail()
    with pytest.raises(BackendUnavailable):
        await backend.blobs.check()
    backend.recover()
    await backend.blobs.check()
    future = datetime.now(UTC) + timedelta(hours=1)
    assert [upload async for upload in backend.blobs.list_staged(future)] == []
    assert [key async for key in backend.blobs.list_keys(future)] == []


async def test_space(blobs: BlobStore):
    """On a disk, uploads may take what is free and what they have staged; S3 has no limit."""
    before = await blobs.measure_space()
    await _stage(blobs)
    after = await blobs.measure_space()
    if before is None or after is None:
        assert blobs.backend == "s3"
        return
    assert 0 < after.free < after.total == before.total
    assert before.adopts_by_link
    assert after.available - after.free == len(CONTENT)
