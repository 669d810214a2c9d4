"""Artifacts: reading, listing, changing and deleting stored files."""

from __future__ import annotations

from datetime import UTC, timedelta

import google_crc32c
import grpc
import pytest
from tests.callers import Callers
from tests.storage.conftest import ON_BOTH, StorageService, error_details, random_bytes

from reelhaul.admin.v1.tenant_pb2 import Tenant
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.identity import Caller, caller, set_caller
from reelhaul_storage.api import queries

MIB = 1 << 20


async def test_read_range(storage: StorageService):
    """Any range is read correctly; each message carries its offset and checksum."""
    content = random_bytes(3 * MIB + 5)
    artifact = await storage.write_artifact(content)
    for offset, limit in ((0, 0), (0, 1), (1, 3 * MIB), (2 * MIB + 3, 0), (len(content) - 1, 100)):
        request = pb.ReadArtifactRequest(name=artifact.name, read_offset=offset, read_limit=limit)
        position, first = offset, True
        async for response in storage.suite.ReadArtifact(request):
            assert response.offset == position
            assert response.content == content[position : position + len(response.content)]
            assert response.crc32c == google_crc32c.value(response.content)
            assert response.HasField("artifact") == first
            position, first = position + len(response.content), False
        assert position == (min(offset + limit, len(content)) if limit else len(content))


async def test_read_invalid_range(storage: StorageService):
    """A range past the end, or a stale etag, is rejected before the first byte."""
    artifact = await storage.write_artifact(b"abc")
    invalid = {
        "RANGE_INVALID": {"read_offset": 3},
        "FIELD_INVALID": {"read_offset": -1},
        "ETAG_MISMATCH": {"etag": '"other"'},
    }
    for reason, range_ in invalid.items():
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.read(artifact.name, **range_)
        assert error_details(failure.value).reason == reason
    assert await storage.read(artifact.name, read_offset=1, etag=artifact.etag) == b"bc"


async def test_read_damaged_blob(storage: StorageService):
    """Bytes that changed or vanished on the disk fail the read with ARTIFACT_CORRUPT."""
    for damage in (
        lambda path: path.write_bytes(b"abd"),
        lambda path: path.write_bytes(b"a"),
        lambda p: p.unlink(),
    ):
        artifact = await storage.write_artifact(b"abc")
        (blob,) = storage.blob_files()
        blob.chmod(0o640)
        damage(blob)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.read(artifact.name)
        details = error_details(failure.value)
        assert (details.reason, details.code) == ("ARTIFACT_CORRUPT", grpc.StatusCode.DATA_LOSS)
        await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=artifact.name))


async def test_download(storage: StorageService):
    """DownloadArtifact sends the bytes and their media type."""
    artifact = await storage.write_artifact(b"video", media_type="video/mp4")
    parts = [p async for p in storage.client.DownloadArtifact(pb.DownloadArtifactRequest(name=artifact.name))]
    assert parts[0].content_type == "video/mp4"
    assert b"".join(part.data for part in parts) == b"video"


@ON_BOTH
async def test_delete_during_read(storage: StorageService):
    """A read that has started continues to the end although the artifact is deleted."""
    content = random_bytes(8 * MIB)
    artifact = await storage.write_artifact(content)
    reading = storage.suite.ReadArtifact(pb.ReadArtifactRequest(name=artifact.name))
    responses = aiter(reading)
    received = (await anext(responses)).content
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=artifact.name))
    assert storage.blob_keys() == []
    async for response in responses:
        received += response.content
    assert received == content


