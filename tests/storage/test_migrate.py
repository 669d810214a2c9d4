"""Moving artifacts to another folder or bucket while the service runs: nothing is lost."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import google_crc32c
import grpc
import pytest
from click.testing import CliRunner
from tests.s3_server import S3Server
from tests.storage.conftest import (
    Clock,
    StartStorage,
    StorageService,
    checksums,
    error_details,
    random_bytes,
    wait_until,
    write_requests,
)

from reelhaul.storage.v1 import artifact_pb2, upload_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.identity import Caller, set_caller
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.sql import migrations
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.tasks import cancel_and_wait
from reelhaul_storage import commands
from reelhaul_storage.catalog.blob_location import SqlLocationStore
from reelhaul_storage.catalog.store import SqlCatalog
from reelhaul_storage.disk.blobs import DiskBlobStore
from reelhaul_storage.errors import BlobsMoved, OffsetConflict
from reelhaul_storage.model import (
    Artifact,
    Blob,
    BlobLocation,
    Chunk,
    ExpectedChecksums,
    NewArtifact,
    Upload,
)
from reelhaul_storage.ports import BlobStore
from reelhaul_storage.service.blob_move import BlobMove
from reelhaul_storage.service.movable_blobs import MovableBlobStore
from reelhaul_storage.service.uploads import Uploads

_COMMAND = "from reelhaul_storage.commands import storage; storage()"
# Empty, small, and more than a part of S3.
_SIZES = (0, 1, 9 << 20)
_RETRIED = {"STORAGE_UNAVAILABLE", "WRITE_OFFSET_CONFLICT"}

Urls = tuple[str, str]


async def _start_move(storage: StorageService, target: str, *options: str, source: str = ""):
    """Start the command with the settings of *storage*."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")}
    environment |= {"REELHAUL_DATA_DIR": str(storage.folder), "REELHAUL_STORAGE_URL": source}
    environment["REELHAUL_STORAGE_RESERVE_BYTES"] = "0"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _COMMAND, "migrate", "--to", target, *options),
        env=environment,
        cwd=storage.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def _move(storage: StorageService, target: str, *options: str, source: str = "") -> tuple[int, str]:
    """Run the command to its end; return its exit code and output."""
    process = await _start_move(storage, target, *options, source=source)
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def _write(storage: StorageService, content: bytes) -> str:
    """Store *content* in a new upload; return the artifact's name."""
    return await _send(storage, (await storage.create_upload(content)).name, content)


async def _send(storage: StorageService, name: str, content: bytes) -> str:
    """Write *content* to an upload as a fetcher does, again if it must; return the artifact's name."""
    while True:
        try:
            offset = (await storage.suite.GetUpload(pb.GetUploadRequest(name=name))).persisted_size
            if offset < len(content):
                requests = write_requests(content[offset:], at=offset, finish=False, upload=name)
                await storage.suite.WriteArtifact(requests)
            return (await storage.finish_upload(name, content)).name
        except grpc.aio.AioRpcError as error:
            if error_details(error).reason not in _RETRIED:
                raise
            await asyncio.sleep(0.05)


