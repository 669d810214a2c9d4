"""Uploads through storage to S3: kills in the middle, several processes, and what is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import pytest
from tests.relay import run_relay
from tests.s3_server import BUCKET, S3Server
from tests.storage.conftest import (
    StartStorage,
    StorageService,
    error_details,
    random_bytes,
    wait_until,
    write_requests,
)

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul_storage.digests import Hasher
from reelhaul_storage.errors import BackendUnavailable, OffsetConflict
from reelhaul_storage.s3 import blobs as s3_blobs
from reelhaul_storage.s3.blobs import S3BlobStore
from reelhaul_storage.s3.location import parse_location
from reelhaul_storage.s3.staging import Staged, Staging

MIB = 1 << 20
UPLOAD = "0b8a4f0e-0000-4000-8000-000000000001"
# A part of 8 MiB and a rest that is shorter than a part.
CONTENT = random_bytes(10 * MIB)


@pytest.mark.parametrize("backend", ["s3"], indirect=True)
async def test_killed_server(storage: StorageService, s3_server: S3Server):
    """A write is refused while S3 is away and resumes after what S3 has, through the same storage."""
    upload = await storage.create_upload(CONTENT)
    killed = asyncio.Event()

    async def requests() -> AsyncIterator[pb.WriteArtifactRequest]:
        async for request in write_requests(CONTENT[: 9 * MIB], finish=False, upload=upload.name):
            yield request
        await killed.wait()
        async for request in write_requests(CONTENT[9 * MIB :], at=9 * MIB, finish=False):
            yield request

    writing = asyncio.ensure_future(storage.suite.WriteArtifact(requests()))

    async def has_first_part() -> bool:
        status = await storage.suite.GetUpload(pb.GetUploadRequest(name=upload.name))
        return bool(status.persisted_size)

    await wait_until(has_first_part)
    s3_server.kill()
    killed.set()
    try:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await writing
        details = error_details(failure.value)
        assert details.reason == "STORAGE_UNAVAILABLE"
        assert details.metadata["backend"] == "s3"
    finally:
        await asyncio.to_thread(s3_server.start)
    status = await storage.suite.GetUpload(pb.GetUploadRequest(name=upload.name))
    assert status.persisted_size == 8 * MIB
    rest = write_requests(CONTENT[8 * MIB :], at=8 * MIB, whole=CONTENT, finish=True, upload=upload.name)
    artifact = (await storage.suite.WriteArtifact(rest)).artifact
    assert await storage.read(artifact.name) == CONTENT
    assert storage.staged() == []


@pytest.mark.parametrize("backend", ["s3"], indirect=True)
async def test_restarted_storage(start_storage: StartStorage):
    """Parts and what follows them survive a restart of storage, which then hashes what it did not see."""
    async with start_storage() as storage:
        upload = await storage.create_upload(CONTENT)
        half = write_requests(CONTENT[: 9 * MIB], finish=False, upload=upload.name)
        assert (await storage.suite.WriteArtifact(half)).persisted_size == 9 * MIB
    async with start_storage() as storage:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.finish_upload(upload.name, CONTENT)
        assert error_details(failure.value).metadata == {"persistedSize": str(9 * MIB)}
        rest = write_requests(CONTENT[9 * MIB :], at=9 * MIB, finish=False, upload=upload.name)
        assert (await storage.suite.WriteArtifact(rest)).persisted_size == len(CONTENT)
        artifact = await storage.finish_upload(upload.name, CONTENT)
        assert await storage.read(artifact.name) == CONTENT
        assert storage.staged() == []
        assert len(storage.blob_keys()) == 1


@pytest.mark.parametrize("backend", ["s3"], indirect=True)
async def test_wrong_content_after_restart(start_storage: StartStorage):
    """Content that was read back to be hashed and has a wrong digest leaves nothing in the bucket."""
    async with start_storage() as storage:
        upload = await storage.create_upload()
        await storage.suite.WriteArtifact(write_requests(CONTENT, finish=False, upload=upload.name))
    async with start_storage() as storage:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.finish_upload(upload.name, b"other")
        assert error_details(failure.value).reason == "WRITE_CHECKSUM_MISMATCH"
        assert storage.staged() == storage.blob_keys() == []


class Stores:
    """Stores of one prefix: each open one is like a process of its own."""

    def __init__(self, server: S3Server) -> None:
        self.server, self.prefix = server, f"uploads/{uuid4()}"

    def open(self) -> AbstractAsyncContextManager[S3BlobStore]:
        return S3BlobStore.open(parse_location(self.server.storage_url(self.prefix)))

    async def stage(self, blobs: S3BlobStore, content: bytes, offset: int = 0) -> int:
        async with blobs.stage(UPLOAD, offset) as staged:
            await staged.write(content)
            return await staged.persist()


@pytest.fixture
def stores(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Stores:
    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)
    return Stores(s3_server)


async def _list_keys(blobs: S3BlobStore) -> list[str]:
    return [key async for key in blobs.list_keys(datetime.now(UTC) + timedelta(hours=1))]


async def test_sealed_upload(stores: Stores):
    """An upload that was completed to be hashed is still staged: for its size, its key, and a publication."""
    async with stores.open() as blobs:
        await stores.stage(blobs, CONTENT)
        key = await blobs.choose_key(UPLOAD, "")
    async with stores.open() as blobs:
        digests = await blobs.hash_staged(UPLOAD)
        assert digests.sha256 == hashlib.sha256(CONTENT).hexdigest()
    async with stores.open() as blobs:
        assert await blobs.staged_size(UPLOAD) == len(CONTENT)
        assert await blobs.choose_key(UPLOAD, "") == key
        with pytest.raises(OffsetConflict) as failure:
            await stores.stage(blobs, b"more", len(CONTENT))
        assert failure.value.metadata["persistedSize"] == str(len(CONTENT))
        assert await _list_keys(blobs) == []
        await blobs.publish(UPLOAD, key, len(CONTENT))
        assert await _list_keys(blobs) == [key]
        assert await blobs.staged_size(UPLOAD) == 0


async def test_crash_while_sealing(stores: Stores):
    """A crash between the marker of a sealed upload and its completion is made up for by the next call."""
    client = stores.server.client()
    async with stores.open() as blobs:
        await stores.stage(blobs, CONTENT[: 8 * MIB])
        key = await blobs.choose_key(UPLOAD, "")
    client.put_object(
        Bucket=BUCKET,
        Key=f"{stores.prefix}/staging/{UPLOAD}",
        Metadata={"sealed-key": key, "sealed-parts": "1"},
    )
    async with stores.open() as blobs:
        digests = await blobs.hash_staged(UPLOAD)
        assert digests.sha256 == hashlib.sha256(CONTENT[: 8 * MIB]).hexdigest()


async def test_discard_sealed_upload(stores: Stores):
    """Discarding a sealed upload deletes no blob: its object is an unknown key, for garbage collection."""
    async with stores.open() as blobs:
        await stores.stage(blobs, CONTENT)
        key = await blobs.choose_key(UPLOAD, "")
    async with stores.open() as blobs:
        await blobs.hash_staged(UPLOAD)
        await blobs.discard(UPLOAD)
        assert await blobs.staged_size(UPLOAD) == 0
        assert await _list_keys(blobs) == [key]


async def test_publish_under_another_key(stores: Stores):
    """Parts are published under the key of an existing blob, which stays or is replaced, without a rest."""
    async with stores.open() as blobs:
        for replace in (True, False):
            await stores.stage(blobs, CONTENT)
            await blobs.publish(UPLOAD, "other", len(CONTENT), replace=replace)
            assert await _list_keys(blobs) == ["other"]
        pieces = [piece async for piece in blobs.read("other", 0, len(CONTENT))]
        assert b"".join(pieces) == CONTENT
    assert stores.server.list_multipart_uploads(stores.prefix) == []
    assert stores.server.list_keys(f"{stores.prefix}/staging/") == []


async def test_writers_of_two_processes(stores: Stores):
    """Two processes that write to one upload do not mix: the one whose parts were replaced must ask again."""
    async with stores.open() as one, stores.open() as two:
        await stores.stage(one, CONTENT)
        assert await stores.stage(two, b"tail of two", 10 * MIB) == 10 * MIB + 11
        key = await one.choose_key(UPLOAD, "")
        with pytest.raises(OffsetConflict):
            await one.publish(UPLOAD, key, len(CONTENT))
        assert await one.staged_size(UPLOAD) == 10 * MIB + 11
        await one.publish(UPLOAD, key, 10 * MIB + 11)
        pieces = [piece async for piece in one.read(key, 10 * MIB, 11)]
        assert b"".join(pieces) == b"tail of two"


async def test_cancelled_writer(stores: Stores):
    """A cancelled writer releases the upload when its requests have ended; the parts that arrived stay."""
    async with stores.open() as blobs:

        async def write() -> None:
            async with blobs.stage(UPLOAD, 0) as staged:
                await staged.write(CONTENT)
                await asyncio.Event().wait()

        writing = asyncio.ensure_future(write())

        async def has_parts() -> bool:
            return await blobs.staged_size(UPLOAD) == 8 * MIB

        await wait_until(has_parts)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await stores.stage(blobs, CONTENT[8 * MIB :], 8 * MIB) == len(CONTENT)
        assert (await blobs.hash_staged(UPLOAD)).sha256 == hashlib.sha256(CONTENT).hexdigest()


async def test_read_over_bad_connection(stores: Stores):
    """A read goes on where its connection broke; one that breaks for good fails as unavailable."""
    async with stores.open() as blobs, run_relay(stores.server.port) as relay:
        await stores.stage(blobs, CONTENT)
        await blobs.publish(UPLOAD, "blob", len(CONTENT))
        url = stores.server.storage_url(stores.prefix).replace(str(stores.server.port), str(relay.port))
        async with S3BlobStore.open(parse_location(url)) as over_relay:
            received = b""
            async for piece in over_relay.read("blob", 0, len(CONTENT)):
                if len(received) < 2 * MIB <= len(received) + len(piece):
                    relay.cut()
                received += piece
            assert relay.cuts == 1
            assert received == CONTENT


async def test_cancelled_hash(stores: Stores):
    """Content whose hash a caller did not wait for is not read twice: the next caller is told to wait."""
    async with run_relay(stores.server.port) as relay, stores.open() as blobs:
        await stores.stage(blobs, CONTENT)
        url = stores.server.storage_url(stores.prefix).replace(str(stores.server.port), str(relay.port))
        async with S3BlobStore.open(parse_location(url)) as over_relay:
            relay.hold()
            hashing = asyncio.ensure_future(over_relay.hash_staged(UPLOAD))
            await asyncio.sleep(0)
            hashing.cancel()
            await asyncio.wait([hashing])
            with pytest.raises(BackendUnavailable):
                await over_relay.hash_staged(UPLOAD)
            relay.resume()

            async def is_hashed() -> bool:
                try:
                    digests = await over_relay.hash_staged(UPLOAD)
                except BackendUnavailable:
                    return False
                return digests.sha256 == hashlib.sha256(CONTENT).hexdigest()

            await wait_until(is_hashed)


async def test_large_uploads_that_are_hashed(stores: Stores, monkeypatch: pytest.MonkeyPatch):
    """However many large uploads are hashed, reads and the check of the backend go on."""
    finished = threading.Event()

    def hash_slowly(self: Staging, staged: Staged) -> Hasher:
        finished.wait()
        return Hasher()

    async with stores.open() as blobs:
        await stores.stage(blobs, CONTENT)
        await blobs.publish(UPLOAD, "blob", len(CONTENT))
        monkeypatch.setattr(s3_blobs, "_LARGE", -1)
        monkeypatch.setattr(Staging, "hash", hash_slowly)
        hashing = [asyncio.ensure_future(blobs.hash_staged(str(uuid4()))) for _ in range(40)]
        try:
            await blobs.check()
            assert b"".join([piece async for piece in blobs.read("blob", 0, 10)]) == CONTENT[:10]
            assert not any(each.done() for each in hashing)
        finally:
            finished.set()
        await asyncio.gather(*hashing)
