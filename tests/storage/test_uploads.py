"""Uploads: writing, resuming, verifying and finishing."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress

import google_crc32c
import grpc
import pytest
from tests.storage.conftest import (
    ON_BOTH,
    StartStorage,
    StorageService,
    checksums,
    error_details,
    random_bytes,
    wait_until,
    write_requests,
)

from reelhaul.storage.v1 import storage_service_pb2 as pb

MIB = 1 << 20


@ON_BOTH
async def test_write_artifact(storage: StorageService):
    """Content written in one call can be read back; the response has its size and digests."""
    content = random_bytes(3 * MIB + 17)
    artifact = await storage.write_artifact(
        content, file_name="Ä/../video.mp4", media_type="video/mp4", epoch=3
    )
    assert artifact.size_bytes == len(content)
    assert artifact.checksums.sha256 == hashlib.sha256(content).digest()
    assert artifact.checksums.crc32c == google_crc32c.value(content)
    assert (artifact.file_name, artifact.media_type, artifact.epoch) == ("Ä_.._video.mp4", "video/mp4", 3)
    assert await storage.read(artifact.name) == content
    assert storage.staged() == []


@ON_BOTH
async def test_empty_content(storage: StorageService):
    """An empty file can be stored."""
    artifact = await storage.write_artifact(b"")
    assert artifact.size_bytes == 0
    assert await storage.read(artifact.name) == b""


async def test_resume_interrupted_write(storage: StorageService):
    """An interrupted write resumes at the size that GetUpload reports."""
    content = random_bytes(5 * MIB)
    upload = await storage.create_upload(content)

    async def interrupted_requests():
        async for message in write_requests(content[: 3 * MIB], finish=False, upload=upload.name):
            yield message
        await asyncio.Event().wait()

    call = storage.suite.WriteArtifact(interrupted_requests())
    await wait_until(lambda: sum(path.stat().st_size for path in storage.staged_files()) >= 2 * MIB)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    size = 0

    async def is_released() -> bool:
        """Return whether the interrupted write is over: only then does an empty write succeed."""
        nonlocal size
        size = (await storage.suite.GetUpload(pb.GetUploadRequest(name=upload.name))).persisted_size
        with suppress(grpc.aio.AioRpcError):
            await storage.suite.WriteArtifact(write_requests(b"", at=size, finish=False, upload=upload.name))
            return True
        return False

    await wait_until(is_released)
    assert size >= 2 * MIB
    rest = write_requests(content[size:], at=size, whole=content, upload=upload.name)
    artifact = (await storage.suite.WriteArtifact(rest)).artifact
    assert await storage.read(artifact.name) == content


async def test_resume_after_restart(start_storage: StartStorage):
    """Bytes reported as persisted survive a restart, and are hashed again."""
    content = random_bytes(2 * MIB)
    async with start_storage() as storage:
        upload = await storage.create_upload(content)
        half = write_requests(content[:MIB], finish=False, upload=upload.name)
        assert (await storage.suite.WriteArtifact(half)).persisted_size == MIB
    async with start_storage() as storage:
        rest = write_requests(content[MIB:], at=MIB, finish=False, upload=upload.name)
        assert (await storage.suite.WriteArtifact(rest)).persisted_size == 2 * MIB
        artifact = await storage.finish_upload(upload.name, content)
        assert await storage.read(artifact.name) == content


@ON_BOTH
async def test_wrong_offset(storage: StorageService):
    """A write at another offset than the end is rejected with the persisted size."""
    upload = await storage.create_upload()
    await storage.suite.WriteArtifact(write_requests(b"abc", finish=False, upload=upload.name))
    for at in (0, 2, 4):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.suite.WriteArtifact(write_requests(b"d", at=at, finish=False, upload=upload.name))
        details = error_details(failure.value)
        assert details.reason == "WRITE_OFFSET_CONFLICT"
        assert details.metadata == {"persistedSize": "3"}


async def test_second_writer(storage: StorageService):
    """A second writer of an upload is rejected while the first is active."""
    upload = await storage.create_upload()
    started, stop = asyncio.Event(), asyncio.Event()

    async def slow_requests():
        yield pb.WriteArtifactRequest(upload=upload.name, content=random_bytes(512 << 10))
        started.set()
        await stop.wait()

    first = asyncio.ensure_future(storage.suite.WriteArtifact(slow_requests()))
    await started.wait()
    await wait_until(lambda: bool(storage.staged_files()))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.WriteArtifact(write_requests(b"x", finish=False, upload=upload.name))
    assert error_details(failure.value).reason == "WRITE_OFFSET_CONFLICT"
    stop.set()
    assert (await first).persisted_size == 512 << 10


async def test_damaged_chunk(storage: StorageService):
    """A chunk with a wrong crc32c is rejected; the write resumes before it."""
    upload = await storage.create_upload()

    async def damaged_requests():
        yield pb.WriteArtifactRequest(
            upload=upload.name, content=b"good", crc32c=google_crc32c.value(b"good")
        )
        yield pb.WriteArtifactRequest(write_offset=4, content=b"bat", crc32c=google_crc32c.value(b"bad"))

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.WriteArtifact(damaged_requests())
    details = error_details(failure.value)
    assert (details.reason, details.metadata) == ("WRITE_CHECKSUM_MISMATCH", {"offset": "4"})
    rest = write_requests(b"bad", at=4, whole=b"goodbad", upload=upload.name)
    assert (await storage.suite.WriteArtifact(rest)).artifact.size_bytes == 7


@ON_BOTH
async def test_wrong_checksum(storage: StorageService):
    """Content with another digest makes no artifact; the upload can be written again."""
    upload = await storage.create_upload()
    await storage.suite.WriteArtifact(write_requests(b"wrong", finish=False, upload=upload.name))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish_upload(upload.name, b"right")
    assert error_details(failure.value).reason == "WRITE_CHECKSUM_MISMATCH"
    assert storage.blob_keys() == []
    written = await storage.suite.WriteArtifact(write_requests(b"right", upload=upload.name))
    assert await storage.read(written.artifact.name) == b"right"


async def test_missing_bytes(storage: StorageService):
    """An upload shorter than announced cannot be finished, and keeps its bytes."""
    upload = await storage.create_upload(b"abcdef")
    await storage.suite.WriteArtifact(write_requests(b"abc", finish=False, upload=upload.name))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish_upload(upload.name, b"abcdef")
    assert error_details(failure.value).metadata == {"persistedSize": "3"}
    rest = write_requests(b"def", at=3, whole=b"abcdef", upload=upload.name)
    assert (await storage.suite.WriteArtifact(rest)).artifact.size_bytes == 6


@ON_BOTH
async def test_finish_twice(storage: StorageService):
    """Repeated FinishUpload calls, also concurrent ones, return the same artifact."""
    upload = await storage.create_upload(b"once")
    await storage.suite.WriteArtifact(write_requests(b"once", finish=False, upload=upload.name))
    concurrent = await asyncio.gather(*(storage.finish_upload(upload.name, b"once") for _ in range(2)))
    again = await storage.finish_upload(upload.name, b"once")
    assert len({artifact.name for artifact in (*concurrent, again)}) == 1


async def test_repeated_request_id(storage: StorageService):
    """The same request_id returns the same upload; with another request it is rejected."""
    request = pb.CreateUploadRequest(request_id="4f7a9c0e-7c8d-4c5e-9d51-0f4a5a3f1b11")
    request.upload.artifact.file_name = "a"
    first, second = [await storage.suite.CreateUpload(request) for _ in range(2)]
    assert first.name == second.name
    artifact = (await storage.suite.WriteArtifact(write_requests(b"a", upload=first.name))).artifact
    third = await storage.suite.CreateUpload(request)
    assert (third.name, third.content_exists, third.artifact.name) == (first.name, True, artifact.name)
    assert await storage.finish_upload(third.name, b"a") == artifact
    request.upload.artifact.file_name = "b"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.CreateUpload(request)
    assert error_details(failure.value).reason == "REQUEST_ID_REUSED"


@ON_BOTH
async def test_same_content_is_stored_once(storage: StorageService):
    """Concurrent writers of the same content all succeed, and there is one file."""
    content = random_bytes(2 * MIB)
    artifacts = await asyncio.gather(*(storage.write_artifact(content, file_name=f"{n}") for n in range(4)))
    assert len({artifact.name for artifact in artifacts}) == 4
    assert len(storage.blob_keys()) == 1
    for artifact in artifacts:
        assert await storage.read(artifact.name) == content


async def test_stored_content_needs_no_bytes(storage: StorageService):
    """If the tenant stores the content already, no bytes are sent."""
    await storage.write_artifact(b"known", tenant="one")
    upload = await storage.create_upload(b"known", tenant="one", file_name="again")
    assert upload.content_exists
    artifact = await storage.finish_upload(upload.name, b"known")
    assert (artifact.file_name, artifact.tenant) == ("again", "one")
    assert await storage.read(artifact.name) == b"known"


@ON_BOTH
async def test_content_of_another_tenant(storage: StorageService):
    """Another tenant's content cannot be obtained by its digest."""
    await storage.write_artifact(b"secret", tenant="one")
    upload = await storage.create_upload(b"secret", tenant="two")
    assert not upload.content_exists
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish_upload(upload.name, b"secret")
    assert error_details(failure.value).reason == "WRITE_OFFSET_CONFLICT"


