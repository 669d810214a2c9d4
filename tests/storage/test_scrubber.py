"""Scrubber: stored bytes are read again, damage is reported, and the same content heals it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from tests.s3_server import BUCKET, S3Server
from tests.storage.conftest import (
    Clock,
    StartStorage,
    StorageService,
    error_details,
    random_bytes,
    wait_until,
)

from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime import identity
from reelhaul_runtime.sql import migrations
from reelhaul_storage.catalog.store import SqlCatalog
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.model import Chunk, ExpectedChecksums, NewArtifact
from reelhaul_storage.s3.blobs import S3BlobStore
from reelhaul_storage.s3.location import parse_location
from reelhaul_storage.service.scrubber import Scrubber
from reelhaul_storage.service.uploads import Uploads

_WEEK = timedelta(days=7, minutes=1)
_MIB = 1 << 20


def _flip_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _append_byte(content: bytes) -> bytes:
    return content + b"x"


def _truncate(content: bytes) -> bytes:
    return content[:-1]


def _delete(_: bytes) -> None:
    return None


def _damage(storage: StorageService, key: str, damage: Callable[[bytes], bytes | None]) -> None:
    """Replace the bytes of blob *key* by what *damage* makes of them; delete them if that is None."""
    if storage.bucket is not None:
        client = storage.bucket[0].client()
        damaged = damage(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        if damaged is None:
            client.delete_object(Bucket=BUCKET, Key=key)
        else:
            client.put_object(Bucket=BUCKET, Key=key, Body=damaged)
        return
    path = next(path for path in storage.blob_files() if path.name == key)
    path.chmod(0o640)
    damaged = damage(path.read_bytes())
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)


async def _get(storage: StorageService, artifact: artifact_pb2.Artifact) -> artifact_pb2.Artifact:
    return await storage.suite.GetArtifact(pb.GetArtifactRequest(name=artifact.name))


async def _is_damaged(storage: StorageService, artifact: artifact_pb2.Artifact) -> bool:
    return (await _get(storage, artifact)).HasField("damage_time")


async def _read_error(storage: StorageService, artifact: artifact_pb2.Artifact, **range_: int) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.read(artifact.name, **range_)
    details = error_details(failure.value)
    return f"{details.reason} {details.metadata.get('resource')}"


async def _damaged_count(storage: StorageService) -> int:
    return (await storage.suite.GetStorageStatus(pb.GetStorageStatusRequest())).damaged_count


@pytest.mark.parametrize("backend", ["disk", "s3"], indirect=True)
async def test_damage_is_found_and_healed(start_storage: StartStorage):
    """Bytes are read again after a week; damage fails every read, and heals when they are stored again."""
    month = {"seconds": 30 * 86_400}
    contents = [random_bytes(_MIB + n) for n in range(5)]
    async with start_storage() as storage:
        intact, damaged = await storage.write_artifact(contents[0], ttl=month), []
        for content, damage in zip(contents[1:], (_flip_byte, _append_byte, _truncate, _delete), strict=True):
            before = set(storage.blob_keys())
            damaged.append(await storage.write_artifact(content, ttl=month))
            (key,) = set(storage.blob_keys()) - before
            _damage(storage, key, damage)
    async with start_storage(clock_offset=_WEEK, storage_scrub_bytes_per_second=1 << 40) as storage:
        for artifact in damaged:
            await wait_until(lambda artifact=artifact: _is_damaged(storage, artifact))
            assert await _read_error(storage, artifact, read_limit=1) == f"ARTIFACT_CORRUPT {artifact.name}"
        await wait_until(lambda: _is_verified_again(storage, intact))
        assert await _damaged_count(storage) == 4
        request = pb.ListArtifactsRequest(filter="damage_time > 1970-01-02", order_by="create_time")
        listed = (await storage.suite.ListArtifacts(request)).artifacts
        assert [each.name for each in listed] == [each.name for each in damaged]
        for artifact, content in zip(damaged, contents[1:], strict=True):
            assert not (await storage.create_upload(content)).content_exists
            again = await storage.write_artifact(content)
            assert await storage.read(again.name) == await storage.read(artifact.name) == content
        assert await _damaged_count(storage) == 0
        assert len(storage.blob_keys()) == 5


async def _is_verified_again(storage: StorageService, artifact: artifact_pb2.Artifact) -> bool:
    return (await _get(storage, artifact)).verify_time.ToDatetime() > artifact.verify_time.ToDatetime()


async def test_read_records_damage(storage: StorageService):
    """A read that finds damage records it: the next one fails before its first byte."""
    artifact = await storage.write_artifact(random_bytes(_MIB))
    _damage(storage, storage.blob_keys()[0], _flip_byte)
    assert await storage.read(artifact.name, read_limit=10)
    assert (await _read_error(storage, artifact)).startswith("ARTIFACT_CORRUPT")
    assert (await _read_error(storage, artifact, read_limit=10)).startswith("ARTIFACT_CORRUPT")
    assert await _damaged_count(storage) == 1


async def test_missing_folder_is_no_damage(start_storage: StartStorage):
    """While the folder is gone, reads and uploads fail, and readiness; afterwards they go on as before."""
    async with start_storage() as storage:
        content = random_bytes(1000)
        artifact = await storage.write_artifact(content)
        upload = await storage.create_upload(b"half of it")
        folder = storage.folder / "artifacts"
        folder.rename(folder.with_name("away"))
        assert (await _read_error(storage, artifact)).startswith("STORAGE_UNAVAILABLE")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.write_upload(upload.name, b"half ")
        assert error_details(failure.value).reason == "STORAGE_UNAVAILABLE"
        await wait_until(lambda: _is_serving(storage, serving=False))
        status = await storage.suite.GetStorageStatus(pb.GetStorageStatusRequest())
        assert (bool(status.problem), status.HasField("latency")) == (True, False)
        folder.with_name("away").rename(folder)
        await wait_until(lambda: _is_serving(storage, serving=True))
        assert await storage.read(artifact.name) == content
        await storage.write_upload(upload.name, b"half of it")
        assert await storage.read((await storage.finish_upload(upload.name, b"half of it")).name)
        status = await storage.suite.GetStorageStatus(pb.GetStorageStatusRequest())
        assert (status.damaged_count, status.problem, status.HasField("latency")) == (0, "", True)
        assert 0 < status.free_bytes < status.total_bytes


async def test_start_without_the_folder(start_storage: StartStorage):
    """Storage that starts while its disk is not mounted serves again once it is; it does not begin anew."""
    async with start_storage() as storage:
        artifact, folder = await storage.write_artifact(b"here"), storage.folder / "artifacts"
    folder.rename(folder.with_name("away"))
    async with start_storage() as storage:
        assert (await _read_error(storage, artifact)).startswith("STORAGE_UNAVAILABLE")
        await wait_until(lambda: _is_serving(storage, serving=False))
        assert not folder.exists()
        folder.with_name("away").rename(folder)
        await wait_until(lambda: _is_serving(storage, serving=True))
        assert await storage.read(artifact.name) == b"here"
        assert await storage.read((await storage.write_artifact(b"more")).name) == b"more"


async def _is_serving(storage: StorageService, *, serving: bool) -> bool:
    return await storage.is_serving() is serving


async def test_rate(start_storage: StartStorage):
    """No more bytes per second are read than the setting says, and none at 0."""
    async with start_storage() as storage:
        for _ in range(2):
            await storage.write_artifact(random_bytes(_MIB // 2), ttl={"seconds": 30 * 86_400})
    async with start_storage(clock_offset=_WEEK, storage_scrub_bytes_per_second=2 * _MIB) as storage:
        start = asyncio.get_running_loop().time()
        await wait_until(lambda: _is_everything_verified(storage))
        assert asyncio.get_running_loop().time() - start > 0.4


async def _is_everything_verified(storage: StorageService) -> bool:
    status = await storage.suite.GetStorageStatus(pb.GetStorageStatusRequest())
    return status.oldest_verify_time.ToDatetime() > (storage.clock() - timedelta(hours=1)).replace(
        tzinfo=None
    )


async def test_missing_bucket_is_no_damage(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A missing bucket, which S3 answers with 404 as a missing object, is no damage; a missing object is."""
    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)
    s3_server.create_bucket("gone")
    client, url = s3_server.client(), f"sqlite:///{tmp_path}/storage.db"
    migrations.migrate(url, "reelhaul_storage", "")
    location = parse_location(s3_server.storage_url(bucket="gone"))
    async with SqlCatalog.open(url) as catalog, S3BlobStore.open(location) as blobs:
        identity.set_caller(identity.Caller("one", PermissionLevel.PERMISSION_LEVEL_ADMIN))
        uploads = Uploads(catalog, blobs, Clock(), max_bytes=_MIB)
        draft = NewArtifact(tenant="", expire_time=Clock()() + timedelta(days=30))
        artifact = await uploads.write_artifact(draft, _chunks(b"video"))
        client.delete_object(Bucket="gone", Key=f"blobs/{artifact.key}")
        client.delete_bucket(Bucket="gone")
        scrubber = Scrubber(catalog, blobs, Clock(timedelta(days=8)), _MIB)
        with pytest.raises(BackendUnavailable):
            await scrubber.verify_next()
        s3_server.create_bucket("gone")
        scrubber = Scrubber(catalog, blobs, Clock(timedelta(days=10)), _MIB)
        assert await scrubber.verify_next()
        assert (await catalog.get_blob_health()).damaged == 1


async def _chunks(content: bytes) -> AsyncIterator[Chunk]:
    yield Chunk(0, content, finish=ExpectedChecksums(hashlib.sha256(content).hexdigest()))
