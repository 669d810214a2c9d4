"""Deleting races with storing the same content: every order of their steps, on SQLite, PostgreSQL and S3.

A step is a transaction of the catalog or an operation on the blob store. Each test runs the real use cases
in every order of their steps, one step at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.postgresql import migrated_database
from tests.s3_server import S3Server
from tests.sqlite import create_migrated_file
from tests.storage.conftest import Clock, checksums, random_bytes

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.identity import Caller, set_caller
from reelhaul_storage.catalog.store import SqlCatalog
from reelhaul_storage.disk.blobs import DiskBlobStore
from reelhaul_storage.model import CLAIM_LIFETIME, Artifact, Chunk, ExpectedChecksums, NewArtifact, Upload
from reelhaul_storage.ports import BlobStore
from reelhaul_storage.s3.blobs import S3BlobStore
from reelhaul_storage.s3.location import parse_location
from reelhaul_storage.service.artifacts import Artifacts
from reelhaul_storage.service.garbage_collector import GarbageCollector
from reelhaul_storage.service.uploads import Uploads

_STEPS = {
    "claim_blob",
    "publish",
    "finish_upload",
    "find_by_sha256",
    "finish_from_stored",
    "delete_artifacts",
    "doom_unused_blobs",
    "list_doomed_keys",
    "delete",
    "delete_doomed_keys",
}
#: What a writer may be told: it sends its bytes again, or continues, as every writer does.
_RETRYABLE = {ErrorReason.STORAGE_UNAVAILABLE, ErrorReason.WRITE_OFFSET_CONFLICT}


class Actor:
    """One of the concurrent use cases: it waits for its turn before each step."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(0)
        self._waiting = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None

    async def wait_for_turn(self) -> None:
        self._waiting.set()
        await self._turns.acquire()

    async def step(self) -> None:
        """Let the use case take one step; return when that has ended. Does nothing once all have."""
        if await self._is_waiting():
            self._waiting.clear()
            self._turns.release()
            await self._is_waiting()

    async def _is_waiting(self) -> bool:
        assert self.task is not None
        waiting = asyncio.ensure_future(self._waiting.wait())
        await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return not self.task.done()

    async def run_to_end(self) -> Any:
        """Take all remaining steps; return the result of the use case, or its expected error."""
        assert self.task is not None
        while not self.task.done():
            await self.step()
        error = self.task.exception()
        return error if isinstance(error, ReelhaulError) else self.task.result()


class Stepped:
    """A catalog or a blob store whose steps wait for the turn of an actor."""

    def __init__(self, target: object, actor: Actor) -> None:
        self._target, self._actor = target, actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if name not in _STEPS:
            return method

        async def wait_and_call(*arguments: object, **keywords: object) -> object:
            await self._actor.wait_for_turn()
            return await method(*arguments, **keywords)

        return wait_and_call


@dataclass
class Storage:
    """The use cases of storage, for one actor or without turns."""

    catalog: SqlCatalog
    blobs: BlobStore
    #: Returns the names of everything that is staged and published.
    files: Callable[[], list[str]]
    actor: Actor | None = None
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        catalog: Any = Stepped(self.catalog, self.actor) if self.actor else self.catalog
        blobs: Any = Stepped(self.blobs, self.actor) if self.actor else self.blobs
        self.garbage_collector = GarbageCollector(catalog, blobs, self.clock)
        self.uploads = Uploads(catalog, blobs, self.clock, max_bytes=1 << 30)
        self.artifacts = Artifacts(catalog, blobs, self.garbage_collector, self.clock)

    def as_actor(self, clock_offset: timedelta = timedelta()) -> Storage:
        """Return the same storage as a new actor sees it."""
        return Storage(self.catalog, self.blobs, self.files, Actor(), Clock(clock_offset))

    async def create_upload(self) -> str:
        now = self.clock()
        draft = NewArtifact(tenant="one", expire_time=now + timedelta(days=1))
        return (await self.uploads.create(Upload("", draft, now, now))).upload.id

    async def write(self, upload: str, content: bytes) -> None:
        async def chunks() -> AsyncIterator[Chunk]:
            yield Chunk(0, content)

        await self.uploads.write(upload, chunks())

    async def store(self, content: bytes) -> Artifact:
        upload = await self.create_upload()
        await self.write(upload, content)
        return await self.uploads.finish(upload, _expected(content))

    async def read(self, artifact: Artifact) -> bytes:
        _, pieces = await self.artifacts.read(artifact.id)
        return b"".join([piece async for piece in pieces])

    def orders(self, first: int, second: int) -> Iterator[str]:
        """Yield every order of *first* steps of A and *second* of B, such as AABAB; on S3 every fifth."""
        total = first + second
        chosen = islice(combinations(range(total), first), 0, None, 1 if self.blobs.backend == "local" else 5)
        for positions in chosen:
            yield "".join("A" if position in positions else "B" for position in range(total))


@pytest.fixture(params=["sqlite", "postgresql", "s3"])
async def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Storage]:
    set_caller(Caller("suite", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, suite=True))
    async with AsyncExitStack() as stack:
        if request.param == "postgresql":
            url = stack.enter_context(migrated_database("reelhaul_storage"))
        else:
            create_migrated_file("reelhaul_storage", tmp_path / "storage.db")
            url = f"sqlite:///{tmp_path}/storage.db"
        catalog = await stack.enter_async_context(SqlCatalog.open(url))
        if request.param == "s3":
            opening, files = _open_s3(request.getfixturevalue("s3_server"), monkeypatch)
        else:
            opening, files = _open_disk(tmp_path)
        yield Storage(catalog, await stack.enter_async_context(opening), files)


