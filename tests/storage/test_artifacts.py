"""How bytes go out, and what may be asked of artifacts."""

from __future__ import annotations

from datetime import timedelta

import google_crc32c
import grpc
import pytest
from tests.storage.conftest import Running, noise, refused

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1 import media_pb2

MIB = 1 << 20


async def test_ranges(storage: Running):
    """Any range is read as it is; each message says where it is, and how to check it."""
    content = noise(3 * MIB + 5)
    artifact = await storage.put(content)
    for offset, limit in ((0, 0), (0, 1), (1, 3 * MIB), (2 * MIB + 3, 0), (len(content) - 1, 100)):
        request = pb.ReadArtifactRequest(name=artifact.name, read_offset=offset, read_limit=limit)
        at, first = offset, True
        async for message in storage.suite.ReadArtifact(request):
            assert message.offset == at
            assert message.content == content[at : at + len(message.content)]
            assert message.crc32c == google_crc32c.value(message.content)
            assert message.HasField("artifact") == first
            at, first = at + len(message.content), False
        assert at == (min(offset + limit, len(content)) if limit else len(content))


async def test_bad_ranges(storage: Running):
    """What starts past the end, or is of another version, is refused before the first byte."""
    artifact = await storage.put(b"abc")
    bad = {
        "RANGE_INVALID": {"read_offset": 3},
        "FIELD_INVALID": {"read_offset": -1},
        "ETAG_MISMATCH": {"etag": '"other"'},
    }
    for reason, range_ in bad.items():
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.get(artifact.name, **range_)
        assert refused(failure.value).reason == reason
    assert await storage.get(artifact.name, read_offset=1, etag=artifact.etag) == b"bc"


async def test_damaged_on_disk(storage: Running):
    """Bytes that changed or went on the disk are never passed off as whole."""
    for damage in (
        lambda path: path.write_bytes(b"abd"),
        lambda path: path.write_bytes(b"a"),
        lambda p: p.unlink(),
    ):
        artifact = await storage.put(b"abc")
        (blob,) = storage.blobs()
        blob.chmod(0o640)
        damage(blob)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.get(artifact.name)
        answer = refused(failure.value)
        assert (answer.reason, answer.code) == ("ARTIFACT_CORRUPT", grpc.StatusCode.DATA_LOSS)
        await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=artifact.name))


async def test_download(storage: Running):
    """Downloading gives the bytes and their media type."""
    artifact = await storage.put(b"film", media_type="video/mp4")
    parts = [
        p async for p in storage.stranger.DownloadArtifact(pb.DownloadArtifactRequest(name=artifact.name))
    ]
    assert parts[0].content_type == "video/mp4"
    assert b"".join(part.data for part in parts) == b"film"


async def test_reading_goes_on_while_deleted(storage: Running):
    """Who has begun to read reads to the end, though the artifact is deleted meanwhile."""
    content = noise(8 * MIB)
    artifact = await storage.put(content)
    reading = storage.suite.ReadArtifact(pb.ReadArtifactRequest(name=artifact.name))
    messages = aiter(reading)
    got = (await anext(messages)).content
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=artifact.name))
    assert storage.blobs() == []
    async for message in messages:
        got += message.content
    assert got == content


