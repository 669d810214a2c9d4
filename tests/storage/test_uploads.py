"""How bytes come in."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress

import google_crc32c
import grpc
import pytest
from tests.storage.conftest import Enter, Running, checksums, messages, noise, refused, until

from reelhaul.storage.v1 import storage_service_pb2 as pb

MIB = 1 << 20


async def test_one_shot(storage: Running):
    """What is written in one go can be read back, and is told with size and digests."""
    content = noise(3 * MIB + 17)
    artifact = await storage.put(content, file_name="Ä/../film.mp4", media_type="video/mp4", epoch=3)
    assert artifact.size_bytes == len(content)
    assert artifact.checksums.sha256 == hashlib.sha256(content).digest()
    assert artifact.checksums.crc32c == google_crc32c.value(content)
    assert (artifact.file_name, artifact.media_type, artifact.epoch) == ("Ä_.._film.mp4", "video/mp4", 3)
    assert await storage.get(artifact.name) == content
    assert storage.staged() == []


async def test_empty_content(storage: Running):
    """A file of no bytes is a file."""
    artifact = await storage.put(b"")
    assert artifact.size_bytes == 0
    assert await storage.get(artifact.name) == b""


async def test_resume_after_a_break(storage: Running):
    """A broken write goes on where GetUpload says that the bytes end."""
    content = noise(5 * MIB)
    upload = await storage.begin(content)

    async def breaks():
        async for message in messages(content[: 3 * MIB], finish=False, upload=upload.name):
            yield message
        await asyncio.Event().wait()

    call = storage.suite.WriteArtifact(breaks())
    await until(lambda: sum(path.stat().st_size for path in storage.staged()) >= 2 * MIB)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    size = 0

    async def rested() -> bool:
        """An empty write succeeds only once the broken one is over."""
        nonlocal size
        size = (await storage.suite.GetUpload(pb.GetUploadRequest(name=upload.name))).persisted_size
        with suppress(grpc.aio.AioRpcError):
            await storage.suite.WriteArtifact(messages(b"", at=size, finish=False, upload=upload.name))
            return True
        return False

    await until(rested)
    assert size >= 2 * MIB
    rest = messages(content[size:], at=size, whole=content, upload=upload.name)
    artifact = (await storage.suite.WriteArtifact(rest)).artifact
    assert await storage.get(artifact.name) == content


async def test_resume_in_another_process(enter: Enter):
    """What was answered as persisted is there after a restart, and its hash is made up for."""
    content = noise(2 * MIB)
    async with enter() as storage:
        upload = await storage.begin(content)
        half = messages(content[:MIB], finish=False, upload=upload.name)
        assert (await storage.suite.WriteArtifact(half)).persisted_size == MIB
    async with enter() as storage:
        rest = messages(content[MIB:], at=MIB, finish=False, upload=upload.name)
        assert (await storage.suite.WriteArtifact(rest)).persisted_size == 2 * MIB
        artifact = await storage.finish(upload.name, content)
        assert await storage.get(artifact.name) == content


async def test_wrong_offset(storage: Running):
    """A write that does not go on where the bytes end is told where they do."""
    upload = await storage.begin()
    await storage.suite.WriteArtifact(messages(b"abc", finish=False, upload=upload.name))
    for at in (0, 2, 4):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.suite.WriteArtifact(messages(b"d", at=at, finish=False, upload=upload.name))
        answer = refused(failure.value)
        assert answer.reason == "WRITE_OFFSET_CONFLICT"
        assert answer.metadata == {"persistedSize": "3"}


async def test_two_writers_of_one_upload(storage: Running):
    """The second of two writers at one upload is refused while the first is at it."""
    upload = await storage.begin()
    begun, end = asyncio.Event(), asyncio.Event()

    async def slow():
        yield pb.WriteArtifactRequest(upload=upload.name, content=noise(512 << 10))
        begun.set()
        await end.wait()

    first = asyncio.ensure_future(storage.suite.WriteArtifact(slow()))
    await begun.wait()
    await until(lambda: bool(storage.staged()))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.WriteArtifact(messages(b"x", finish=False, upload=upload.name))
    assert refused(failure.value).reason == "WRITE_OFFSET_CONFLICT"
    end.set()
    assert (await first).persisted_size == 512 << 10


async def test_damaged_on_the_way(storage: Running):
    """A chunk whose crc32c does not hold is not taken; the write goes on before it."""
    upload = await storage.begin()

    async def damaged():
        yield pb.WriteArtifactRequest(
            upload=upload.name, content=b"good", crc32c=google_crc32c.value(b"good")
        )
        yield pb.WriteArtifactRequest(write_offset=4, content=b"bat", crc32c=google_crc32c.value(b"bad"))

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.WriteArtifact(damaged())
    answer = refused(failure.value)
    assert (answer.reason, answer.metadata) == ("WRITE_CHECKSUM_MISMATCH", {"offset": "4"})
    rest = messages(b"bad", at=4, whole=b"goodbad", upload=upload.name)
    assert (await storage.suite.WriteArtifact(rest)).artifact.size_bytes == 7


async def test_not_what_was_meant(storage: Running):
    """Content with another digest makes no artifact; the upload may be written again."""
    upload = await storage.begin()
    await storage.suite.WriteArtifact(messages(b"wrong", finish=False, upload=upload.name))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish(upload.name, b"right")
    assert refused(failure.value).reason == "WRITE_CHECKSUM_MISMATCH"
    assert storage.blobs() == []
    written = await storage.suite.WriteArtifact(messages(b"right", upload=upload.name))
    assert await storage.get(written.artifact.name) == b"right"


async def test_missing_bytes(storage: Running):
    """An upload that is shorter than announced is not finished, and loses nothing."""
    upload = await storage.begin(b"abcdef")
    await storage.suite.WriteArtifact(messages(b"abc", finish=False, upload=upload.name))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish(upload.name, b"abcdef")
    assert refused(failure.value).metadata == {"persistedSize": "3"}
    rest = messages(b"def", at=3, whole=b"abcdef", upload=upload.name)
    assert (await storage.suite.WriteArtifact(rest)).artifact.size_bytes == 6


async def test_finishing_twice(storage: Running):
    """FinishUpload repeated, also at the same time, answers with the same artifact."""
    upload = await storage.begin(b"once")
    await storage.suite.WriteArtifact(messages(b"once", finish=False, upload=upload.name))
    twice = await asyncio.gather(*(storage.finish(upload.name, b"once") for _ in range(2)))
    again = await storage.finish(upload.name, b"once")
    assert len({artifact.name for artifact in (*twice, again)}) == 1


async def test_repeated_request(storage: Running):
    """The same request_id is the same upload; with another request it is refused."""
    request = pb.CreateUploadRequest(request_id="4f7a9c0e-7c8d-4c5e-9d51-0f4a5a3f1b11")
    request.upload.artifact.file_name = "a"
    first, second = [await storage.suite.CreateUpload(request) for _ in range(2)]
    assert first.name == second.name
    artifact = (await storage.suite.WriteArtifact(messages(b"a", upload=first.name))).artifact
    third = await storage.suite.CreateUpload(request)
    assert (third.name, third.content_exists, third.artifact.name) == (first.name, True, artifact.name)
    assert await storage.finish(third.name, b"a") == artifact
    request.upload.artifact.file_name = "b"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.CreateUpload(request)
    assert refused(failure.value).reason == "REQUEST_ID_REUSED"


async def test_same_content_is_kept_once(storage: Running):
    """Writers of the same content, at the same time, all succeed; there is one file."""
    content = noise(2 * MIB)
    made = await asyncio.gather(*(storage.put(content, file_name=f"{n}") for n in range(4)))
    assert len({artifact.name for artifact in made}) == 4
    assert len(storage.blobs()) == 1
    for artifact in made:
        assert await storage.get(artifact.name) == content


async def test_known_content_needs_no_bytes(storage: Running):
    """Where the tenant has the content already, nothing is sent."""
    await storage.put(b"known", tenant="one")
    upload = await storage.begin(b"known", tenant="one", file_name="again")
    assert upload.content_exists
    artifact = await storage.finish(upload.name, b"known")
    assert (artifact.file_name, artifact.tenant) == ("again", "one")
    assert await storage.get(artifact.name) == b"known"


async def test_known_to_another_tenant(storage: Running):
    """Another tenant's content cannot be had by knowing its digest."""
    await storage.put(b"secret", tenant="one")
    upload = await storage.begin(b"secret", tenant="two")
    assert not upload.content_exists
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.finish(upload.name, b"secret")
    assert refused(failure.value).reason == "WRITE_OFFSET_CONFLICT"


