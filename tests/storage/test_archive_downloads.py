"""Archives over HTTP: a gateway in front of a real storage service."""

from __future__ import annotations

import asyncio
import io
import shutil
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from tests.gateway.fake_services import FakeJobs, running_gateway
from tests.storage.conftest import StorageService, random_bytes

from reelhaul.jobs.v1 import job_pb2
from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1 import media_pb2

MIB = 1 << 20
SUCCEEDED = job_pb2.Job.State.SUCCEEDED
JOB = str(uuid4())
URL = f"/api/v1/jobs/{JOB}/archive"


class Downloads:
    """The jobs service's records of downloads, whose files are in storage."""

    def __init__(self, storage: StorageService, jobs: FakeJobs) -> None:
        self._storage, self._jobs = storage, jobs

    async def add(
        self, *files: tuple[str, bytes], id_: str = JOB, batch: str = "", **fields: object
    ) -> list[artifact_pb2.Artifact]:
        """Add a finished download with *files*; return their artifacts."""
        artifacts = [
            await self._storage.write_artifact(content, file_name=file, job=f"jobs/{id_}", tenant="local")
            for file, content in files
        ]
        self.add_record(artifacts, id_=id_, batch=batch, **fields)
        return artifacts

    def add_record(
        self, artifacts: list[artifact_pb2.Artifact], id_: str = JOB, batch: str = "", **fields: object
    ) -> None:
        """Add the record of a finished download with *artifacts*."""
        infos = [media_pb2.ArtifactInfo(name=artifact.name) for artifact in artifacts]
        fields = {"state": SUCCEEDED, "kind": job_pb2.Job.Kind.SINGLE} | fields
        job = job_pb2.Job(name=f"jobs/{id_}", batch_id=batch, artifacts=infos, **fields)
        self._jobs.stored[job.name] = job


@pytest.fixture
async def gateway(storage: StorageService) -> AsyncIterator[tuple[httpx.AsyncClient, Downloads]]:
    """A client of the gateway, and the downloads that it finds."""
    async with (
        running_gateway(storage_address=f"127.0.0.1:{storage.port}") as harness,
        httpx.AsyncClient(base_url=harness.url, timeout=10, trust_env=False) as client,
    ):
        yield client, Downloads(storage, harness.jobs)


def names(response: httpx.Response) -> list[str]:
    """Return the names of the files in an archive."""
    assert response.status_code == 200, response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as opened:
        assert opened.testzip() is None
        return opened.namelist()


async def test_files_of_a_download(gateway):
    """One zip file with size, ETag, and a name from the title of the media."""
    client, downloads = gateway
    await downloads.add(
        ("Ü.mp4", random_bytes(MIB)), ("Ü.srt", b"1"), media=media_pb2.MediaInfo(title="Ü: 1")
    )
    response = await client.get(URL)
    assert names(response) == ["Ü.mp4", "Ü.srt"]
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-disposition"].endswith("filename*=UTF-8''%C3%9C_%201.zip")
    renamed = await client.get(URL, params={"file_name": "mine.zip"})
    assert renamed.headers["content-disposition"].startswith('attachment; filename="mine.zip"')
    assert renamed.content == response.content


async def test_files_of_a_batch_and_of_a_playlist(gateway):
    """The files of all jobs that succeeded so far, over several pages of jobs."""
    client, downloads = gateway
    batch, other = str(uuid4()), str(uuid4())
    for number in (1, 2, 3):
        await downloads.add((f"{number}.mp4", b"same"), id_=str(uuid4()), batch=batch)
        for _ in range(150):
            downloads.add_record([], id_=str(uuid4()), batch=batch)
    await downloads.add(("left.mp4", b"left"), id_=str(uuid4()), batch=batch, state=job_pb2.Job.State.RUNNING)
    await downloads.add(("other.mp4", b"other"), id_=str(uuid4()), batch=other)
    await downloads.add(id_=batch, batch=batch, kind=job_pb2.Job.Kind.EXPANSION)
    expected = ["1.mp4", "2.mp4", "3.mp4"]
    assert names(await client.get(f"/api/v1/batch/{batch}/archive")) == expected
    assert names(await client.get(f"/api/v1/jobs/{batch}/archive")) == expected


async def test_filter_and_names(gateway):
    """The artifacts that match a filter, or that are named."""
    client, downloads = gateway
    one, two, _ = await downloads.add(("1", b"1"), ("2", b"2"), ("3", b"3"))
    url = "/v1/artifacts:archive"
    assert names(await client.get(url, params={"filter": f'job = "jobs/{JOB}"'})) == ["1", "2", "3"]
    assert names(await client.get(url, params={"names": [two.name, one.name]})) == ["1", "2"]
    response = await client.get(url, params={"names": one.name})
    assert 'filename="artifacts.zip"' in response.headers["content-disposition"]


