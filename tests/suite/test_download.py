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
def told(suite: Suite, site: Site) -> list[Message]:
    """All that was told of one download of the demo page."""
    wishes = {"subtitles": True, "subtitle_languages": ["en"], "subtitle_formats": ["srt", "vtt"]}
    job = create_download(suite, site.url("/watch/demo"), quality="1080p", format="mp4", **wishes)
    return list(watch_download(suite, job))


@pytest.fixture(scope="module")
def download(told: list[Message]) -> dict[str, Any]:
    """The download when it had succeeded."""
    assert "completed" in told[-1], told[-1]
    completed: dict[str, Any] = told[-1]["completed"]
    return completed


def test_watch_begins_with_a_snapshot_and_ends_with_the_result(told: list[Message]) -> None:
    """The first message holds the whole download, the last its result; there is one of each end."""
    assert "snapshot" in told[0]
    assert [index for index, message in enumerate(told) if "completed" in message] == [len(told) - 1]


def test_progress_never_falls(told: list[Message]) -> None:
    """The percentage only grows, and is 100 only at the end."""
    percents = [
        p for message in told if (p := message.get("progress", {}).get("progress_percent")) is not None
    ]
    assert percents == sorted(percents)
    assert all(percent < 100 for percent in percents)
    assert told[-1]["completed"]["progress_percent"] == 100


def test_status(suite: Suite, download: dict[str, Any]) -> None:
    """The status tells the same as the watch, with title and what was delivered."""
    status = suite.http.get(f"/api/v1/status/{download['job_id']}").json()
    assert (status["status"], status["got_quality"], status["got_format"]) == ("SUCCEEDED", "1080p", "mp4")
    assert TITLE in status["title"]
    assert status["files"] == download["files"]


def test_file_is_the_sites(suite: Suite, site: Site, download: dict[str, Any], tmp_path: Path) -> None:
    """The video is the site's, byte for byte, and as its entry says."""
    file = download["files"][0]
    body = suite.http.get(file["url"]).content
    assert hashlib.sha256(body).hexdigest() == file["sha256"] == site.digest("/media/1080.mp4")
    assert len(body) == file["size_bytes"]
    saved = tmp_path / "video.mp4"
    saved.write_bytes(body)
    assert tools.probe(saved).height == 1080


def test_part_of_the_file(suite: Suite, site: Site, download: dict[str, Any]) -> None:
    """A range of the file comes alone."""
    whole = site.media.file("/media/1080.mp4").read_bytes()
    answer = suite.http.get(download["files"][0]["url"], headers={"range": "bytes=1000-1999"})
    assert (answer.status_code, answer.content) == (206, whole[1000:2000])
    assert answer.headers["content-range"] == f"bytes 1000-1999/{len(whole)}"


def test_subtitles(suite: Suite, download: dict[str, Any]) -> None:
    """Subtitles are files of their own, one for each format, and say what was spoken."""
    subtitles = [file for file in download["files"] if file["kind"] == "SUBTITLE"]
    assert {file["language"] for file in subtitles} == {"en"}
    assert {file["name"].rpartition(".")[2] for file in subtitles} == {"srt", "vtt"}
    for file in subtitles:
        text = suite.http.get(file["url"]).text
        assert all(cue[2]["en"] in text for cue in media.CUES)


@pytest.mark.parametrize(
    "path",
    ["/watch/jsonld", "/watch/og", "/media/720.mp4", "/hls/master.m3u8", "/watch/hls", "/dash/manifest.mpd"],
)
def test_every_form_of_a_site(suite: Suite, site: Site, path: str, tmp_path: Path) -> None:
    """However a site shows its video, the saved one has the packets of the best rendition."""
    last = wait_for_end(suite, create_download(suite, site.url(path), format="mp4"))
    assert "completed" in last, last
    saved = tmp_path / "video.mp4"
    saved.write_bytes(suite.http.get(last["completed"]["files"][0]["url"]).content)
    height = tools.probe(saved).height
    assert height == (720 if "720" in path else 1080)
    assert tools.stream_digests(saved) == tools.stream_digests(site.media.file(_RENDITIONS[height]))


def test_ndjson(suite: Suite, download: dict[str, Any]) -> None:
    """Without an Accept header the watch comes as lines; of an ended download, its end alone."""
    lines = suite.http.get(f"/api/v1/progress/{download['job_id']}").text.splitlines()
    assert '"completed"' in lines[-1]


@pytest.fixture
def jobs(suite: Suite) -> Iterator[job_service_pb2_grpc.JobServiceStub]:
    with suite.channel("jobs") as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel)


def test_over_grpc(jobs: job_service_pb2_grpc.JobServiceStub, site: Site) -> None:
    """The same by gRPC: create, watch from snapshot to terminal snapshot, get."""
    spec = media_pb2.FormatSpec(max_height=360, container=media_pb2.FormatSpec.MP4)
    wanted = job_pb2.Job(url=site.url("/watch/demo"), format=spec)
    job = jobs.CreateJob(job_service_pb2.CreateJobRequest(job=wanted), timeout=30)
    told = list(jobs.WatchJob(job_service_pb2.WatchJobRequest(name=job.name), timeout=90))
    assert told[0].HasField("snapshot")
    assert told[-1].snapshot.terminal
    assert [message.sequence for message in told] == sorted(message.sequence for message in told)
    got = jobs.GetJob(job_service_pb2.GetJobRequest(name=job.name), timeout=30)
    assert got.state == job_pb2.Job.SUCCEEDED
    assert got.artifacts[0].checksums.sha256.hex() == site.digest("/media/360.mp4")
    assert got.got.height == 360