async def test_bytes_lost_from_disk_are_written_anew(storage: Running):
    """Where the disk lost a blob, its content is not called stored, and a new write heals it."""
    old = await storage.put(b"lost", tenant="one")
    storage.blobs()[0].unlink()
    upload = await storage.begin(b"lost", tenant="one")
    assert not upload.content_exists
    await storage.put(b"lost", tenant="one")
    assert await storage.get(old.name) == b"lost"


async def test_dropped_upload(storage: Running):
    """A dropped upload leaves nothing, and dropping it again is no error."""
    upload = await storage.begin()
    await storage.suite.WriteArtifact(messages(b"abc", finish=False, upload=upload.name))
    for _ in range(2):
        await storage.suite.DeleteUpload(pb.DeleteUploadRequest(name=upload.name))
    assert storage.staged() == []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.GetUpload(pb.GetUploadRequest(name=upload.name))
    assert refused(failure.value).reason == "RESOURCE_NOT_FOUND"


async def test_broken_one_shot_leaves_nothing(storage: Running):
    """A one-shot write that ends early, or is damaged, leaves no bytes and no upload."""
    bad = [
        messages(b"abc", finish=False, artifact={}),
        messages(b"abc", whole=b"abd", artifact={}),
        messages(b"", finish=False),
    ]
    for sent in bad:
        with pytest.raises(grpc.aio.AioRpcError):
            await storage.suite.WriteArtifact(sent)
    assert storage.staged() == storage.blobs() == []
    assert not (await storage.suite.ListUploads(pb.ListUploadsRequest())).uploads