async def test_tenant_isolation(storage: StorageService, monkeypatch: pytest.MonkeyPatch):
    """Another tenant's artifact cannot be read, changed, deleted or listed."""
    other = await storage.write_artifact(b"theirs", tenant="theirs")
    own = await storage.write_artifact(b"ours", tenant="local")
    client, own_caller = storage.client, Callers(monkeypatch).of("local")
    update = pb.UpdateArtifactRequest(artifact={"name": other.name, "file_name": "x"})
    delete = pb.BatchDeleteArtifactsRequest(names=[own.name, other.name])
    calls = [
        client.GetArtifact(pb.GetArtifactRequest(name=other.name), metadata=own_caller),
        client.UpdateArtifact(update, metadata=own_caller),
        client.DeleteArtifact(pb.DeleteArtifactRequest(name=other.name), metadata=own_caller),
        client.BatchDeleteArtifacts(delete, metadata=own_caller),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        assert error_details(failure.value).metadata == {"resource": other.name}
    listed = await client.ListArtifacts(pb.ListArtifactsRequest(), metadata=own_caller)
    assert [artifact.name for artifact in listed.artifacts] == [own.name]
    assert await storage.read(other.name) == b"theirs"


async def test_update(storage: StorageService):
    """Name, labels and expiry can be changed; the etag changes too and prevents lost updates."""
    artifact = await storage.write_artifact(b"x", file_name="a", labels={"k": "v"})
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
    assert error_details(failure.value).metadata == {"resource": artifact.name, "etag": changed.etag}
    masked = pb.UpdateArtifactRequest(artifact={"name": artifact.name}, update_mask={"paths": ["labels"]})
    assert dict((await storage.suite.UpdateArtifact(masked)).labels) == {}
    masked.update_mask.paths[:] = ["tenant"]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.UpdateArtifact(masked)
    assert error_details(failure.value).metadata == {"field": "update_mask"}


async def test_list(storage: StorageService):
    """Artifacts are listed by filter and order; pages contain each artifact once."""
    job = "jobs/0191f0f0-0000-7000-8000-000000000001"
    artifacts = [
        await storage.write_artifact(b"x" * n, job=job if n % 2 else "", kind=media_pb2.ArtifactInfo.VIDEO)
        for n in range(5)
    ]
    names = [artifact.name for artifact in artifacts]

    async def list_names(**fields: object) -> list[str]:
        listed, token = [], ""
        while True:
            page = await storage.suite.ListArtifacts(
                pb.ListArtifactsRequest(page_size=2, page_token=token, **fields)
            )
            listed += [artifact.name for artifact in page.artifacts]
            token = page.next_page_token
            if not token:
                return listed

    assert await list_names() == names[::-1]
    assert await list_names(order_by="size_bytes") == names
    assert await list_names(filter=f'job = "{job}"') == [names[3], names[1]]
    assert await list_names(filter=f'job="{job}" AND size_bytes = 3 AND kind = VIDEO') == [names[3]]
    assert await list_names(filter="kind = AUDIO") == []
    assert await list_names(filter=" OR ".join([f'job = "{job}"'] * 150)) == [names[3], names[1]]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"filter": "job"}, "FILTER_INVALID"),
        ({"filter": 'secret = "x"'}, "FILTER_INVALID"),
        ({"filter": "size_bytes = many"}, "FILTER_INVALID"),
        ({"filter": "size_bytes = 9223372036854775808"}, "FILTER_INVALID"),
        ({"filter": 'labels = "a"'}, "FILTER_INVALID"),
        ({"filter": " OR ".join(['job = "a"'] * 201)}, "FILTER_INVALID"),
        ({"filter": 'job = "a" AND '}, "FILTER_INVALID"),
        ({"filter": "x" * 9000}, "FILTER_INVALID"),
        ({"order_by": "tenant"}, "ORDER_BY_INVALID"),
        ({"page_token": "AAAA"}, "PAGE_TOKEN_INVALID"),
        ({"page_token": "ä"}, "PAGE_TOKEN_INVALID"),
        ({"page_size": -1}, "FIELD_INVALID"),
    ],
)
async def test_list_invalid(storage: StorageService, fields: dict, reason: str):
    """An invalid list request is rejected with its reason."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.ListArtifacts(pb.ListArtifactsRequest(**fields))
    assert error_details(failure.value).reason == reason


async def test_page_token_of_another_list(storage: StorageService):
    """A page token is valid for its own list only."""
    for n in range(2):
        await storage.write_artifact(b"x" * n)
    page = await storage.suite.ListArtifacts(pb.ListArtifactsRequest(page_size=1))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.ListArtifacts(
            pb.ListArtifactsRequest(page_token=page.next_page_token, order_by="size_bytes")
        )
    assert error_details(failure.value).reason == "PAGE_TOKEN_INVALID"


async def test_retention_of_the_tenant(storage: StorageService, monkeypatch: pytest.MonkeyPatch):
    """A caller keeps an artifact for its tenant's retention at most; what asks for less is as it asks."""
    artifact = await storage.write_artifact(b"x", tenant="acme")
    tenant = Tenant(name="tenants/acme", retention={"seconds": 3600})
    key = Caller("acme", PermissionLevel.PERMISSION_LEVEL_DOWNLOAD, tenant_resource=tenant)
    caller_metadata = Callers(monkeypatch).metadata(key)
    for asked, kept in ((60, 60), (86_400, 3600)):
        request = pb.UpdateArtifactRequest(artifact={"name": artifact.name, "ttl": {"seconds": asked}})
        before = storage.clock()
        changed = await storage.client.UpdateArtifact(request, metadata=caller_metadata)
        seconds = (changed.expire_time.ToDatetime(UTC) - before).total_seconds()
        assert kept <= seconds <= kept + (storage.clock() - before).total_seconds()