async def test_blob_lost_from_disk(storage: StorageService):
    """If the disk lost a blob, its content is not reported as stored, and a new write restores it."""
    old = await storage.write_artifact(b"lost", tenant="one")
    storage.blob_files()[0].unlink()
    upload = await storage.create_upload(b"lost", tenant="one")
    assert not upload.content_exists
    await storage.write_artifact(b"lost", tenant="one")
    assert await storage.read(old.name) == b"lost"


@ON_BOTH
async def test_delete_upload(storage: StorageService):
    """A deleted upload leaves nothing behind; deleting it again is not an error."""
    upload = await storage.create_upload()
    await storage.suite.WriteArtifact(write_requests(b"abc", finish=False, upload=upload.name))
    for _ in range(2):
        await storage.suite.DeleteUpload(pb.DeleteUploadRequest(name=upload.name))
    assert storage.staged() == []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.GetUpload(pb.GetUploadRequest(name=upload.name))
    assert error_details(failure.value).reason == "RESOURCE_NOT_FOUND"


@ON_BOTH
async def test_failed_write_artifact(storage: StorageService):
    """A one-shot write that ends early or is damaged leaves no bytes and no upload."""
    attempts = [
        write_requests(b"abc", finish=False, artifact={}),
        write_requests(b"abc", whole=b"abd", artifact={}),
        write_requests(b"", finish=False),
    ]
    for attempt in attempts:
        with pytest.raises(grpc.aio.AioRpcError):
            await storage.suite.WriteArtifact(attempt)
    assert storage.staged() == storage.blob_keys() == []
    assert not (await storage.suite.ListUploads(pb.ListUploadsRequest())).uploads


