"""A run: clients write to storage, which is killed again and again; then everything is inspected."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any, cast
from unittest import mock

from grpc import aio
from tests.chaos.storage import list_files
from tests.s3_server import S3Server
from tests.servers import WITHOUT_METRICS, free_port
from tests.storage.kills.clients import Clients
from tests.storage.kills.server import StorageServer

from reelhaul.storage.v1 import storage_service_pb2_grpc
from reelhaul_runtime.rpc.channels import ChannelWithDefaults
from reelhaul_storage.app import running
from reelhaul_storage.service import garbage_collector
from reelhaul_storage.settings import Settings

#: The failpoints of storage, with probabilities at which a run passes each of them now and then.
FAILPOINTS: Mapping[str, float] = {
    "storage.create.after_commit": 0.5,
    "storage.write.after_chunk": 0.2,
    "storage.write.after_persist": 0.5,
    "storage.adopt.after_link": 0.7,
    "storage.claim.after_commit": 0.5,
    "storage.publish.before_rename": 0.5,
    "storage.publish.after_rename": 0.5,
    "storage.finish.after_commit": 0.5,
    "storage.delete.after_commit": 0.7,
    "storage.collect.after_delete": 0.7,
    "storage.multipart.after_create": 0.7,
    "storage.part.after_put": 0.5,
    "storage.parts.after_take": 0.5,
    "storage.tail.after_put": 0.5,
    "storage.seal.after_marker": 1,
    "storage.seal.after_complete": 1,
    "storage.publish.before_discard": 0.7,
}
_DISK_ONLY = {"storage.adopt.after_link", "storage.publish.before_rename"}
_S3_ONLY = {
    "storage.multipart.after_create",
    "storage.part.after_put",
    "storage.parts.after_take",
    "storage.tail.after_put",
    "storage.seal.after_marker",
    "storage.seal.after_complete",
    "storage.publish.before_discard",
}
# Sizes of files; on S3 some have several parts.
_SIZES = (0, 1, 10_000, 300_000, 1_500_000, 5_000_000)
_S3_SIZES = (0, 1, 10_000, 300_000, 5_000_000, 9_000_000, 20_000_000)

_TOKEN = "kills"
_CLIENTS = 4
# Every second start is armed with one failpoint; the others are killed after a random time.
_ARMED = 0.5
_MAX_SECONDS_TO_KILL = 0.5
# How often the others are killed before they serve.
_KILLED_AT_START = 0.1
# Past the retention of uploads and claims, but not that of the artifacts.
_CLOCK_OFFSET = timedelta(days=3)
_COLLECTION_SECONDS = 30.0
# Rows of the catalog that garbage collection deletes.
_LEFT = {
    "unfinished uploads": "SELECT count(*) FROM uploads WHERE artifact = ''",
    "doomed blobs": "SELECT count(*) FROM doomed",
    "unreferenced blobs": "SELECT count(*) FROM blobs WHERE key NOT IN (SELECT key FROM artifacts)",
}


@dataclass
class Result:
    """What a run has found."""

    backend: str
    kills: int = 0
    #: Artifacts that cannot be read, or have other bytes than were written.
    corrupt: int = 0
    #: Files or objects that belong to no artifact.
    orphans: list[str] = field(default_factory=list)
    #: Multipart uploads that are open.
    multipart: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    artifacts: int = 0
    written: Counter[str] = field(default_factory=Counter)
    #: How often the service killed itself at each failpoint.
    failpoints: Counter[str] = field(default_factory=Counter)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was damaged, left or lost."""
        return not (self.corrupt or self.orphans or self.multipart or self.problems)

    def __str__(self) -> str:
        counts = f"corrupt={self.corrupt} orphans={len(self.orphans)} multipart={len(self.multipart)}"
        return f"storage kills={self.kills} backend={self.backend} {counts}"


