"""The whole suite on S3 and PostgreSQL: every use of an artifact, and an S3 server that dies."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.postgresql import fresh_database
from tests.s3_server import S3Server, running_s3_server
from tests.sites import media
from tests.sites.media import Media
from tests.sites.site import Site, running_site
from tests.suite.downloads import create_download, download, watch_download
from tests.suite.suite import Suite, running_suite

_PREFIX = "suite-test"
_VIDEO = "/media/1080.mp4"
# So many that the upload can be interrupted between two of its parts.
_LARGE_SIZE = 60_000_000
_LARGE_VIDEO = "/media/large.mp4"


@pytest.fixture(scope="module")
def suite(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """The suite with its artifacts in a bucket and its databases on a PostgreSQL server."""
    data_dir = tmp_path_factory.mktemp("s3-suite") / "data"
    with (
        fresh_database() as jobs,
        fresh_database() as catalog,
        running_suite(
            data_dir,
            s3=s3_server,
            storage_url=s3_server.storage_url(_PREFIX),
            jobs_database_url=jobs,
            storage_database_url=catalog,
            storage_sweep_seconds="0.5",
            # Of the fetcher, only the engine is without a network.
            fetcher_network_namespace="auto",
        ) as suite,
    ):
        yield suite


@pytest.fixture(scope="module")
def completed(suite: Suite, site: Site) -> dict[str, Any]:
    """A completed download with a video and subtitles."""
    options = {"subtitles": True, "subtitle_languages": ["en"], "subtitle_formats": ["srt"]}
    return download(suite, site.url("/watch/demo"), quality="1080p", format="mp4", **options)


@pytest.fixture(scope="module")
def content(site: Site) -> bytes:
    """The bytes of the video."""
    return site.media.file(_VIDEO).read_bytes()


def _list_artifacts(suite: Suite, completed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the artifacts of a download, the video first."""
    parameters = {"filter": f'job = "jobs/{completed["job_id"]}"', "order_by": "size_bytes desc"}
    response = suite.http.get("/v1/artifacts", params=parameters).raise_for_status()
    artifacts: list[dict[str, Any]] = response.json()["artifacts"]
    return artifacts


def test_download(suite: Suite, completed: dict[str, Any], content: bytes) -> None:
    """Video and subtitles are read through the gateway."""
    files = {file["kind"]: file for file in completed["files"]}
    assert suite.http.get(files["VIDEO"]["url"]).content == content
    text = suite.http.get(files["SUBTITLE"]["url"]).text
    assert all(cue[2]["en"] in text for cue in media.CUES)


def test_list(suite: Suite, s3_server: S3Server, completed: dict[str, Any]) -> None:
    """The list has every file, each with one object in the bucket and none on the disk."""
    artifacts = _list_artifacts(suite, completed)
    assert {a["fileName"] for a in artifacts} == {file["name"] for file in completed["files"]}
    assert {a["backend"] for a in artifacts} == {"s3"}
    assert len(s3_server.list_keys(f"{_PREFIX}/")) == len(artifacts)
    assert not any(path.is_file() for path in (suite.data_dir / "artifacts").rglob("*"))


def test_ranged_read(suite: Suite, completed: dict[str, Any], content: bytes) -> None:
    """A range gets 206, and one past the end 416."""
    url = completed["files"][0]["url"]
    response = suite.http.get(url, headers={"range": "bytes=1000-1999"})
    assert (response.status_code, response.content) == (206, content[1000:2000])
    response = suite.http.get(url, headers={"range": f"bytes={len(content)}-"})
    assert response.status_code == 416


def _sign_url(suite: Suite, name: str, ttl: str) -> str:
    response = suite.http.post(f"/v1/{name}:signUrl", json={"ttl": ttl}).raise_for_status()
    return str(response.json()["url"])


def _altered(url: str) -> str:
    """Return *url* with another last digit of its signature."""
    before, signature, after = url.partition("X-Amz-Signature=")
    assert signature
    return f"{before}{signature}{'1' if after[0] != '1' else '2'}{after[1:]}"