async def test_other_tenants(storage: Running):
    """Another tenant's artifact does not exist: not to read, change, delete or list."""
    foreign = await storage.put(b"theirs", tenant="theirs")
    own = await storage.put(b"ours", tenant="local")
    stranger = storage.stranger
    calls = [
        stranger.GetArtifact(pb.GetArtifactRequest(name=foreign.name)),
        stranger.UpdateArtifact(pb.UpdateArtifactRequest(artifact={"name": foreign.name, "file_name": "x"})),
        stranger.DeleteArtifact(pb.DeleteArtifactRequest(name=foreign.name)),
        stranger.BatchDeleteArtifacts(pb.BatchDeleteArtifactsRequest(names=[own.name, foreign.name])),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        assert refused(failure.value).metadata == {"resource": foreign.name}
    listed = await stranger.ListArtifacts(pb.ListArtifactsRequest())
    assert [artifact.name for artifact in listed.artifacts] == [own.name]
    assert await storage.get(foreign.name) == b"theirs"


async def test_update(storage: Running):
    """Name, labels and expiry change; the etag with them, and guards against lost changes."""
    artifact = await storage.put(b"x", file_name="a", labels={"k": "v"})
    request = pb.UpdateArtifactRequest(
        artifact={"name": artifact.name, "file_name": "b", "ttl": {"seconds": 60}}
    )
    changed = await storage.suite.UpdateArtifact(request)
    assert (changed.file_name, dict(changed.labels)) == ("b", {"k": "v"})
    assert changed.expire_time.ToDatetime() < artifact.expire_time.ToDatetime()
    assert changed.etag != artifact.etag
    request.artifact.etag = artifact.etag
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.UpdateArtifact(request)
    assert refused(failure.value).metadata == {"resource": artifact.name, "etag": changed.etag}
    masked = pb.UpdateArtifactRequest(artifact={"name": artifact.name}, update_mask={"paths": ["labels"]})
    assert dict((await storage.suite.UpdateArtifact(masked)).labels) == {}
    masked.update_mask.paths[:] = ["tenant"]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.UpdateArtifact(masked)
    assert refused(failure.value).metadata == {"field": "update_mask"}


async def test_list(storage: Running):
    """Artifacts are listed by filter and order, page by page, none twice and none left out."""
    job = "jobs/0191f0f0-0000-7000-8000-000000000001"
    made = [
        await storage.put(b"x" * n, job=job if n % 2 else "", kind=media_pb2.ArtifactInfo.VIDEO)
        for n in range(5)
    ]
    names = [artifact.name for artifact in made]

    async def listed(**asked: object) -> list[str]:
        found, token = [], ""
        while True:
            page = await storage.suite.ListArtifacts(
                pb.ListArtifactsRequest(page_size=2, page_token=token, **asked)
            )
            found += [artifact.name for artifact in page.artifacts]
            token = page.next_page_token
            if not token:
                return found

    assert await listed() == names[::-1]
    assert await listed(order_by="size_bytes") == names
    assert await listed(filter=f'job = "{job}"') == [names[3], names[1]]
    assert await listed(filter=f'job="{job}" AND size_bytes = 3 AND kind = VIDEO') == [names[3]]
    assert await listed(filter="kind = AUDIO") == []


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"filter": "job"}, "FILTER_INVALID"),
        ({"filter": 'secret = "x"'}, "FILTER_INVALID"),
        ({"filter": "size_bytes = many"}, "FILTER_INVALID"),
        ({"filter": 'job = "a" OR job = "b"'}, "FILTER_INVALID"),
        ({"filter": 'job = "a" AND '}, "FILTER_INVALID"),
        ({"filter": "x" * 3000}, "FILTER_INVALID"),
        ({"order_by": "tenant"}, "ORDER_BY_INVALID"),
        ({"page_token": "AAAA"}, "PAGE_TOKEN_INVALID"),
        ({"page_token": "ä"}, "PAGE_TOKEN_INVALID"),
        ({"page_size": -1}, "FIELD_INVALID"),
    ],
)
async def test_bad_lists(storage: Running, asked: dict, reason: str):
    """A list that cannot be understood is refused, with the reason."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.ListArtifacts(pb.ListArtifactsRequest(**asked))
    assert refused(failure.value).reason == reason


async def test_page_token_of_another_list(storage: Running):
    """A page token goes on with its own list only."""
    for n in range(2):
        await storage.put(b"x" * n)
    page = await storage.suite.ListArtifacts(pb.ListArtifactsRequest(page_size=1))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.ListArtifacts(
            pb.ListArtifactsRequest(page_token=page.next_page_token, order_by="size_bytes")
        )
    assert refused(failure.value).reason == "PAGE_TOKEN_INVALID"


async def test_delete(storage: Running):
    """Bytes go with the last artifact that means them; deleting again is told, or allowed."""
    one, two = await storage.put(b"same"), await storage.put(b"same")
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=one.name))
    assert await storage.get(two.name) == b"same"
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=two.name, etag=two.etag))
    assert storage.blobs() == []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=two.name))
    assert refused(failure.value).reason == "RESOURCE_NOT_FOUND"
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=two.name, allow_missing=True))


async def test_delete_many(storage: Running):
    """All are deleted, or none where one is missing."""
    one, two = await storage.put(b"1"), await storage.put(b"2")
    missing = "artifacts/00000000-0000-4000-8000-000000000000"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.BatchDeleteArtifacts(
            pb.BatchDeleteArtifactsRequest(names=[one.name, missing, two.name])
        )
    assert refused(failure.value).metadata == {"resource": missing}
    assert await storage.get(one.name) == b"1"
    await storage.suite.BatchDeleteArtifacts(pb.BatchDeleteArtifactsRequest(names=[one.name, two.name]))
    assert storage.blobs() == []


async def test_find(storage: Running):
    """Digests that the tenant has stored are found, with an artifact of theirs."""
    artifact = await storage.put(b"here", tenant="one")
    request = pb.FindArtifactsRequest(sha256=[artifact.checksums.sha256, b"\0" * 32], tenant="one")
    found = (await storage.suite.FindArtifacts(request)).artifacts
    assert dict(found) == {artifact.checksums.sha256.hex(): artifact.name}
    request.tenant = "two"
    assert not (await storage.suite.FindArtifacts(request)).artifacts


async def test_expired(storage: Running):
    """Past its time an artifact is gone at once, and says so."""
    artifact = await storage.put(b"x", ttl={"seconds": 60})
    storage.clock.ahead = timedelta(seconds=61)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.get(artifact.name)
    assert refused(failure.value).reason == "ARTIFACT_EXPIRED"


async def test_not_served_yet(storage: Running):
    """What this build does not do says so."""
    artifact = await storage.put(b"x")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.SignArtifactUrl(pb.SignArtifactUrlRequest(name=artifact.name))
    assert refused(failure.value).reason == "METHOD_UNSUPPORTED"
