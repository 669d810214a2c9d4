"""What storage has in the end: read through its API, at a time when all that may be swept is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from grpc import aio
from sqlalchemy import create_engine, make_url, text
from tests.chaos.audit import Row
from tests.chaos.invariants import Stored

from reelhaul.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_storage.app import running
from reelhaul_storage.settings import Settings

_SERVICE = storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"]
# Past the life of uploads and of artifacts that no job confirmed; before that of results, 7 days.
_LATER = timedelta(days=3)
# Of a service that lives for this check alone.
_TOKEN = "chaos"
_SWEEP_SECONDS = 10.0


async def stored(data_dir: Path, database_url: str, rows: Sequence[Row]) -> Stored:
    """What the storage of *data_dir*, whose suite has ended, has three days later; *rows* are the jobs."""
    settings = Settings(
        data_dir=data_dir,
        storage_address="127.0.0.1:0",
        storage_database_url=database_url,
        storage_sweep_seconds=0.2,
        suite_token=_TOKEN,
        drain_seconds=1,
    )
    async with (
        running(settings, now=lambda: datetime.now(UTC) + _LATER) as port,
        open_channel(f"127.0.0.1:{port}", [_SERVICE], suite_token=_TOKEN) as opened,
    ):
        strays = await _swept(data_dir / "artifacts", settings.database_url)
        stub = storage_service_pb2_grpc.StorageServiceStub(opened)
        names = [name for row in rows if not row.deleted for _, name in row.artifacts]
        read = {name: await _digest(stub, name) for name in names}
    found = {id_: (job, epoch) for id_, job, epoch, _ in _artifacts(settings.database_url)}
    work = data_dir / "work"
    left = sorted(path.name for path in work.iterdir()) if work.exists() else []
    return Stored(found, read, strays, left)


async def _swept(folder: Path, database_url: str) -> list[str]:
    """What no artifact means, once the sweeps have had the time to remove it."""
    end = asyncio.get_running_loop().time() + _SWEEP_SECONDS
    while (left := _strays(folder, database_url)) and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return left


def _strays(folder: Path, database_url: str) -> list[str]:
    meant = {f"blobs/{key}" for _, _, _, key in _artifacts(database_url)}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return sorted(there - meant)


def _artifacts(database_url: str) -> list[tuple[str, str, int, str]]:
    """Id, job, epoch and blob key of every artifact."""
    url = make_url(database_url)
    engine = create_engine(url.set(drivername="postgresql+psycopg") if "postgres" in url.drivername else url)
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT id, job, epoch, key FROM artifacts")).fetchall()
            return [(id_, job, epoch, key) for id_, job, epoch, key in found]
    finally:
        engine.dispose()


async def _digest(stub: storage_service_pb2_grpc.StorageServiceStub, name: str) -> str:
    """SHA-256 of what is read of the artifact *name*; the failure's name where it cannot be read."""
    digest = sha256()
    try:
        async for part in stub.ReadArtifact(storage_service_pb2.ReadArtifactRequest(name=name), timeout=30):
            digest.update(part.content)
    except aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return digest.hexdigest()
