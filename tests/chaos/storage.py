"""Inspection of storage after a run: read through its API, with the clock set past every retention time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

from grpc import aio
from sqlalchemy import text
from tests.chaos.audit import JobRow, open_engine
from tests.chaos.invariants import StoredFiles
from tests.s3_server import S3Server

from reelhaul.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_storage.app import running
from reelhaul_storage.settings import Settings

_SERVICE = storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"]
# Later than the retention of uploads and of unconfirmed artifacts, sooner than that of results, 7 days.
_CLOCK_OFFSET = timedelta(days=3)
_TOKEN = "chaos"
_SWEEP_TIMEOUT = 10.0


async def inspect_storage(
    data_dir: Path, database_url: str, rows: Sequence[JobRow], s3: S3Server | None = None
) -> StoredFiles:
    """Run storage on *data_dir* with its clock three days ahead, and return what it holds after sweeping.

    *rows*: the jobs whose artifacts are read. *s3*: server that has the artifacts, if not the disk.
    """
    if s3 is not None:
        os.environ.update(s3.credentials())
    settings = Settings(
        data_dir=data_dir,
        storage_address="127.0.0.1:0",
        storage_http_address="127.0.0.1:0",
        storage_url=s3.storage_url() if s3 else "",
        storage_database_url=database_url,
        storage_sweep_seconds=0.2,
        suite_token=_TOKEN,
        drain_seconds=1,
    )
    async with (
        running(settings, now=lambda: datetime.now(UTC) + _CLOCK_OFFSET) as port,
        open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as channel,
    ):
        list_stored = partial(_list_objects, s3) if s3 else partial(list_files, data_dir / "artifacts")
        orphans = await _wait_for_sweep(list_stored, settings.database_url)
        stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        names = [name for row in rows if not row.deleted for _, name in row.artifacts]
        read = {name: await _read_digest(stub, name) for name in names}
    artifacts = {id_: (job, epoch) for id_, job, epoch, _ in _list_artifacts(settings.database_url)}
    work = data_dir / "work"
    left = sorted(path.name for path in work.iterdir()) if work.exists() else []
    return StoredFiles(artifacts, read, orphans, left)


async def _wait_for_sweep(list_stored: Callable[[], set[str]], database_url: str) -> list[str]:
    """Return the orphans that are left when the sweeps have had time to remove them."""
    end = asyncio.get_running_loop().time() + _SWEEP_TIMEOUT
    while True:
        orphans = await asyncio.to_thread(_find_orphans, list_stored, database_url)
        if not orphans or asyncio.get_running_loop().time() > end:
            return orphans
        await asyncio.sleep(0.1)


def _find_orphans(list_stored: Callable[[], set[str]], database_url: str) -> list[str]:
    """Return what is stored and belongs to no artifact."""
    referenced = {f"blobs/{key}" for _, _, _, key in _list_artifacts(database_url)}
    return sorted(list_stored() - referenced)


def list_files(folder: Path) -> set[str]:
    """Return the paths of all files, relative to *folder*; without hidden ones, which are locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)) for path in files}


def _list_objects(s3: S3Server) -> set[str]:
    """Return the keys of all objects, and a line for each open multipart upload."""
    return {*s3.list_keys(), *(f"multipart upload of {key}" for key in s3.list_multipart_uploads())}


def _list_artifacts(database_url: str) -> list[tuple[str, str, int, str]]:
    """Return id, job, epoch and blob key of every artifact."""
    engine = open_engine(database_url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT id, job, epoch, key FROM artifacts")).fetchall()
            return [(id_, job, epoch, key) for id_, job, epoch, key in rows]
    finally:
        engine.dispose()


async def _read_digest(stub: storage_service_pb2_grpc.StorageServiceStub, name: str) -> str:
    """Read the artifact *name* and return its SHA-256 in hex, or the error that it cannot be read with."""
    digest = sha256()
    request = storage_service_pb2.ReadArtifactRequest(name=name)
    try:
        async for response in stub.ReadArtifact(request, timeout=30):
            digest.update(response.content)
    except aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return digest.hexdigest()
