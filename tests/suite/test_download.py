"""One download, end to end: from a URL to a verified file, over JSON and over gRPC."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sites import media, tools
from tests.sites.pages import TITLE
from tests.sites.site import Site
from tests.suite.downloads import Message, create_download, wait_for_end, watch_download
from tests.suite.suite import Suite

from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.type.v1 import media_pb2

_RENDITIONS = {1080: "/media/1080.mp4", 720: "/media/720.mp4", 360: "/media/360.mp4"}


@pytest.fixture(scope="module")
def messages(suite: Suite, site: Site) -> list[Message]:
    """All messages about a download of the demo page."""
    options = {"subtitles": True, "subtitle_languages": ["en"], "subtitle_formats": ["srt", "vtt"]}
    job = create_download(suite, site.url("/watch/demo"), quality="1080p", format="mp4", **options)
    return list(watch_download(suite, job))


@pytest.fixture(scope="module")
def completed(messages: list[Message]) -> dict[str, Any]:
    """The completed download in the last message."""
    assert "completed" in messages[-1], messages[-1]
    completed: dict[str, Any] = messages[-1]["completed"]
    return completed


def test_watch_begins_with_snapshot_and_ends_with_result(messages: list[Message]) -> None:
    """The first message is a snapshot of the download, and only the last one is its result."""
    assert "snapshot" in messages[0]
    assert [index for index, message in enumerate(messages) if "completed" in message] == [len(messages) - 1]


def test_progress_never_falls(messages: list[Message]) -> None:
    """The percentage never falls, and is 100 only in the result."""
    percents = [
        percent
        for message in messages
        if (percent := message.get("progress", {}).get("progress_percent")) is not None
    ]
    assert percents == sorted(percents)
    assert all(percent < 100 for percent in percents)
    assert messages[-1]["completed"]["progress_percent"] == 100


def test_status(suite: Suite, completed: dict[str, Any]) -> None:
    """The status has the same files as the watch, with title and delivered format."""
    status = suite.http.get(f"/api/v1/status/{completed['job_id']}").json()
    assert (status["status"], status["got_quality"], status["got_format"]) == ("SUCCEEDED", "1080p", "mp4")
    assert TITLE in status["title"]
    assert status["files"] == completed["files"]


def test_file_content(suite: Suite, site: Site, completed: dict[str, Any], tmp_path: Path) -> None:
    """The file has the site's bytes, and the size and digest of its entry."""
    file = completed["files"][0]
    body = suite.http.get(file["url"]).content
    assert hashlib.sha256(body).hexdigest() == file["sha256"] == site.digest("/media/1080.mp4")
    assert len(body) == file["size_bytes"]
    saved = tmp_path / "video.mp4"
    saved.write_bytes(body)
    assert tools.probe(saved).height == 1080


def test_file_range(suite: Suite, site: Site, completed: dict[str, Any]) -> None:
    """A range of the file gets 206."""
    content = site.media.file("/media/1080.mp4").read_bytes()
    response = suite.http.get(completed["files"][0]["url"], headers={"range": "bytes=1000-1999"})
    assert (response.status_code, response.content) == (206, content[1000:2000])
    assert response.headers["content-range"] == f"bytes 1000-1999/{len(content)}"


def test_subtitles(suite: Suite, completed: dict[str, Any]) -> None:
    """Subtitles are separate files, one for each format, with all cues."""
    subtitles = [file for file in completed["files"] if file["kind"] == "SUBTITLE"]
    assert {file["language"] for file in subtitles} == {"en"}
    assert {file["name"].rpartition(".")[2] for file in subtitles} == {"srt", "vtt"}
    for file in subtitles:
        text = suite.http.get(file["url"]).text
        assert all(cue[2]["en"] in text for cue in media.CUES)


@pytest.mark.parametrize(
    "path",
    ["/watch/jsonld", "/watch/og", "/media/720.mp4", "/hls/master.m3u8", "/watch/hls", "/dash/manifest.mpd"],
)
def test_every_kind_of_page(suite: Suite, site: Site, path: str, tmp_path: Path) -> None:
    """From every kind of page and manifest, the saved video has the packets of the best rendition."""
    last = wait_for_end(suite, create_download(suite, site.url(path), format="mp4"))
    assert "completed" in last, last
    saved = tmp_path / "video.mp4"
    saved.write_bytes(suite.http.get(last["completed"]["files"][0]["url"]).content)
    height = tools.probe(saved).height
    assert height == (720 if "720" in path else 1080)
    assert tools.stream_digests(saved) == tools.stream_digests(site.media.file(_RENDITIONS[height]))


def test_ndjson(suite: Suite, completed: dict[str, Any]) -> None:
    """Without an Accept header the watch is NDJSON; of an ended download it has the result."""
    lines = suite.http.get(f"/api/v1/progress/{completed['job_id']}").text.splitlines()
    assert '"completed"' in lines[-1]


@pytest.fixture
def jobs(suite: Suite) -> Iterator[job_service_pb2_grpc.JobServiceStub]:
    with suite.channel("jobs") as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel)


def test_over_grpc(jobs: job_service_pb2_grpc.JobServiceStub, site: Site) -> None:
    """The same over gRPC: create, watch from the first snapshot to the terminal one, get."""
    spec = media_pb2.FormatSpec(max_height=360, container=media_pb2.FormatSpec.MP4)
    request = job_service_pb2.CreateJobRequest(job=job_pb2.Job(url=site.url("/watch/demo"), format=spec))
    job = jobs.CreateJob(request, timeout=30)
    responses = list(jobs.WatchJob(job_service_pb2.WatchJobRequest(name=job.name), timeout=90))
    assert responses[0].HasField("snapshot")
    assert responses[-1].snapshot.terminal
    sequences = [response.sequence for response in responses]
    assert sequences == sorted(sequences)
    got = jobs.GetJob(job_service_pb2.GetJobRequest(name=job.name), timeout=30)
    assert got.state == job_pb2.Job.SUCCEEDED
    assert got.artifacts[0].checksums.sha256.hex() == site.digest("/media/360.mp4")
    assert got.got.height == 360
