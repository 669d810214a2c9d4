"""What every BlobStore holds to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reelhaul_runtime.errors import FieldInvalid
from reelhaul_storage.digests import Hasher
from reelhaul_storage.disk.blobs import DiskBlobStore
from reelhaul_storage.errors import OffsetConflict
from reelhaul_storage.ports import BlobStore

UPLOAD = "0b8a4f0e-0000-4000-8000-000000000001"
KEY = "ab/cd/abcd.1"
CONTENT = bytes(range(256)) * 5000


@pytest.fixture(params=["disk"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    async with _open_store(request.param, tmp_path) as opened:
        yield opened


@asynccontextmanager
async def _open_store(kind: str, folder: Path) -> AsyncIterator[BlobStore]:
    (folder / "work").mkdir()
    (folder / "work" / "film").write_bytes(CONTENT)
    async with DiskBlobStore.open(folder / "store", adopt_from=folder / "work") as disk:
        yield disk


async def _stage(blobs: BlobStore, content: bytes = CONTENT, offset: int = 0) -> int:
    async with blobs.stage(UPLOAD, offset) as staged:
        await staged.write(content)
        return await staged.persist()


async def _read(blobs: BlobStore, offset: int = 0, length: int = len(CONTENT)) -> bytes:
    return b"".join([piece async for piece in blobs.read(KEY, offset, length)])


async def test_staged_then_published(blobs: BlobStore):
    """What is staged can be hashed and published, is read back, and is staged no more."""
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


async def test_written_in_parts(blobs: BlobStore):
    """A write goes on exactly where the bytes end, and nowhere else."""
    await _stage(blobs, CONTENT[:1000])
    for wrong in (0, 999, 1001):
        with pytest.raises(OffsetConflict) as failure:
            await _stage(blobs, b"x", wrong)
        assert failure.value.metadata["persistedSize"] == "1000"
    assert await _stage(blobs, CONTENT[1000:], 1000) == len(CONTENT)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    assert await _read(blobs) == CONTENT


async def test_one_writer(blobs: BlobStore):
    """While one writes, another one is refused, and nothing can be hashed or published."""
    async with blobs.stage(UPLOAD, 0):
        with pytest.raises(OffsetConflict):
            await _stage(blobs)
        with pytest.raises(OffsetConflict):
            await blobs.hash_staged(UPLOAD)
        with pytest.raises(OffsetConflict):
            await blobs.publish(UPLOAD, KEY, 0)


async def test_published_as_hashed(blobs: BlobStore):
    """What grew after it was hashed is not published."""
    await _stage(blobs)
    with pytest.raises(OffsetConflict):
        await blobs.publish(UPLOAD, KEY, len(CONTENT) - 1)
    assert await blobs.size(KEY) is None


async def test_published_twice(blobs: BlobStore):
    """Publishing the same content under a key that rests already leaves one that can be read."""
    for _ in range(2):
        await _stage(blobs)
        await blobs.publish(UPLOAD, KEY, len(CONTENT))
    assert await _read(blobs) == CONTENT


async def test_nothing_staged(blobs: BlobStore):
    """Of nothing there is size 0 and the digest of nothing; dropping it is no error."""
    assert await blobs.staged_size(UPLOAD) == 0
    assert await blobs.hash_staged(UPLOAD) == Hasher().digests()
    await blobs.discard(UPLOAD)


async def test_discarded(blobs: BlobStore):
    """What was dropped is gone, its digests too."""
    await _stage(blobs)
    await blobs.discard(UPLOAD)
    assert await blobs.staged_size(UPLOAD) == 0
    await _stage(blobs, b"other")
    assert (await blobs.hash_staged(UPLOAD)).size == 5


async def test_adopted(blobs: BlobStore):
    """A shared file takes the place of what was staged."""
    await _stage(blobs, b"before")
    await blobs.adopt(UPLOAD, "film")
    assert (await blobs.hash_staged(UPLOAD)).size == len(CONTENT)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    assert await _read(blobs) == CONTENT


async def test_adopting_nothing(blobs: BlobStore):
    """A path to nothing is refused."""
    with pytest.raises(FieldInvalid):
        await blobs.adopt(UPLOAD, "none")


async def test_missing_and_short(blobs: BlobStore):
    """Reading what is not there, or past what is there, is told."""
    with pytest.raises(KeyError):
        await _read(blobs)
    await _stage(blobs)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    with pytest.raises(EOFError):
        await _read(blobs, 0, len(CONTENT) + 1)


async def test_deleted(blobs: BlobStore):
    """Deleted bytes are gone; deleting again is no error; who reads already reads on."""
    await _stage(blobs)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    reading = aiter(blobs.read(KEY, 0, len(CONTENT)))
    got = await anext(reading)
    for _ in range(2):
        await blobs.delete(KEY)
    assert await blobs.size(KEY) is None
    async for piece in reading:
        got += piece
    assert got == CONTENT


async def test_listed_by_age(blobs: BlobStore):
    """Staged uploads and keys are told where they are old enough."""
    await _stage(blobs)
    await blobs.publish(UPLOAD, KEY, len(CONTENT))
    await _stage(blobs)
    now = datetime.now(UTC)
    for before, told in ((now - timedelta(hours=1), []), (now + timedelta(hours=1), [UPLOAD])):
        assert [upload async for upload in blobs.list_staged(before)] == told
        assert [key async for key in blobs.list_keys(before)] == ([KEY] if told else [])


async def test_check(blobs: BlobStore):
    """A store that works says so."""
    await blobs.check()