async def test_list_uploads(storage: StorageService):
    """Unfinished uploads are listed oldest first, page by page."""
    names = [(await storage.create_upload()).name for _ in range(3)]
    first = await storage.suite.ListUploads(pb.ListUploadsRequest(page_size=2))
    assert [upload.name for upload in first.uploads] == names[:2]
    second = await storage.suite.ListUploads(pb.ListUploadsRequest(page_token=first.next_page_token))
    assert [upload.name for upload in second.uploads] == names[2:]
    assert second.next_page_token == ""


async def test_too_large(start_storage: StartStorage):
    """Content above the size limit is rejected when it is announced, and when it is written unannounced."""
    async with start_storage(storage_max_artifact_bytes=1000) as storage:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.create_upload(random_bytes(1001))
        assert error_details(failure.value).reason == "MEDIA_TOO_LARGE"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.write_artifact(random_bytes(1001))
        assert error_details(failure.value).metadata["limitBytes"] == "1000"
        assert storage.staged_files() == []


async def test_full_disk(start_storage: StartStorage):
    """Writes are rejected when only the reserve is left on the disk."""
    async with start_storage(storage_reserve_bytes=1 << 60) as storage:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.write_artifact(b"x")
        details = error_details(failure.value)
        assert (details.reason, details.metadata["backend"]) == ("STORAGE_UNAVAILABLE", "local")
        assert int(details.metadata["freeBytes"]) < 1 << 60


@pytest.mark.parametrize(
    ("artifact", "field"),
    [
        ({"job": "job/1"}, "artifact.job"),
        ({"media_type": "video\r\nX: y"}, "artifact.media_type"),
        ({"language_code": "de de"}, "artifact.language_code"),
        ({"epoch": -1}, "artifact.epoch"),
        ({"tenant": "a\0b"}, "artifact.tenant"),
        ({"labels": {"Upper": "x"}}, "artifact.labels"),
        ({"labels": {"a": "x" * 257}}, "artifact.labels"),
        ({"ttl": {"seconds": -1}}, "artifact.ttl"),
        ({"expire_time": {"seconds": 1}}, "artifact.expire_time"),
    ],
)
async def test_invalid_fields(storage: StorageService, artifact: dict, field: str):
    """An invalid field is rejected by name, and nothing is stored."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.write_artifact(b"x", **artifact)
    details = error_details(failure.value)
    assert (details.reason, details.metadata) == ("FIELD_INVALID", {"field": field})
    assert storage.staged_files() == storage.blob_files() == []


async def test_writes_need_suite_token(storage: StorageService):
    """Writes are rejected without the suite's token."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.client.WriteArtifact(write_requests(b"x", artifact={}))
    assert error_details(failure.value).reason == "PERMISSION_INSUFFICIENT"
    with pytest.raises(grpc.aio.AioRpcError):
        await storage.client.FinishUpload(
            pb.FinishUploadRequest(name="uploads/x", total_checksums=checksums(b""), adopt_path="../secret")
        )
