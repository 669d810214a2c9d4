"""Direct uploads: a client sends the parts of an upload to S3 itself."""

from __future__ import annotations

import asyncio
import io
import zipfile

import google_crc32c
import grpc
import httpx
import pytest
from tests.s3_server import S3Server
from tests.storage.conftest import StorageService, checksums, error_details, random_bytes, write_requests

from reelhaul.storage.v1 import artifact_pb2, upload_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb

MIB = 1 << 20

pytestmark = pytest.mark.parametrize("backend", ["s3"], indirect=True)


async def create(storage: StorageService, content: bytes, **artifact: object) -> upload_pb2.Upload:
    upload = upload_pb2.Upload(
        artifact=artifact_pb2.Artifact(**artifact), total_size=len(content), direct=True
    )
    return await storage.suite.CreateUpload(pb.CreateUploadRequest(upload=upload))


async def send(upload: upload_pb2.Upload, content: bytes, *numbers: int) -> dict[int, str]:
    """Send the parts of *content* with *numbers*, or all; return their ETags."""
    etags = {}
    async with httpx.AsyncClient(trust_env=False) as client:
        for number in numbers or range(1, len(upload.part_urls) + 1):
            part = content[(number - 1) * upload.part_size : number * upload.part_size]
            response = await client.put(upload.part_urls[number - 1], content=part)
            etags[number] = response.raise_for_status().headers["etag"]
    return etags


async def finish(
    storage: StorageService, upload: upload_pb2.Upload, content: bytes, etags: dict[int, str]
) -> artifact_pb2.Artifact:
    request = pb.FinishUploadRequest(name=upload.name, total_checksums=checksums(content))
    request.total_checksums.crc32c = google_crc32c.value(content)
    for number, etag in etags.items():
        request.parts.add(number=number, etag=etag)
    return await storage.suite.FinishUpload(request)


async def refuse_finish(
    storage: StorageService, upload: upload_pb2.Upload, content: bytes, etags: dict[int, str]
) -> str:
    """Return the reason for which the finish is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await finish(storage, upload, content, etags)
    return error_details(failure.value).reason


async def test_send_parts(storage: StorageService):
    """Parts sent to S3 become an artifact that is not verified yet; finishing again returns the same one."""
    content = random_bytes(9 * MIB)
    upload = await create(storage, content, file_name="video.mp4")
    assert (len(upload.part_urls), upload.part_size) == (2, 8 * MIB)
    etags = await send(upload, content)
    artifact = await finish(storage, upload, content, etags)
    assert await finish(storage, upload, content, etags) == artifact
    assert (artifact.backend, artifact.HasField("verify_time")) == ("s3", False)
    assert await storage.read(artifact.name) == content
    assert (
        await storage.read(artifact.name, read_offset=8 * MIB - 1, read_limit=2) == content[8 * MIB - 1 :][:2]
    )
    assert storage.staged() == []


async def test_small_file(storage: StorageService):
    """A file smaller than a part is one part; an empty one has no URLs."""
    upload = await create(storage, b"video")
    assert len(upload.part_urls) == 1
    artifact = await finish(storage, upload, b"video", await send(upload, b"video"))
    assert await storage.read(artifact.name) == b"video"
    assert not (await create(storage, b"")).part_urls


async def test_resume(storage: StorageService):
    """Parts stay there: only the missing ones are sent to the URLs of a later response."""
    content = random_bytes(17 * MIB)
    upload = await create(storage, content)
    etags = await send(upload, content, 1, 3)
    assert await refuse_finish(storage, upload, content, etags) == "FIELD_INVALID"
    upload = await storage.suite.GetUpload(pb.GetUploadRequest(name=upload.name))
    assert upload.persisted_size == 8 * MIB
    etags |= await send(upload, content, 2)
    artifact = await finish(storage, upload, content, etags)
    assert await storage.read(artifact.name) == content


async def test_killed_server(storage: StorageService, s3_server: S3Server):
    """Parts survive a kill of S3, and their URLs stay valid."""
    content = random_bytes(9 * MIB)
    upload = await create(storage, content)
    etags = await send(upload, content, 1)
    s3_server.kill()
    try:
        with pytest.raises(httpx.TransportError):
            await send(upload, content, 2)
        assert await refuse_finish(storage, upload, content, {1: "x", 2: "y"}) == "STORAGE_UNAVAILABLE"
    finally:
        await asyncio.to_thread(s3_server.start)
    etags |= await send(upload, content, 2)
    artifact = await finish(storage, upload, content, etags)
    assert await storage.read(artifact.name) == content


async def test_wrong_parts(storage: StorageService):
    """A finish with an ETag that S3 does not have, or with bytes missing, is refused and can be repeated."""
    content = random_bytes(9 * MIB)
    upload = await create(storage, content)
    await send(upload, random_bytes(9 * MIB), 2)
    etags = await send(upload, content)
    for wrong in (etags | {2: '"0123456789abcdef0123456789abcdef"'}, {1: etags[1]}):
        assert await refuse_finish(storage, upload, content, wrong) == "WRITE_OFFSET_CONFLICT"
    for invalid in ({2: etags[2]}, etags | {2: ""}, etags | {2: "x" * 200}):
        assert await refuse_finish(storage, upload, content, invalid) == "FIELD_INVALID"
    artifact = await finish(storage, upload, content, etags)
    assert await storage.read(artifact.name) == content


async def test_content_of_another_tenant(storage: StorageService):
    """Who states the digest of another tenant's content gets it only if these bytes were sent indeed."""
    content = random_bytes(9 * MIB)
    await storage.write_artifact(content, tenant="one")
    thief = await create(storage, content, tenant="two")
    etags = await send(thief, bytes(len(content)))
    for _ in range(2):
        reason = await refuse_finish(storage, thief, content, etags)
        assert reason in ("WRITE_CHECKSUM_MISMATCH", "WRITE_OFFSET_CONFLICT")
    honest = await create(storage, content, tenant="two")
    artifact = await finish(storage, honest, content, await send(honest, content))
    assert artifact.HasField("verify_time")
    assert await storage.read(artifact.name) == content
    assert len(storage.blob_keys()) == 1