def test_signed_link(suite: Suite, completed: dict[str, Any], content: bytes) -> None:
    """A link works for a plain HTTP client without a key; altered or expired it is refused."""
    artifact = _list_artifacts(suite, completed)[0]
    link = _sign_url(suite, artifact["name"], "60s")
    with httpx.Client(trust_env=False) as client:
        response = client.get(link)
        assert (response.status_code, response.content) == (200, content)
        assert artifact["fileName"] in response.headers["content-disposition"]
        assert client.get(link, headers={"range": "bytes=0-9"}).content == content[:10]
        assert client.get(_altered(link)).status_code == 403
        short = _sign_url(suite, artifact["name"], "1s")
        suite.wait_for("expiry of the link", lambda: client.get(short).status_code == 403, 10)


def test_archive(suite: Suite, completed: dict[str, Any], content: bytes, tmp_path: Path) -> None:
    """All files of a job come as one zip, which Python and unzip can read."""
    query = f'job = "jobs/{completed["job_id"]}"'
    archive = suite.http.get("/v1/artifacts:archive", params={"filter": query}).raise_for_status().content
    with zipfile.ZipFile(BytesIO(archive)) as opened:
        assert opened.testzip() is None
        assert set(opened.namelist()) == {file["name"] for file in completed["files"]}
        assert opened.read(completed["files"][0]["name"]) == content
    if unzip := shutil.which("unzip"):
        (tmp_path / "all.zip").write_bytes(archive)
        subprocess.run([unzip, "-tq", tmp_path / "all.zip"], check=True)


def test_secrets_are_not_logged(suite: Suite, completed: dict[str, Any]) -> None:
    """No log has a signed URL, and only storage has the credentials of the bucket."""
    assert b"X-Amz-Signature" not in suite.log.read_bytes()
    for name, pid in suite.processes().items():
        # Storage has them in its memory alone, unless it was restarted.
        if name != "storage":
            assert b"AWS_SECRET_ACCESS_KEY" not in Path(f"/proc/{pid}/environ").read_bytes(), name


def test_delete(suite: Suite, s3_server: S3Server, completed: dict[str, Any]) -> None:
    """After the job is deleted, its links are dead, and the bucket has no objects and no open uploads."""
    link = _sign_url(suite, _list_artifacts(suite, completed)[0]["name"], "60s")
    suite.http.delete(f"/api/v1/jobs/{completed['job_id']}").raise_for_status()
    suite.wait_for("empty bucket", lambda: not s3_server.list_keys(f"{_PREFIX}/"))
    assert not s3_server.list_multipart_uploads(_PREFIX)
    assert suite.http.get(completed["files"][0]["url"]).status_code == 404
    assert httpx.get(link, trust_env=False).status_code == 404


def _create_media(folder: Path, site: Site) -> Media:
    """Return media of one large file: a video with random bytes behind it that no player reads."""
    video = site.media.file(_VIDEO).read_bytes()
    filling = os.urandom(_LARGE_SIZE - len(video) - 8)
    content = video + (len(filling) + 8).to_bytes(4) + b"free" + filling
    large = Media(folder, {_LARGE_VIDEO: hashlib.sha256(content).hexdigest()})
    large.file(_LARGE_VIDEO).parent.mkdir(parents=True)
    large.file(_LARGE_VIDEO).write_bytes(content)
    return large


def test_s3_server_killed_in_mid_upload(site: Site, tmp_path: Path) -> None:
    """A job whose upload loses the S3 server waits, says why, sends the rest, and succeeds."""
    with (
        running_s3_server(tmp_path / "s3") as s3,
        running_site(media=_create_media(tmp_path / "site", site)) as large,
        running_suite(tmp_path / "data", s3=s3) as suite,
    ):
        job = create_download(suite, large.url(_LARGE_VIDEO))
        suite.wait_for("upload", s3.list_multipart_uploads)
        s3.kill()
        messages = watch_download(suite, job, 120)
        details = (message.get("progress", {}).get("detail", "") for message in messages)
        assert next((detail for detail in details if "waiting: " in detail and "S3" in detail), None)
        assert "waiting: " in suite.http.get(f"/api/v1/status/{job}").json()["detail"]
        s3.start()
        *_, last = messages
        assert "completed" in last, last
        body = suite.http.get(last["completed"]["files"][0]["url"]).content
        assert hashlib.sha256(body).hexdigest() == large.digest(_LARGE_VIDEO)
        assert last["completed"]["attempts"] == 1
        assert not s3.list_multipart_uploads()
        assert len(s3.list_keys()) == 1