async def test_summarize(storage: StorageService):
    """A tenant sees the number and size of its artifacts; an administrator sees those of all by filter."""
    for content, tenant in ((b"ours", "local"), (b"ours", "local"), (b"theirs", "theirs")):
        await storage.write_artifact(content, tenant=tenant, kind=media_pb2.ArtifactInfo.VIDEO)
    own = await storage.client.SummarizeArtifacts(pb.SummarizeArtifactsRequest(filter="kind = VIDEO"))
    assert (own.artifact_count, own.size_bytes) == (2, 8)
    assert [usage.tenant for usage in own.tenants] == ["local"]
    both = await storage.client.SummarizeArtifacts(pb.SummarizeArtifactsRequest(filter='tenant != ""'))
    assert [(usage.tenant, usage.size_bytes) for usage in both.tenants] == [("local", 8), ("theirs", 6)]
    set_caller(Caller("local", PermissionLevel.PERMISSION_LEVEL_DOWNLOAD))
    with pytest.raises(ReelhaulError) as failure:
        queries.parse_filter('tenant = "theirs"', caller())
    assert failure.value.reason == ErrorReason.FILTER_INVALID


@ON_BOTH
async def test_delete(storage: StorageService):
    """Bytes go with the last reference; deleting a missing artifact is an error unless allowed."""
    one, two = await storage.write_artifact(b"same"), await storage.write_artifact(b"same")
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=one.name))
    assert await storage.read(two.name) == b"same"
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=two.name, etag=two.etag))
    assert storage.blob_keys() == []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=two.name))
    assert error_details(failure.value).reason == "RESOURCE_NOT_FOUND"
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=two.name, allow_missing=True))


async def test_batch_delete(storage: StorageService):
    """All artifacts are deleted, or none if one is missing."""
    one, two = await storage.write_artifact(b"1"), await storage.write_artifact(b"2")
    missing = "artifacts/00000000-0000-4000-8000-000000000000"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.BatchDeleteArtifacts(
            pb.BatchDeleteArtifactsRequest(names=[one.name, missing, two.name])
        )
    assert error_details(failure.value).metadata == {"resource": missing}
    assert await storage.read(one.name) == b"1"
    await storage.suite.BatchDeleteArtifacts(pb.BatchDeleteArtifactsRequest(names=[one.name, two.name]))
    assert storage.blob_keys() == []


async def test_find(storage: StorageService):
    """Digests that the tenant stores are found, with one of its artifacts."""
    artifact = await storage.write_artifact(b"here", tenant="one")
    request = pb.FindArtifactsRequest(sha256=[artifact.checksums.sha256, b"\0" * 32], tenant="one")
    artifacts = (await storage.suite.FindArtifacts(request)).artifacts
    assert dict(artifacts) == {artifact.checksums.sha256.hex(): artifact.name}
    request.tenant = "two"
    assert not (await storage.suite.FindArtifacts(request)).artifacts


async def test_expired(storage: StorageService):
    """An expired artifact is no longer readable, and the error says why."""
    artifact = await storage.write_artifact(b"x", ttl={"seconds": 60})
    storage.clock.offset = timedelta(seconds=61)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.read(artifact.name)
    assert error_details(failure.value).reason == "ARTIFACT_EXPIRED"
