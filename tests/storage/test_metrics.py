"""Metrics of storage: they equal what was stored, read, refused, scrubbed and deleted."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import pytest
from grpc import aio
from tests.metric_values import MetricChanges
from tests.scrapes import parse, total
from tests.storage.conftest import ON_BOTH, StartStorage, StorageService, write_requests

from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul_runtime.metrics.http_server import serving_metrics

CONTENT = b"0123456789" * 10_000
OPERATIONS, UPLOADS = "reelhaul_storage_operations_total", "reelhaul_storage_uploads_total"


@ON_BOTH
async def test_uploads_and_bytes(storage: StorageService, backend: str):
    """Each upload has its result; bytes are written once for the same content, and read as often as asked."""
    changes = MetricChanges()
    artifact = await storage.write_artifact(CONTENT)
    await storage.write_artifact(CONTENT)
    assert await storage.read(artifact.name) == CONTENT
    assert await storage.read(artifact.name, read_offset=10, read_limit=20) == CONTENT[10:30]
    assert changes.total(UPLOADS, result="stored") == 1
    assert changes.total(UPLOADS, result="deduplicated") == 1
    assert changes.total("reelhaul_storage_bytes_total", direction="written") == len(CONTENT)
    assert changes.total("reelhaul_storage_bytes_total", direction="read") == len(CONTENT) + 20
    label = "local" if backend == "disk" else "s3"
    assert changes.total(OPERATIONS, backend=label, operation="read", outcome="ok") == 2
    assert changes.total(OPERATIONS, backend=label, operation="publish", outcome="ok") == 2
    assert changes.total("reelhaul_storage_operation_seconds_count", backend=label, operation="read") == 2


async def test_refused_uploads(storage: StorageService):
    """Content that does not have its checksum is refused, and counted once."""
    changes = MetricChanges()
    requests = write_requests(CONTENT, whole=b"other", artifact=artifact_pb2.Artifact())
    with pytest.raises(aio.AioRpcError):
        await storage.suite.WriteArtifact(requests)
    assert changes.total(UPLOADS, result="refused") == 1
    assert changes.total(UPLOADS, result="stored") == 0


async def test_missing_blob_is_counted(storage: StorageService):
    """A read of bytes that are gone is an operation that was refused, and no success."""
    artifact = await storage.write_artifact(CONTENT)
    (file,) = storage.blob_files()
    file.unlink()
    changes = MetricChanges()
    with pytest.raises(aio.AioRpcError):
        await storage.read(artifact.name)
    assert changes.total(OPERATIONS, operation="read", outcome="refused") == 1
    assert changes.total(OPERATIONS, operation="read", outcome="ok") == 0


@ON_BOTH
async def test_deleted_bytes(storage: StorageService):
    """Deleting the last artifact of a content counts its bytes; deleting another one of it counts none."""
    first, second = await storage.write_artifact(CONTENT), await storage.write_artifact(CONTENT)
    changes = MetricChanges()
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=first.name))
    assert changes.total("reelhaul_storage_deleted_bytes_total") == 0
    await storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=second.name))
    assert changes.total("reelhaul_storage_deleted_bytes_total") == len(CONTENT)


async def test_scrub(start_storage: StartStorage):
    """The scrub counts the bytes that it reads, and what it finds damaged by what is wrong."""
    ttl = {"storage_default_ttl_days": 100}
    async with start_storage(storage_scrub_bytes_per_second=0, **ttl) as storage:
        await storage.write_artifact(CONTENT)
        (file,) = storage.blob_files()
        file.chmod(0o600)
        file.write_bytes(b"x" * len(CONTENT))
    changes = MetricChanges()
    scrubbing = start_storage(timedelta(days=30), storage_scrub_bytes_per_second=1 << 30, **ttl)
    async with scrubbing, asyncio.timeout(20):
        while not changes.total("reelhaul_storage_scrub_errors_total", kind="corrupt"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert changes.total("reelhaul_storage_scrubbed_bytes_total") == len(CONTENT)
    assert changes.total("reelhaul_storage_scrub_errors_total", kind="missing") == 0


async def test_link_requests(storage: StorageService):
    """Requests of links are counted by the status that they got."""
    artifact = await storage.write_artifact(CONTENT)
    link = (await storage.suite.SignArtifactUrl(pb.SignArtifactUrlRequest(name=artifact.name))).url
    changes = MetricChanges()
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(link)).content == CONTENT
        assert (await client.get(link + "0")).status_code == 403
    assert changes.total("reelhaul_link_requests_total", code="200") == 1
    assert changes.total("reelhaul_link_requests_total", code="403") == 1


async def test_scrape(storage: StorageService):
    """A scrape has the rows of the catalog, the connections of the database, and the disk of the blobs."""
    await storage.write_artifact(CONTENT)
    await storage.write_artifact(CONTENT)
    async with serving_metrics("127.0.0.1:0") as port, httpx.AsyncClient(trust_env=False) as client:
        samples = parse((await client.get(f"http://127.0.0.1:{port}/metrics")).text)
    assert total(samples, "reelhaul_artifacts") == 2
    assert total(samples, "reelhaul_artifact_bytes") == len(CONTENT)
    assert total(samples, "reelhaul_damaged_blobs") == 0
    assert total(samples, "reelhaul_database_connections", database="storage.database", state="max") == 7
    free = total(samples, "reelhaul_disk_bytes", folder="artifacts", state="free")
    assert 0 < free <= total(samples, "reelhaul_disk_bytes", folder="artifacts", state="total")
    assert total(samples, "reelhaul_ready") == 1