class KillTest:
    """A test of storage in *folder*, or on *s3* below a prefix of its own."""

    def __init__(self, folder: Path, rng: random.Random, s3: S3Server | None = None) -> None:
        self._folder, self._rng, self._s3 = folder, rng, s3
        self._prefix = f"kills-{rng.randrange(1 << 32):08x}"
        self._port = free_port()
        failpoints = [name for name in FAILPOINTS if name not in (_DISK_ONLY if s3 else _S3_ONLY)]
        rng.shuffle(failpoints)
        self._failpoints = cycle(failpoints)
        self._environment = {
            **WITHOUT_METRICS,
            "REELHAUL_AUTH": "none",
            "REELHAUL_DATA_DIR": str(folder),
            "REELHAUL_SUITE_TOKEN": _TOKEN,
            "REELHAUL_STORAGE_ADDRESS": f"127.0.0.1:{self._port}",
            "REELHAUL_STORAGE_HTTP_ADDRESS": "127.0.0.1:0",
            "REELHAUL_STORAGE_URL": s3.storage_url(self._prefix) if s3 else "",
            "REELHAUL_STORAGE_RESERVE_BYTES": "0",
            "REELHAUL_STORAGE_SWEEP_SECONDS": "0.1",
            **(s3.credentials() if s3 else {}),
        }
        self._server = StorageServer(self._environment, folder / "storage.log")
        (folder / "work").mkdir(parents=True, exist_ok=True)

    async def run(self, kills: int, patience: float = 8.0) -> Result:
        """Kill the service *kills* times while clients use it; return what is left afterwards.

        A service that has not passed its failpoint after *patience* seconds is killed where it is.
        """
        result = Result(backend="s3" if self._s3 else "disk")
        async with self._open_clients() as clients:
            tasks = [asyncio.create_task(clients.run(direct=self._s3 is not None)) for _ in range(_CLIENTS)]
            try:
                for _ in range(kills):
                    await self._run_until_killed(clients, patience)
                    result.kills += 1
                    _raise_failures(tasks)
                self._server.start({})
                clients.stopping = True
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                self._server.kill()
            await self._inspect(clients, result)
        result.failpoints.update(self._server.failpoints_hit())
        return result

    async def _run_until_killed(self, clients: Clients, patience: float) -> None:
        point = next(self._failpoints) if self._rng.random() < _ARMED else ""
        self._server.start({point: FAILPOINTS[point]} if point else {})
        reading = asyncio.create_task(clients.read_latest())
        if point:
            await self._server.wait_until_dead(patience)
        else:
            if self._rng.random() >= _KILLED_AT_START:
                await asyncio.wait([reading], timeout=patience)
            await asyncio.sleep(self._rng.uniform(0, _MAX_SECONDS_TO_KILL))
        if self._server.exit_code not in (None, -signal.SIGKILL):
            clients.problems.append(f"the service ended by itself with exit code {self._server.exit_code}")
        self._server.kill()
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading

    async def _inspect(self, clients: Clients, result: Result) -> None:
        """Collect garbage with the clock past the retention of uploads, then compare bytes and catalog."""
        if self._s3 is not None:
            os.environ.update(self._s3.credentials())
        settings = Settings(
            data_dir=self._folder,
            storage_address=f"127.0.0.1:{self._port}",
            storage_http_address="127.0.0.1:0",
            storage_url=self._environment["REELHAUL_STORAGE_URL"],
            storage_reserve_bytes=0,
            storage_sweep_seconds=0.1,
            suite_token=_TOKEN,
            drain_seconds=0,
        )
        # Often: the S3 server may store what a killed process sent after the first scan.
        with mock.patch.object(garbage_collector, "_ORPHAN_SCAN_SECONDS", 1):
            async with running(settings, now=lambda: datetime.now(UTC) + _CLOCK_OFFSET):
                await self._compare(clients, result)
        for what, query in _LEFT.items():
            if left := self._query(query)[0][0]:
                clients.problems.append(f"{left} {what} are left in the catalog")
        result.problems, result.written = clients.problems, clients.written

    async def _compare(self, clients: Clients, result: Result) -> None:
        """Record what is stored without an owner, and which artifacts are damaged."""
        keys = {f"blobs/{key}" for (key,) in self._query("SELECT key FROM artifacts")}
        await self._wait_for_collection(keys)
        result.orphans = sorted(await asyncio.to_thread(self._list_stored) - keys)
        result.multipart = await asyncio.to_thread(self._list_multipart_uploads)
        # Those of the clients, and those of writes whose outcome their client does not know.
        expected = {
            f"artifacts/{id_}": sha256 for id_, sha256 in self._query("SELECT id, sha256 FROM artifacts")
        }
        expected |= {name: sha256.hex() for name, sha256 in clients.finished.items()}
        result.artifacts = len(expected)
        result.corrupt = sum([(await clients.read(name)).hex() != expected[name] for name in expected])

    async def _wait_for_collection(self, keys: set[str]) -> None:
        """Return when nothing is stored but the bytes of *keys*, or after a time that should suffice."""
        end = asyncio.get_running_loop().time() + _COLLECTION_SECONDS
        while asyncio.get_running_loop().time() < end:
            stored = await asyncio.to_thread(self._list_stored)
            if stored == keys and not await asyncio.to_thread(self._list_multipart_uploads):
                return
            await asyncio.sleep(0.1)

    def _list_multipart_uploads(self) -> list[str]:
        return self._s3.list_multipart_uploads(self._prefix) if self._s3 is not None else []

    def _list_stored(self) -> set[str]:
        """Return the names of all stored files or objects."""
        if self._s3 is not None:
            return {key.removeprefix(f"{self._prefix}/") for key in self._s3.list_keys(self._prefix)}
        return list_files(self._folder / "artifacts")

    def _query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of the catalog that *statement* selects."""
        with closing(sqlite3.connect(self._folder / "storage.db")) as connection:
            return connection.execute(statement).fetchall()

    @asynccontextmanager
    async def _open_clients(self) -> AsyncIterator[Clients]:
        options = [
            # Reconnect at once to a service that has started again.
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 50),
            ("grpc.max_receive_message_length", 4 << 20),
        ]
        async with aio.insecure_channel(f"127.0.0.1:{self._port}", options) as channel:
            authenticated = cast("aio.Channel", ChannelWithDefaults(channel, _TOKEN))
            stub = storage_service_pb2_grpc.StorageServiceStub(authenticated)
            yield Clients(stub, self._folder / "work", _S3_SIZES if self._s3 else _SIZES, self._rng)


def _raise_failures(tasks: list[asyncio.Task[None]]) -> None:
    """Raise the failure of a client that has ended: they end only if something is wrong."""
    for task in tasks:
        if task.done():
            task.result()