def _open_disk(folder: Path) -> tuple[AbstractAsyncContextManager[BlobStore], Callable[[], list[str]]]:
    def files() -> list[str]:
        found = (folder / "artifacts").rglob("*")
        return [path.name for path in found if path.is_file() and path.name[0] != "."]

    return DiskBlobStore.open(folder / "artifacts", adopt_from=folder / "work"), files


def _open_s3(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> tuple[AbstractAsyncContextManager[BlobStore], Callable[[], list[str]]]:
    for name, value in server.credentials().items():
        monkeypatch.setenv(name, value)
    prefix = f"races/{uuid4()}"

    def files() -> list[str]:
        return server.list_keys(prefix) + server.list_multipart_uploads(prefix)

    return S3BlobStore.open(parse_location(server.storage_url(prefix))), files


def _expected(content: bytes) -> ExpectedChecksums:
    return ExpectedChecksums(checksums(content).sha256.hex())


async def _run(order: str, a: tuple[Storage, Awaitable[Any]], b: tuple[Storage, Awaitable[Any]]) -> list[Any]:
    """Run the two use cases in *order*, and what remains of A, then of B; return their results."""
    actors: dict[str, Actor] = {}
    for letter, (storage, use_case) in zip("AB", (a, b), strict=True):
        assert storage.actor is not None
        actors[letter] = storage.actor
        storage.actor.task = asyncio.ensure_future(use_case)
    for letter in order:
        await actors[letter].step()
    return [await actor.run_to_end() for actor in actors.values()]


async def _check_stored(
    storage: Storage, result: Artifact | ReelhaulError, store_again: Callable[[], Awaitable[Artifact]]
) -> Artifact:
    """Check that the writer has a readable artifact, or an error after which a retry gives one."""
    if isinstance(result, ReelhaulError):
        assert result.reason in _RETRYABLE
        result = await store_again()
    assert await storage.read(result)
    return result


async def _check_nothing_remains(storage: Storage, artifacts: list[Artifact]) -> None:
    """Delete *artifacts*; check that neither files nor keys are left once orphans are collected."""
    await storage.artifacts.delete([artifact.id for artifact in artifacts])
    if storage.files():
        late = Storage(storage.catalog, storage.blobs, storage.files, clock=Clock(timedelta(hours=2)))
        await late.garbage_collector.delete_orphans()
    assert storage.files() == []
    assert await storage.catalog.list_doomed_keys(storage.clock(), 10) == []


async def test_store_while_the_last_artifact_is_deleted(storage: Storage):
    """Content that is stored again while its only artifact is deleted is readable afterwards."""
    for order in storage.orders(3, 4):
        content = random_bytes(100)
        first, upload = await storage.store(content), await storage.create_upload()
        await storage.write(upload, content)
        writer, deleter = storage.as_actor(), storage.as_actor()

        result, deleted = await _run(
            order,
            (writer, writer.uploads.finish(upload, _expected(content))),
            (deleter, deleter.artifacts.delete([first.id])),
        )
        assert deleted is None, order
        # Its claim protects the blob, or it makes a new one: it need not try again.
        assert isinstance(result, Artifact), order
        assert await storage.read(result) == content, order
        await _check_nothing_remains(storage, [result])


async def test_store_without_bytes_while_the_last_artifact_is_deleted(storage: Storage):
    """A writer that finds its content stored gets an artifact of it, or is told to send the bytes."""
    for order in storage.orders(2, 4):
        content = random_bytes(100)
        first, upload = await storage.store(content), await storage.create_upload()
        writer, deleter = storage.as_actor(), storage.as_actor()

        async def store_again(upload: str = upload, content: bytes = content) -> Artifact:
            await storage.write(upload, content)
            return await storage.uploads.finish(upload, _expected(content))

        result, deleted = await _run(
            order,
            (writer, writer.uploads.finish(upload, _expected(content))),
            (deleter, deleter.artifacts.delete([first.id])),
        )
        assert deleted is None, order
        artifact = await _check_stored(storage, result, store_again)
        await _check_nothing_remains(storage, [artifact])


async def test_store_the_same_content_twice(storage: Storage):
    """Two writers of the same content get an artifact each, and its bytes are stored once."""
    for order in storage.orders(3, 3):
        content = random_bytes(100)
        writers, uploads = [storage.as_actor(), storage.as_actor()], []
        for _ in writers:
            uploads.append(await storage.create_upload())
            await storage.write(uploads[-1], content)
        finishes = [
            writer.uploads.finish(upload, _expected(content))
            for writer, upload in zip(writers, uploads, strict=True)
        ]
        artifacts = await _run(order, (writers[0], finishes[0]), (writers[1], finishes[1]))
        assert [await storage.read(artifact) for artifact in artifacts] == [content, content], order
        assert len(storage.files()) == 1
        await _check_nothing_remains(storage, artifacts)


async def test_store_while_its_claim_lapses(storage: Storage):
    """A writer that finishes when its claim has lapsed gets an artifact with bytes, or writes them again."""
    late = CLAIM_LIFETIME + timedelta(hours=1)
    for order in storage.orders(3, 4):
        content = random_bytes(100)
        upload = await storage.create_upload()
        await storage.write(upload, content)
        writer, collector = storage.as_actor(), storage.as_actor(late)

        async def store_again(upload: str = upload, content: bytes = content) -> Artifact:
            await storage.write(upload, content)
            return await storage.uploads.finish(upload, _expected(content))

        result, collected = await _run(
            order,
            (writer, writer.uploads.finish(upload, _expected(content))),
            (collector, collector.garbage_collector.delete_expired()),
        )
        assert collected is None, order
        artifact = await _check_stored(storage, result, store_again)
        await _check_nothing_remains(storage, [artifact])