async def test_listed_uploads(storage: Running):
    """Unfinished uploads are listed, the oldest first, page by page."""
    names = [(await storage.begin()).name for _ in range(3)]
    first = await storage.suite.ListUploads(pb.ListUploadsRequest(page_size=2))
    assert [upload.name for upload in first.uploads] == names[:2]
    second = await storage.suite.ListUploads(pb.ListUploadsRequest(page_token=first.next_page_token))
    assert [upload.name for upload in second.uploads] == names[2:]
    assert second.next_page_token == ""


async def test_too_large(enter: Enter):
    """What is larger than allowed is refused when announced, and when it comes unannounced."""
    async with enter(storage_max_artifact_bytes=1000) as storage:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.begin(noise(1001))
        assert refused(failure.value).reason == "MEDIA_TOO_LARGE"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.put(noise(1001))
        assert refused(failure.value).metadata["limitBytes"] == "1000"
        assert storage.staged() == []


async def test_full_disk(enter: Enter):
    """Where only the reserve is left on the disk, nothing new is taken."""
    async with enter(storage_reserve_bytes=1 << 60) as storage:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.put(b"x")
        answer = refused(failure.value)
        assert (answer.reason, answer.metadata) == ("STORAGE_UNAVAILABLE", {"backend": "local"})


@pytest.mark.parametrize(
    ("artifact", "field"),
    [
        ({"job": "job/1"}, "artifact.job"),
        ({"media_type": "film\r\nX: y"}, "artifact.media_type"),
        ({"language_code": "de de"}, "artifact.language_code"),
        ({"epoch": -1}, "artifact.epoch"),
        ({"tenant": "a\0b"}, "artifact.tenant"),
        ({"labels": {"Upper": "x"}}, "artifact.labels"),
        ({"labels": {"a": "x" * 257}}, "artifact.labels"),
        ({"ttl": {"seconds": -1}}, "artifact.ttl"),
        ({"expire_time": {"seconds": 1}}, "artifact.expire_time"),
    ],
)
async def test_bad_fields(storage: Running, artifact: dict, field: str):
    """What is out of bounds is refused with its field, and nothing is kept."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.put(b"x", **artifact)
    answer = refused(failure.value)
    assert (answer.reason, answer.metadata) == ("FIELD_INVALID", {"field": field})
    assert storage.staged() == storage.blobs() == []


async def test_only_for_the_suite(storage: Running):
    """Without the suite's credential nobody writes."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.stranger.WriteArtifact(messages(b"x", artifact={}))
    assert refused(failure.value).reason == "PERMISSION_INSUFFICIENT"
    with pytest.raises(grpc.aio.AioRpcError):
        await storage.stranger.FinishUpload(
            pb.FinishUploadRequest(name="uploads/x", total_checksums=checksums(b""), adopt_path="../secret")
        )