async def test_ranges_and_conditions(gateway):
    """206 with the bytes of the range, 416 past the end, 304, 412, and If-Range, as for a single file."""
    client, downloads = gateway
    await downloads.add(("a", random_bytes(MIB)), ("b", b"b"))
    whole = await client.get(URL)
    size, etag = len(whole.content), whole.headers["etag"]
    head = await client.head(URL)
    assert head.content == b""
    assert [head.headers[name] for name in ("content-length", "etag")] == [str(size), etag]
    for header, start, stop in [
        ("bytes=0-0", 0, 1),
        (f"bytes={MIB - 5}-", MIB - 5, size),
        ("bytes=-30", size - 30, size),
    ]:
        response = await client.get(URL, headers={"range": header, "if-range": etag})
        assert (response.status_code, response.content) == (206, whole.content[start:stop])
        assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    past = await client.get(URL, headers={"range": f"bytes={size}-"})
    assert (past.status_code, past.headers["content-range"]) == (416, f"bytes */{size}")
    assert (await client.get(URL, headers={"if-none-match": etag})).status_code == 304
    assert (await client.get(URL, headers={"if-match": '"other"'})).status_code == 412
    # After a change of the files, a resumed download starts again.
    await downloads.add(("a", b"new"))
    resumed = await client.get(URL, headers={"range": "bytes=100-", "if-range": etag})
    assert names(resumed) == ["a"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_resumes(gateway, tmp_path: Path):
    """curl completes a file of which it has the beginning, and unzip finds no error."""
    client, downloads = gateway
    await downloads.add(("a.mp4", random_bytes(3 * MIB)), ("b.mp4", random_bytes(MIB)))
    whole = (await client.get(URL)).content
    target = tmp_path / "a.zip"
    target.write_bytes(whole[: 2 * MIB + 11])
    command = ["curl", "-sS", "--fail", "-C", "-", "-o", str(target), f"{client.base_url}{URL}"]
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0
    assert target.read_bytes() == whole


async def test_delete_in_the_middle(gateway, storage: StorageService):
    """If an artifact is deleted before its turn, the connection is aborted: no valid file."""
    client, downloads = gateway
    _, second = await downloads.add(("a", random_bytes(32 * MIB)), ("b", b"b"))

    async def receive() -> None:
        async with client.stream("GET", URL) as response:
            assert response.status_code == 200
            chunks = response.aiter_raw()
            await anext(chunks)
            await storage.client.DeleteArtifact(pb.DeleteArtifactRequest(name=second.name))
            async for _ in chunks:
                pass

    with pytest.raises(httpx.RemoteProtocolError):
        await receive()
    # The rest of the files is still available.
    assert names(await client.get(URL)) == ["a"]


async def test_failures(gateway, storage: StorageService):
    """Each has its status and reason, the allowed request beside them 200."""
    client, downloads = gateway
    await downloads.add(("a", b"a"))
    empty = str(uuid4())
    await downloads.add(id_=empty)
    large = str(uuid4())
    (artifact,) = await downloads.add(("b", b"b"), id_=str(uuid4()), batch=large)
    for _ in range(4):
        downloads.add_record([artifact] * 250, id_=str(uuid4()), batch=large)
    for url, status, reason in [
        (f"/api/v1/jobs/{empty}/archive", 404, "RESOURCE_NOT_FOUND"),
        (f"/api/v1/batch/{uuid4()}/archive", 404, "RESOURCE_NOT_FOUND"),
        (f"/api/v1/batch/{large}/archive", 400, "FIELD_INVALID"),
        ("/api/v1/batch/x/archive", 404, "ROUTE_UNKNOWN"),
        (f"/v1/artifacts:archive?names=artifacts/{uuid4()}", 404, "RESOURCE_NOT_FOUND"),
        ("/v1/artifacts:archive", 400, "FIELD_INVALID"),
        ("/v1/artifacts:archive?filter=%22", 400, "FILTER_INVALID"),
        ("/v1/artifacts:archive?filter=a&filter=b", 400, "FIELD_INVALID"),
        (f"{URL}?filter=a", 400, "FIELD_INVALID"),
        (f"{URL}?color=red", 400, "FIELD_INVALID"),
    ]:
        response = await client.get(url)
        assert (response.status_code, response.json()["details"][0]["reason"]) == (status, reason), url
    assert (await client.post(URL)).status_code == 404
    assert names(await client.get(URL)) == ["a"]