async def _read_all(storage: StorageService, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        assert await storage.read(name) == content


def _count_files(url: str) -> int:
    return sum(path.is_file() for path in (Path(url.removeprefix("file://")) / "blobs").rglob("*"))


@pytest.fixture
def urls(tmp_path: Path) -> Urls:
    """Two folders: the one in which artifacts are, and the one to move them to."""
    return f"file://{tmp_path}/one", f"file://{tmp_path}/two"


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a prefix that is empty."""
    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)
    return s3_server.storage_url(str(uuid4()))


class _Load:
    """Writes, reads and deletes artifacts until it is stopped."""

    def __init__(self, storage: StorageService) -> None:
        self._storage = storage
        self._stopped = False
        self.written = 0
        #: What it has not deleted, by artifact.
        self.contents: dict[str, bytes] = {}

    async def run(self) -> None:
        while not self._stopped:
            content = random_bytes(50_000)
            self.contents[await _write(self._storage, content)] = content
            self.written += 1
            name = next(iter(self.contents))
            assert await self._storage.read(name) == self.contents[name]
            if self.written % 3 == 0:
                del self.contents[name]
                await self._storage.suite.DeleteArtifact(pb.DeleteArtifactRequest(name=name))

    def stop(self) -> None:
        self._stopped = True


async def _move_under_load(start_storage: StartStorage, source: str, target: str) -> None:
    async with start_storage(storage_url=source) as storage:
        contents = {await _write(storage, content): content for content in map(random_bytes, _SIZES)}
        load = _Load(storage)
        loading = asyncio.create_task(load.run())
        code, output = await _move(storage, target, "--verify", "--delete-source", source=source)
        assert code == 0, output
        written = load.written
        await wait_until(lambda: load.written > written + 10 or loading.done())
        load.stop()
        await loading
        await _read_all(storage, contents | load.contents)
    with pytest.raises(InvalidSetting, match=f"REELHAUL_STORAGE_URL: .* set it to {re.escape(target)},"):
        async with start_storage(storage_url=source):
            pass
    async with start_storage(storage_url=target) as storage:
        await _read_all(storage, contents | load.contents)


async def test_the_service_works_during_a_move(start_storage: StartStorage, urls: Urls):
    """Artifacts are written, read and deleted all the time; all that remain are at the new location."""
    await _move_under_load(start_storage, *urls)
    assert _count_files(urls[0]) == 0


async def test_to_s3_and_back(start_storage: StartStorage, urls: Urls, bucket: str, s3_server: S3Server):
    """A move to a bucket and from there to a folder loses nothing, and leaves nothing in the bucket."""
    await _move_under_load(start_storage, urls[0], bucket)
    prefix = bucket.partition("?")[0].rpartition("/")[2]
    assert s3_server.list_keys(prefix)
    await _move_under_load(start_storage, bucket, urls[1])
    assert s3_server.list_keys(prefix) == s3_server.list_multipart_uploads(prefix) == []


def test_a_bucket_that_does_not_exist(s3_server: S3Server, bucket: str, tmp_path: Path):
    """The target is checked before anything is copied."""
    environment = {"REELHAUL_DATA_DIR": str(tmp_path)}
    arguments = ["migrate", "--to", s3_server.storage_url(bucket="no-such-bucket")]
    result = CliRunner().invoke(commands.storage, arguments, env=environment)
    assert (result.exit_code, "--to: the bucket does not exist" in result.output) == (2, True), result.output


async def test_another_name_of_the_source(start_storage: StartStorage, bucket: str):
    """A bucket under another name of its server is no target: the move would delete what it has moved."""
    async with start_storage(storage_url=bucket) as storage:
        name = await _write(storage, b"video")
        other = bucket.replace("127.0.0.1", "localhost")
        code, output = await _move(storage, other, "--delete-source", source=bucket)
        assert (code, "--to: the artifacts are there already" in output) == (2, True), output
        assert await storage.read(name) == b"video"


async def test_a_disk_that_is_not_mounted(start_storage: StartStorage, urls: Urls, tmp_path: Path):
    """Blobs of a source that is away are not taken for lost: nothing is moved."""
    async with start_storage(storage_url=urls[0]) as storage:
        name = await _write(storage, b"video")
        (tmp_path / "one").rename(tmp_path / "away")
        code, output = await _move(storage, urls[1], source=urls[0])
        assert (code, "the move is not complete" in output) == (1, True), output
        (tmp_path / "away").rename(tmp_path / "one")
        assert await storage.read(name) == b"video"


async def test_a_killed_move_is_resumed(start_storage: StartStorage, urls: Urls):
    """After SIGKILL in the middle, the service goes on; run again, the command copies the rest."""
    async with start_storage(storage_url=urls[0]) as storage:
        contents = {await _write(storage, content): content for content in map(random_bytes, [200_000] * 30)}
        moving = await _start_move(storage, urls[1], source=urls[0])
        await wait_until(lambda: _count_files(urls[1]) > 5)
        with suppress(ProcessLookupError):
            moving.send_signal(signal.SIGKILL)
        await moving.wait()
        copied = _count_files(urls[1])
        await _read_all(storage, contents)
        assert await _write(storage, b"after the kill")
        code, output = await _move(storage, urls[1], source=urls[0])
        assert code == 0, output
        assert copied < 30
        assert f"{31 - copied} blobs copied" in output
        await _read_all(storage, contents)


async def test_unfinished_uploads_are_sent_again(start_storage: StartStorage, urls: Urls):
    """An upload that was interrupted by the move continues at 0, and the writer is told so."""
    content = random_bytes(600_000)
    async with start_storage(storage_url=urls[0]) as storage:
        upload = (await storage.create_upload(content)).name
        await storage.suite.WriteArtifact(write_requests(content[:500_000], finish=False, upload=upload))
        code, output = await _move(storage, urls[1], source=urls[0])
        assert code == 0, output

        async def switched() -> bool:
            status = await storage.suite.GetUpload(pb.GetUploadRequest(name=upload))
            return status.persisted_size == 0

        await wait_until(switched)
        rest = write_requests(content[500_000:], at=500_000, whole=content, upload=upload)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await storage.suite.WriteArtifact(rest)
        details = error_details(failure.value)
        assert (details.reason, details.metadata["persistedSize"]) == ("WRITE_OFFSET_CONFLICT", "0")
        assert await storage.read(await _send(storage, upload, content)) == content


async def _finish_refused(storage: StorageService, request: pb.FinishUploadRequest) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await storage.suite.FinishUpload(request)
    return error_details(failure.value).reason


async def _move_and_wait(storage: StorageService, target: str, backend: str, *, source: str) -> None:
    """Move everything, and wait until the service has noticed."""
    name = await _write(storage, random_bytes(100))
    code, output = await _move(storage, target, source=source)
    assert code == 0, output

    async def noticed() -> bool:
        return (await storage.suite.GetArtifact(pb.GetArtifactRequest(name=name))).backend == backend

    await wait_until(noticed)


async def test_ways_that_the_new_store_has_not(start_storage: StartStorage, urls: Urls, bucket: str):
    """A writer that was going to let its file be adopted, or to send parts to S3, sends its bytes instead."""
    content = random_bytes(100_000)
    async with start_storage(storage_url=urls[0]) as storage:
        (storage.folder / "work").mkdir()
        (storage.folder / "work" / "video").write_bytes(content)
        upload = await storage.create_upload(content, adopt_path="video")
        assert upload.adoptable
        await _move_and_wait(storage, bucket, "s3", source=urls[0])
        finish = pb.FinishUploadRequest(
            name=upload.name, total_checksums=checksums(content), adopt_path="video"
        )
        assert await _finish_refused(storage, finish) == "WRITE_OFFSET_CONFLICT"
        assert await storage.read(await _send(storage, upload.name, content)) == content

        direct = upload_pb2.Upload(artifact=artifact_pb2.Artifact(), total_size=9, direct=True)
        upload = await storage.suite.CreateUpload(pb.CreateUploadRequest(upload=direct))
        assert upload.part_urls
        await _move_and_wait(storage, urls[1], "local", source=urls[0])
        finish = pb.FinishUploadRequest(name=upload.name, total_checksums=checksums(b"new video"))
        finish.total_checksums.crc32c = google_crc32c.value(b"new video")
        finish.parts.add(number=1, etag='"0"')
        assert await _finish_refused(storage, finish) == "WRITE_OFFSET_CONFLICT"
        assert await storage.read(await _send(storage, upload.name, b"new video")) == b"new video"


async def test_damaged_blobs_stay_behind(start_storage: StartStorage, urls: Urls):
    """A damaged blob is not copied and reported; everything else is moved."""
    async with start_storage(storage_url=urls[0]) as storage:
        good, bad = random_bytes(1000), random_bytes(1000)
        name = await _write(storage, good)
        await _write(storage, bad)
        (blob,) = (Path(urls[0].removeprefix("file://")) / "blobs").rglob(
            f"{hashlib.sha256(bad).hexdigest()}*"
        )
        blob.chmod(0o600)
        blob.write_bytes(b"x" * 1000)
        code, output = await _move(storage, urls[1], source=urls[0])
        assert (code, "1 blobs are missing or damaged" in output) == (3, True)
        assert await storage.read(name) == good
        assert (_count_files(urls[0]), _count_files(urls[1])) == (2, 1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("file:///{folder}/one", "the artifacts are there already"),
        ("ftp://host/x", "--to: must be file:///folder or s3://bucket/prefix"),
        ("s3://b", "--to: the bucket must have"),
    ],
)
def test_wrong_targets(tmp_path: Path, target: str, message: str):
    """A target that cannot be used is refused with the reason."""
    environment = {"REELHAUL_DATA_DIR": str(tmp_path), "REELHAUL_STORAGE_URL": f"file://{tmp_path}/one"}
    arguments = ["migrate", "--to", target.format(folder=str(tmp_path).strip("/"))]
    result = CliRunner().invoke(commands.storage, arguments, env=environment)
    assert (result.exit_code, message in result.output) == (2, True), result.output


class _Locations(SqlLocationStore):
    """A location store that calls ``before_end`` right before the first attempt to end a move."""

    before_end: Callable[[], Awaitable[None]] | None = None

    async def end_move(self, location: BlobLocation, pending: Collection[str]) -> list[Blob]:
        if (hook := self.before_end) is not None:
            self.before_end = None
            await hook()
        return await super().end_move(location, pending)


class _CatalogOvertakenByMove(SqlCatalog):
    """A catalog in which the location changes right before the first commit of an artifact."""

    moved = False

    async def finish_upload(self, upload: str, artifact: Artifact, generation: int = 0) -> Artifact:
        if not self.moved:
            self.moved = True
            url, previous = (artifact.labels["to"], artifact.labels["from"])
            await self.location.set_location(BlobLocation(1, url, previous))
        return await super().finish_upload(upload, artifact, generation)


class _Objects:
    """The objects of the service, and the stores of both folders, called step by step."""

    def __init__(
        self,
        catalog: SqlCatalog,
        locations: _Locations,
        blobs: MovableBlobStore,
        stores: dict[str, BlobStore],
    ) -> None:
        self.catalog, self.blobs = catalog, blobs
        self.source, self.target = stores.values()
        self.urls = tuple(stores)
        self.locations = locations
        self.uploads = Uploads(
            catalog, blobs, Clock(), max_bytes=1 << 20, generation=lambda: blobs.generation
        )
        self.move = BlobMove(
            self.locations, self.source, self.target, source_url=self.urls[0], target_url=self.urls[1]
        )

    async def stage(self, content: bytes) -> str:
        """Write *content* to a new upload, without finishing it."""

        async def chunks() -> AsyncIterator[Chunk]:
            yield Chunk(0, content)

        now, labels = Clock()(), {"from": self.urls[0], "to": self.urls[1]}
        draft = NewArtifact(tenant="one", expire_time=now + timedelta(days=1), labels=labels)
        upload = (await self.uploads.create(Upload("", draft, now, now))).upload.id
        await self.uploads.write(upload, chunks())
        return upload


@asynccontextmanager
async def _open_objects(
    urls: Urls,
    catalog_type: type[SqlCatalog] = SqlCatalog,
    store_type: type[DiskBlobStore] = DiskBlobStore,
) -> AsyncIterator[_Objects]:
    set_caller(Caller("suite", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, suite=True))
    folder = Path(urls[0].removeprefix("file://")).parent
    url = f"sqlite:///{folder}/storage.db"
    migrations.migrate_if_behind(url, "reelhaul_storage")

    def open_store(url: str, store_type: type[DiskBlobStore] = store_type):
        return store_type.open(Path(url.removeprefix("file://")), adopt_from=folder)

    async with (
        catalog_type.open(url) as catalog,
        Database.open(url) as database,
        open_store(urls[0], DiskBlobStore) as source,
        open_store(urls[1], DiskBlobStore) as target,
        MovableBlobStore.open(catalog.location, open_store, urls[0]) as blobs,
    ):
        yield _Objects(catalog, _Locations(database), blobs, {urls[0]: source, urls[1]: target})


async def test_a_finish_that_the_move_overtakes(urls: Urls):
    """An artifact whose bytes went to the old location is refused after the move; a retry finds them."""
    expected = ExpectedChecksums(hashlib.sha256(b"video").hexdigest())
    async with _open_objects(urls, _CatalogOvertakenByMove) as objects:
        upload = await objects.stage(b"video")
        with pytest.raises(BlobsMoved):
            await objects.uploads.finish(upload, expected)
        assert await objects.blobs.refresh()
        artifact = await objects.uploads.finish(upload, expected)
        assert await objects.target.size(artifact.key) is None
        await objects.move.run()
        assert await objects.target.size(artifact.key) == 5


async def test_bytes_that_come_while_the_move_ends(urls: Urls):
    """Bytes that reach the old location after everything was copied, and are committed, are copied too."""
    expected = ExpectedChecksums(hashlib.sha256(b"video").hexdigest())
    async with _open_objects(urls) as objects:
        upload = await objects.stage(b"video")
        content, now = await objects.source.hash_staged(upload), Clock()()
        await objects.catalog.claim_blob(upload, content, "ab/cd/key", now, now + timedelta(hours=1))
        artifacts = []

        async def finish() -> None:
            await objects.source.publish(upload, "ab/cd/key", 5)
            await objects.blobs.refresh()
            artifacts.append(await objects.uploads.finish(upload, expected))

        objects.locations.before_end = finish
        await objects.move.run()
        assert artifacts[0].key == "ab/cd/key"
        assert await objects.target.size("ab/cd/key") == 5


class _BrokenStore(DiskBlobStore):
    """A store whose reads break after a piece, and then find no blob, as those of a bucket may."""

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        async for piece in super().read(key, offset, length):
            yield piece
            if offset == 0:
                raise KeyError(key)


async def test_a_read_that_outlasts_the_move(urls: Urls):
    """A blob that is deleted at the old location while it is read there is read on at the new one."""
    content = random_bytes(1 << 20)
    expected = ExpectedChecksums(hashlib.sha256(content).hexdigest())
    async with _open_objects(urls, store_type=_BrokenStore) as objects:
        artifact = await objects.uploads.finish(await objects.stage(content), expected)
        await objects.locations.set_location(BlobLocation(1, urls[1], urls[0]))
        await objects.blobs.refresh()
        reading = objects.blobs.read(artifact.key, 0, len(content))
        pieces = [await anext(reading)]
        await objects.move.run()
        await objects.blobs.refresh()
        pieces += [piece async for piece in reading]
        assert b"".join(pieces) == content


async def test_no_claim_with_an_old_location(urls: Urls):
    """A replica that has not noticed the move claims no blob: its bytes would go to the old location."""
    expected = ExpectedChecksums(hashlib.sha256(b"video").hexdigest())
    async with _open_objects(urls) as objects:
        upload = await objects.stage(b"video")
        await objects.move.run()
        with pytest.raises(BlobsMoved):
            await objects.uploads.finish(upload, expected)
        await objects.blobs.refresh()
        with pytest.raises(OffsetConflict):
            await objects.uploads.finish(upload, expected)


@pytest.mark.parametrize("verify", [True, False])
async def test_verify(urls: Urls, verify: bool):
    """A damaged blob in the target, of the right size, is replaced if the target is verified."""
    async with _open_objects(urls) as objects:
        upload = await objects.stage(b"video")
        artifact = await objects.uploads.finish(
            upload, ExpectedChecksums(hashlib.sha256(b"video").hexdigest())
        )
        async with objects.target.stage("other", 0) as staged:
            await staged.write(b"wrong")
            await staged.persist()
        await objects.target.publish("other", artifact.key, 5)
        objects.move = BlobMove(
            *(objects.locations, objects.source, objects.target),
            source_url=urls[0],
            target_url=urls[1],
            verify=verify,
        )
        progress = await objects.move.run()
        assert (progress.copied, progress.skipped) == ((1, 0) if verify else (0, 1))
        pieces = [piece async for piece in objects.target.read(artifact.key, 0, 5)]
        assert b"".join(pieces) == (b"video" if verify else b"wrong")


class _CountingLocations(SqlLocationStore):
    """A location store that counts how often it is read, and how often it is asked whether it has changed."""

    reads = looks = 0

    @property
    def version(self) -> Hashable | None:
        self.looks += 1
        return super().version

    async def get_location(self) -> BlobLocation:
        self.reads += 1
        return await super().get_location()


async def test_a_move_is_noticed(urls: Urls):
    """A location that another process records is used soon, and read only when the database has changed."""
    async with _open_objects(urls) as objects, AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            Database.open(f"sqlite:///{_folder(urls[0]).parent}/storage.db")
        )
        locations = _CountingLocations(database)
        work = _folder(urls[0]).parent / "work"
        opening = MovableBlobStore.open(
            locations, lambda url: DiskBlobStore.open(_folder(url), adopt_from=work), urls[0]
        )
        blobs = await stack.enter_async_context(opening)
        refreshing = asyncio.create_task(blobs.refresh_forever(0.001))
        stack.push_async_callback(cancel_and_wait, refreshing)
        await _until(lambda: locations.reads == 2)
        looks = locations.looks
        await _until(lambda: locations.looks > looks + 20)
        assert locations.reads == 2
        await objects.locations.set_location(BlobLocation(1, urls[1], urls[0]))
        await _until(lambda: blobs.generation == 1)


async def _until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_true():  # noqa: ASYNC110 - what is awaited sets no event
            await asyncio.sleep(0.001)


def _folder(url: str) -> Path:
    return Path(url.removeprefix("file://"))
