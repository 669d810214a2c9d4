"""Archives: several artifacts as one zip file."""

from __future__ import annotations

import asyncio
import io
import random
import shutil
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from tests.callers import Callers
from tests.storage.conftest import StartStorage, StorageService, error_details, random_bytes, wait_until

from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb

MIB = 1 << 20
JOB = "jobs/one"
FILTER = f'job = "{JOB}"'


async def write_files(storage: StorageService, *files: tuple[str, bytes]) -> list[artifact_pb2.Artifact]:
    """Write artifacts of the ordinary client's tenant and of one job; return them."""
    return [
        await storage.write_artifact(content, file_name=name, job=JOB, tenant="local")
        for name, content in files
    ]


async def archive(
    storage: StorageService, metadata: tuple[tuple[str, str], ...] = (), **fields: object
) -> bytes:
    """Return the bytes of the archive of the job, or of other *fields*, for the caller of *metadata*."""
    fields = fields if "filter" in fields or "names" in fields else {"filter": FILTER} | fields
    request = pb.ArchiveArtifactsRequest(**fields)
    messages = [m async for m in storage.client.ArchiveArtifacts(request, metadata=metadata)]
    assert messages[0].content_type == "application/zip"
    return b"".join(message.data for message in messages)


async def describe(storage: StorageService, **fields: object) -> pb.DescribeArchiveResponse:
    return await storage.client.DescribeArchive(pb.DescribeArchiveRequest(**fields or {"filter": FILTER}))