async def test_false_digest(storage: StorageService):
    """Bytes that were sent under a false digest are replaced by the first ones that have it."""
    content = random_bytes(9 * MIB)
    liar = await create(storage, content, tenant="one")
    await finish(storage, liar, content, await send(liar, bytes(len(content))))
    for attempt in (
        storage.write_artifact(content, tenant="two"),
        storage.write_artifact(content, tenant="three"),
    ):
        assert await storage.read((await attempt).name) == content


async def test_deleted_upload(storage: StorageService, s3_server: S3Server):
    """A deleted upload leaves no part and no multipart upload; its URLs are worthless."""
    upload = await create(storage, random_bytes(MIB))
    await send(upload, b"x", 1)
    await storage.suite.DeleteUpload(pb.DeleteUploadRequest(name=upload.name))
    assert storage.staged() == storage.blob_keys() == []
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.put(upload.part_urls[0], content=b"x")).status_code == 404


async def test_written_after_all(storage: StorageService):
    """A client that got URLs may send everything through storage instead."""
    content = random_bytes(9 * MIB)
    upload = await create(storage, content)
    await storage.suite.WriteArtifact(write_requests(content, finish=False, upload=upload.name))
    artifact = await storage.finish_upload(upload.name, content)
    assert artifact.HasField("verify_time")
    assert await storage.read(artifact.name) == content


async def test_false_digest_of_an_interrupted_finish(storage: StorageService):
    """A client whose finish failed after it claimed a digest neither gets nor replaces others' bytes."""
    content, false = random_bytes(10 * MIB), bytes(10 * MIB)
    liar = await create(storage, content, tenant="one")
    # S3 does not join parts of less than 5 MiB.
    parts = false[: 4 * MIB].ljust(8 * MIB, b"\1") + false[: 6 * MIB]
    small = await send(liar, parts[: 4 * MIB], 1) | await send(liar, parts, 2)
    assert await refuse_finish(storage, liar, content, small) == "WRITE_OFFSET_CONFLICT"
    honest = await storage.write_artifact(content, tenant="two")
    etags = await send(liar, false)
    for sent in (etags, etags, {}):
        reason = await refuse_finish(storage, liar, content, sent)
        assert reason in ("WRITE_OFFSET_CONFLICT", "WRITE_CHECKSUM_MISMATCH")
    assert await storage.read(honest.name) == content


async def test_false_checksums_and_archives(storage: StorageService):
    """Who states a false size and CRC32C damages neither the artifacts nor the archives of others."""
    content, false = random_bytes(9 * MIB), random_bytes(8 * MIB)
    liar = await create(storage, false, tenant="one")
    request = pb.FinishUploadRequest(name=liar.name, total_checksums=checksums(content))
    request.total_checksums.crc32c = google_crc32c.value(false)
    request.parts.add(number=1, etag=(await send(liar, false))[1])
    lie = await storage.suite.FinishUpload(request)
    assert await archive(storage, lie)
    honest = await storage.write_artifact(content, tenant="two")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.read(lie.name)
    assert error_details(failure.value).reason == "ARTIFACT_CORRUPT"
    assert await storage.read(honest.name) == content
    with zipfile.ZipFile(io.BytesIO(await archive(storage, honest))) as file:
        assert file.testzip() is None


async def archive(storage: StorageService, artifact: artifact_pb2.Artifact) -> bytes:
    """Return an archive of *artifact*."""
    pieces = storage.suite.ArchiveArtifacts(pb.ArchiveArtifactsRequest(names=[artifact.name]))
    return b"".join([piece.data async for piece in pieces])