async def reason_of(call: object) -> str:
    """Return the reason with which *call* fails."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return error_details(failure.value).reason


def saved_crc32s(storage: StorageService) -> list[int]:
    """Return the CRC-32s in the catalog."""
    with sqlite3.connect(storage.folder / "storage.db") as connection:
        return [row[0] for row in connection.execute("SELECT crc32 FROM blobs WHERE crc32 IS NOT NULL")]


async def test_archive(storage: StorageService, tmp_path: Path):
    """unzip and Python open it; files have their bytes, unique names and times, in order of creation."""
    video = random_bytes(3 * MIB + 7)
    artifacts = await write_files(
        storage,
        ("Größe 🎬.mp4", video),
        ("a.mp4", b"one"),
        ("A.mp4", b"two"),
        ("a.mp4", b"one"),
        ("leer", b""),
    )
    await storage.write_artifact(b"of another job", tenant="local", job="jobs/two")
    content = await archive(storage)
    described = await describe(storage)
    assert (described.size_bytes, described.artifact_count) == (len(content), 5)
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        assert opened.testzip() is None
        assert [(info.filename, opened.read(info)) for info in opened.infolist()] == [
            ("Größe 🎬.mp4", video),
            ("a.mp4", b"one"),
            ("A (2).mp4", b"two"),
            ("a (3).mp4", b"one"),
            ("leer", b""),
        ]
        created = artifacts[0].create_time.ToDatetime()
        assert opened.infolist()[0].date_time[:5] == created.timetuple()[:5]
    if unzip := shutil.which("unzip"):
        (tmp_path / "a.zip").write_bytes(content)
        process = await asyncio.create_subprocess_exec(
            unzip, "-t", tmp_path / "a.zip", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output
        assert b"No errors detected" in output


async def test_names_stay_in_the_folder(storage: StorageService):
    """Whatever its writer calls an artifact, its name leads nowhere when the archive is unpacked."""
    await write_files(storage, ("../../evil", b"1"), ("/etc/passwd", b"2"), ("..\\c:\\x", b"3"), ("..", b"4"))
    with zipfile.ZipFile(io.BytesIO(await archive(storage))) as opened:
        names = opened.namelist()
    assert len(names) == 4
    assert not [name for name in names if "/" in name or "\\" in name or name.strip(".") == ""]


async def test_archive_of_names(storage: StorageService):
    """Only the named artifacts that exist, whatever their job."""
    one, two, _ = await write_files(storage, ("1", b"1"), ("2", b"2"), ("3", b"3"))
    await storage.client.DeleteArtifact(pb.DeleteArtifactRequest(name=one.name))
    content = await archive(storage, names=[two.name, one.name, two.name])
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        assert opened.namelist() == ["2"]


async def test_any_range(storage: StorageService):
    """Any range equals that slice of the whole, before and after the checksums are known."""
    await write_files(
        storage, ("a", random_bytes(700_000)), ("b", b"b"), ("leer", b""), ("c", random_bytes(70_000))
    )
    size = (await describe(storage)).size_bytes
    last = await archive(storage, read_offset=size - 1)
    whole = await archive(storage)
    assert (len(whole), last) == (size, whole[-1:])
    positions = [0, 1, 29, 31, 45, 46, 699_999, 700_040, 700_060, size - 22, size - 1]
    positions += [random.randrange(size) for _ in range(20)]
    for offset in positions:
        limit = random.choice([1, 30, 100_000, size])
        part = await archive(storage, read_offset=offset, read_limit=limit)
        assert part == whole[offset : offset + limit], (offset, limit)
    assert await archive(storage, read_offset=size - 100) == whole[-100:]


async def test_same_bytes_on_repetition(start_storage: StartStorage):
    """Bytes and etag are the same after a restart; another name or artifact changes the etag."""
    async with start_storage() as storage:
        (artifact,) = await write_files(storage, ("a", b"a"))
        before, content = await describe(storage), await archive(storage)
    async with start_storage() as storage:
        assert (await describe(storage), await archive(storage)) == (before, content)
        artifact.labels["k"] = "v"
        artifact.etag = ""
        await storage.client.UpdateArtifact(pb.UpdateArtifactRequest(artifact=artifact))
        assert (await describe(storage)).etag == before.etag
        artifact.file_name = "b"
        await storage.client.UpdateArtifact(pb.UpdateArtifactRequest(artifact=artifact))
        renamed = (await describe(storage)).etag
        await write_files(storage, ("c", b"a"))
        assert len({before.etag, renamed, (await describe(storage)).etag}) == 3


async def test_resume_reads_no_earlier_files(storage: StorageService):
    """A range does not touch the files before it, once their checksums are known."""
    await write_files(storage, ("a", random_bytes(MIB)), ("b", random_bytes(MIB)))
    whole = await archive(storage)
    assert len(saved_crc32s(storage)) == 2
    first = min(storage.blob_files(), key=lambda path: whole.index(path.read_bytes()))
    first.unlink()
    etag = (await describe(storage)).etag
    assert await archive(storage, read_offset=MIB + 200, etag=etag) == whole[MIB + 200 :]
    assert await reason_of(archive(storage)) == "ARTIFACT_CORRUPT"


async def test_resume_in_a_file_of_unknown_checksum(storage: StorageService):
    """A range within a file that no archive has contained yet is followed by the right checksum."""
    (artifact,) = await write_files(storage, ("a", random_bytes(MIB)))
    content = await storage.read(artifact.name)
    tail = await archive(storage, read_offset=MIB // 2)
    assert len(saved_crc32s(storage)) == 1
    whole = await archive(storage)
    assert whole.endswith(tail)
    with zipfile.ZipFile(io.BytesIO(whole)) as opened:
        assert opened.read("a") == content


async def test_scrubber_saves_checksums(start_storage: StartStorage):
    """Scrubbed files need not be read again to resume within them."""
    async with start_storage() as storage:
        month = timedelta(days=30)
        artifact = await storage.write_artifact(b"video", tenant="local", ttl=month)
    later = timedelta(days=8)
    async with start_storage(clock_offset=later, storage_scrub_bytes_per_second=1 << 40) as storage:
        await wait_until(lambda: saved_crc32s(storage) == [zlib.crc32(b"video")])
        content = await archive(storage, names=[artifact.name])
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            assert opened.testzip() is None


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(bytes(MIB))])
async def test_damaged_file(storage: StorageService, damage: Callable[[Path], object]):
    """Damaged bytes end the archive with ARTIFACT_CORRUPT, and their checksum is not saved."""
    (artifact,) = await write_files(storage, ("a", random_bytes(MIB)))
    (blob,) = storage.blob_files()
    blob.chmod(0o640)
    damage(blob)
    assert await reason_of(archive(storage)) == "ARTIFACT_CORRUPT"
    assert saved_crc32s(storage) == []
    # It is known now: no archive with it begins, however it is selected.
    for selection in ({"filter": FILTER}, {"names": [artifact.name]}):
        assert await reason_of(describe(storage, **selection)) == "ARTIFACT_CORRUPT"


async def test_delete_in_the_middle(storage: StorageService):
    """If an artifact is deleted before its turn, the archive ends with an error, not as a valid file."""
    large = random_bytes(24 * MIB)
    _, second = await write_files(storage, ("a", large), ("b", b"b"))
    messages = storage.client.ArchiveArtifacts(pb.ArchiveArtifactsRequest(filter=FILTER))
    received = [await anext(aiter(messages)), await anext(aiter(messages))]
    # No file is read long before the client takes it, so the second one is not in memory yet.
    await storage.client.DeleteArtifact(pb.DeleteArtifactRequest(name=second.name))

    async def receive_rest() -> None:
        async for message in messages:
            received.append(message)

    assert await reason_of(receive_rest()) == "RESOURCE_NOT_FOUND"
    size = sum(len(message.data) for message in received)
    assert len(large) < size < len(large) + 200


async def test_expired_artifact(storage: StorageService):
    """An expired artifact is left out, also before the garbage collector deletes it."""
    await storage.write_artifact(b"old", job=JOB, tenant="local", ttl=timedelta(hours=1))
    await write_files(storage, ("new", b"new"))
    storage.clock.offset = timedelta(hours=2)
    with zipfile.ZipFile(io.BytesIO(await archive(storage))) as opened:
        assert opened.namelist() == ["new"]


async def test_other_tenant(storage: StorageService, monkeypatch: pytest.MonkeyPatch):
    """Artifacts of another tenant are in no archive, whether found or named."""
    caller = Callers(monkeypatch).of("local")
    other = await storage.write_artifact(b"secret", file_name="secret", job=JOB, tenant="other")
    assert await reason_of(archive(storage, caller)) == "RESOURCE_NOT_FOUND"
    assert await reason_of(archive(storage, caller, names=[other.name])) == "RESOURCE_NOT_FOUND"
    (own,) = await write_files(storage, ("own", b"own"))
    for fields in ({"filter": FILTER}, {"names": [other.name, own.name]}):
        with zipfile.ZipFile(io.BytesIO(await archive(storage, caller, **fields))) as opened:
            assert opened.namelist() == ["own"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"filter": ""}, "FIELD_INVALID"),
        ({"filter": " "}, "FIELD_INVALID"),
        ({"filter": FILTER, "names": ["artifacts/7ea2e9a5-4ad1-4f7e-8d52-bf0a1bd5d2a2"]}, "FIELD_INVALID"),
        ({"names": ["artifacts/../x"]}, "FIELD_INVALID"),
        ({"names": ["artifacts/7ea2e9a5-4ad1-4f7e-8d52-bf0a1bd5d2a2"] * 1001}, "FIELD_INVALID"),
        ({"names": ["artifacts/7ea2e9a5-4ad1-4f7e-8d52-bf0a1bd5d2a2"]}, "RESOURCE_NOT_FOUND"),
        ({"filter": 'job = "jobs/none"'}, "RESOURCE_NOT_FOUND"),
        ({"filter": "color = red"}, "FILTER_INVALID"),
        ({"read_offset": 10_000}, "RANGE_INVALID"),
        ({"read_offset": -1}, "FIELD_INVALID"),
        ({"read_limit": -1}, "FIELD_INVALID"),
        ({"etag": '"other"'}, "ETAG_MISMATCH"),
    ],
)
async def test_invalid_requests(storage: StorageService, fields: dict[str, object], reason: str):
    """Each has its reason; the valid request beside them returns the archive."""
    await write_files(storage, ("a", b"a"))
    assert await reason_of(archive(storage, **fields)) == reason
    described = await describe(storage)
    assert len(await archive(storage, etag=described.etag)) == described.size_bytes


async def test_at_most_1000_artifacts(storage: StorageService):
    """1000 artifacts are an archive; 1001 are FIELD_INVALID."""
    await write_files(storage, ("a.mp4", b"a"))
    with sqlite3.connect(storage.folder / "storage.db") as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(artifacts)") if row[1] != "id"]
        copy = f"""
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
            INSERT INTO artifacts (id, {", ".join(columns)})
            SELECT printf('00000000-0000-4000-8000-%012d', i + (SELECT count(*) FROM artifacts)),
                   {", ".join(columns)} FROM n, (SELECT * FROM artifacts LIMIT 1)"""
        connection.execute(copy, [999])
        connection.commit()
        content = await archive(storage)
        connection.execute(copy, [1])
        connection.commit()
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        assert len(set(opened.namelist())) == 1000
        assert "a (1000).mp4" in opened.namelist()
    assert await reason_of(archive(storage)) == "FIELD_INVALID"
