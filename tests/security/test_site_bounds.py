"""What sites say about media is bounded where it arises, and nothing too large holds a slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.fetcher.conftest import engine_environment as engine_environment
from tests.fetcher.conftest import harness as harness
from tests.fetcher.fakes import FakeLeases
from tests.fetcher.guard_harness import PUBLIC, Site, running_site
from tests.fetcher.worker_harness import JOB, WorkerHarness
from tests.jobs.conftest import SERVICES, TOKEN, JobsService
from tests.jobs.conftest import nats_server as nats_server
from tests.jobs.conftest import service as service
from tests.jobs.conftest import settings as settings
from tests.jobs.fake_worker import claim_request

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import CreateJobRequest, GetJobRequest
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo, PlaylistEntry
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul.work.v1 import lease_service_pb2, work_pb2
from reelhaul.work.v1.lease_service_pb2 import FinishRequest, RenewRequest
from reelhaul_fetcher.clients.jobs import BatchingLeaseClient
from reelhaul_fetcher.model import site_limits
from reelhaul_fetcher.model.site_limits import SiteValues
from reelhaul_fetcher.ytdlp.extract.entries import to_entry
from reelhaul_fetcher.ytdlp.extract.info import to_media_info
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError, Unavailable
from reelhaul_runtime.rpc.channels import open_channel

ORDINARY: dict[str, Any] = {
    "extractor": "youtube",
    "id": "abc",
    "webpage_url": "https://video.example/watch?v=abc",
    "title": "A video",
    "description": "Two lines\nof text",
    "uploader": "Somebody",
    "thumbnail": "https://video.example/abc.jpg",
    "language": "en",
    "duration": 12.5,
    "formats": [{"format_id": "22", "url": "https://video.example/22", "ext": "mp4", "tbr": 500.0}],
    "subtitles": {"en": [{"ext": "vtt", "url": "https://video.example/en", "name": "English"}]},
    "chapters": [{"title": "Begin", "start_time": 0, "end_time": 5}],
}
HUGE = "é" * 5_000_000
OVERSIZED: dict[str, Any] = {
    **dict.fromkeys(("extractor", "id", "title", "description", "uploader", "language"), HUGE),
    "webpage_url": "https://video.example/" + HUGE,
    "thumbnail": "https://video.example/" + HUGE,
    "formats": [
        {"format_id": f"{n}" + "é" * 500, "ext": HUGE, "vcodec": "é" * 60, "protocol": "é" * 60, "url": "x"}
        for n in range(5000)
    ],
    "subtitles": {f"language {n}": [{"name": "é" * 500}] for n in range(20_000)},
    "automatic_captions": {HUGE: [{"name": "English"}]},
    "chapters": [{"title": "é" * 1000, "start_time": n, "end_time": n + 1} for n in range(20_000)],
    "entries": None,
}
VTT = "WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n"


@asynccontextmanager
async def page_with_subtitles(title: str) -> AsyncIterator[str]:
    """Serve a page called *title*, whose video has subtitles; yield its URL."""
    async with running_site() as site:
        add(site, "/en.vtt", VTT, "text/vtt")
        video = '<video src="/v.mp4"><track kind="subtitles" srclang="en" src="/en.vtt"></video>'
        yield add(site, "/page", f"<html><head><title>{title}</title></head>{video}</html>", "text/html")


def add(site: Site, path: str, body: str, media_type: str) -> str:
    """Serve *body* at *path*; return its URL."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(body.encode())}\r\n\r\n"
    site.responses[path] = (head + body).encode()
    return f"http://{PUBLIC}:{site.port}{path}"


def test_oversized_metadata() -> None:
    """Oversized metadata is cut to what a message may have, with an ellipsis and one warning."""
    values = SiteValues()
    media = to_media_info({name: value for name, value in OVERSIZED.items() if name != "entries"}, values)
    assert media.ByteSize() <= site_limits.MAX_MEDIA_BYTES
    assert (len(media.title), media.title[-1]) == (site_limits.MAX_TITLE, "…")
    assert (len(media.description), media.description[-1]) == (5000, "…")
    assert len(media.uploader) == site_limits.MAX_NAME
    assert (media.url, media.thumbnail_url, media.original_language_code) == ("", "", "")
    (warning,) = values.warnings
    assert warning.reason == MediaWarning.METADATA_CUT
    assert {"title", "formats", "subtitle tracks", "chapters"} <= set(
        warning.message.split(": ")[1].split(", ")
    )
    # Of formats the best stay; they are sorted from worst to best.
    assert media.formats[-1].format_id.startswith("4999")


def test_oversized_entries() -> None:
    """The entries of a list are cut, and together fit into a message."""
    entry = {"_type": "url", "url": "https://video.example/" + "x" * 2000, "title": HUGE, "id": HUGE}
    values = SiteValues()
    entries = filter(None, [to_entry(entry, {}, values) for _ in range(1000)])
    media = to_media_info({"title": "A list", "entries": []}, values, entries)
    assert media.ByteSize() <= site_limits.MAX_MEDIA_BYTES
    assert len(media.entries[0].title) == site_limits.MAX_TITLE
    assert media.entries[0].media_id == ""
    assert len(values.warnings) == 1


def test_ordinary_metadata() -> None:
    """Ordinary metadata is not touched, and gives no warning."""
    values = SiteValues()
    media = to_media_info(ORDINARY, values)
    assert (media.title, media.description, media.uploader) == ("A video", "Two lines\nof text", "Somebody")
    assert (media.url, media.thumbnail_url) == (ORDINARY["webpage_url"], ORDINARY["thumbnail"])
    assert [track.language_code for track in media.subtitle_tracks] == ["en"]
    assert (media.formats[0].bitrate_bps, media.formats[0].format_id) == (500_000, "22")
    assert media.duration.ToTimedelta().total_seconds() == 12.5
    assert [chapter.title for chapter in media.chapters] == ["Begin"]
    assert values.warnings == []


@pytest.mark.parametrize("length", [site_limits.MAX_TITLE, site_limits.MAX_TITLE + 1])
def test_longest_title(length: int) -> None:
    """A title of just the permitted length is whole."""
    text, is_cut = site_limits.shorten("x" * length, site_limits.MAX_TITLE)
    assert len(text) == site_limits.MAX_TITLE
    assert is_cut == (length > site_limits.MAX_TITLE)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("title", ["x" * 1_500_000, "A video"], ids=["oversized", "ordinary"])
async def test_title_of_a_page(harness: Harness, title: str) -> None:
    """The metadata that leaves the child is bounded; the job succeeds, with a warning if something is cut."""
    listener = FetchListener()
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=FormatSpec.Subtitles(languages=["en"]))
    async with page_with_subtitles(title) as url:
        result = await harness.fetch(url, spec, listener)
    for media in (result.media, *listener.media_updates):
        assert len(media.title) == min(len(title), site_limits.MAX_TITLE)
    reasons = [warning.reason for warning in result.warnings]
    assert reasons == ([MediaWarning.METADATA_CUT] if len(title) > site_limits.MAX_TITLE else [])
    assert len(result.products) == 1


class RejectingLeases(FakeLeases):
    """Leases that answer renewals and finishes with errors, as long as there are any."""

    def __init__(self, log: list[str], lease_seconds: float = 30.0) -> None:
        super().__init__(log, lease_seconds)
        self.renew_errors: list[ReelhaulError] = []
        self.finish_errors: list[ReelhaulError] = []

    async def renew(self, request: RenewRequest) -> lease_service_pb2.RenewResponse:
        if self.renew_errors:
            self.log.append("renew rejected")
            raise self.renew_errors.pop(0)
        return await super().renew(request)

    async def finish(self, request: FinishRequest) -> lease_service_pb2.FinishResponse:
        if self.finish_errors:
            self.log.append("finish rejected")
            raise self.finish_errors.pop(0)
        copy = FinishRequest()
        copy.CopyFrom(request)
        return await super().finish(copy)


def rejecting_harness(folder: Path, lease_seconds: float = 30.0) -> tuple[WorkerHarness, RejectingLeases]:
    """Return a worker with one slot, and its leases."""
    harness = WorkerHarness(folder, lease_seconds)
    leases = RejectingLeases(harness.log, lease_seconds)
    leases.specs = harness.leases.specs
    harness.leases = harness.context.leases = leases
    return harness, leases


QUOTA = ReelhaulError(ErrorReason.QUOTA_EXCEEDED, "RESOURCE_EXHAUSTED that time does not mend")


@pytest.mark.parametrize(
    "error", [FieldInvalid("media", "is too large"), QUOTA], ids=["invalid", "exhausted"]
)
async def test_rejected_renewal_ends_the_attempt(tmp_path: Path, error: ReelhaulError) -> None:
    """A renewal that jobs will never accept ends the attempt with the reason, and frees the slot."""
    harness, leases = rejecting_harness(tmp_path, lease_seconds=0.06)
    leases.renew_errors = [error]
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
        harness.engine.go.set()
        harness.enqueue()
        await harness.wait_logged("ack", 2)
    assert [finish.WhichOneof("outcome") for finish in leases.finishes] == ["failed", "succeeded"]
    assert error.text in leases.finishes[0].failed.status.message


async def test_unanswered_renewal_is_repeated(tmp_path: Path) -> None:
    """A renewal that jobs does not answer is repeated, and the attempt goes on."""
    harness, leases = rejecting_harness(tmp_path, lease_seconds=0.06)
    leases.renew_errors = [
        Unavailable("jobs", "jobs does not answer"),
        ReelhaulError(ErrorReason.RATE_LIMIT_EXCEEDED, "RESOURCE_EXHAUSTED for a moment"),
    ]
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("in progress")
        harness.engine.go.set()
        await harness.wait_logged("ack")
    assert harness.log.count("renew rejected") == 2
    assert harness.outcome.HasField("succeeded")


@pytest.mark.parametrize(
    "error", [FieldInvalid("media", "is too large"), QUOTA], ids=["invalid", "exhausted"]
)
async def test_rejected_outcome_becomes_a_failure(tmp_path: Path, error: ReelhaulError) -> None:
    """An outcome that jobs will never accept is replaced by a failure that says so, also if it is one."""
    for failure in (None, ReelhaulError(ErrorReason.MEDIA_NOT_FOUND, "it is gone")):
        harness, leases = rejecting_harness(tmp_path)
        harness.engine.failure = failure
        leases.finish_errors = [error]
        async with harness.running():
            harness.enqueue()
            await harness.wait_logged("ack")
        assert harness.log.count("finish rejected") == 1
        assert error.text in harness.outcome.failed.status.message
        assert not harness.outcome.HasField("progress")
        assert not harness.artifacts.stored


async def test_unanswered_outcome_is_repeated(tmp_path: Path) -> None:
    """An outcome that jobs does not answer is repeated as it is."""
    harness, leases = rejecting_harness(tmp_path)
    leases.finish_errors = [Unavailable("jobs", "jobs does not answer")]
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    assert harness.outcome.HasField("succeeded")


async def test_entries_fit_into_renewals(tmp_path: Path) -> None:
    """Entries are sent in renewals of a bounded size, all of them, in their order."""
    harness, leases = rejecting_harness(tmp_path, lease_seconds=0.06)
    leases.specs[JOB].expansion.max_entries = 400
    harness.engine.entries = [PlaylistEntry(url=f"https://{n}.example/{'x' * 20_000}") for n in range(400)]
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    sent = [renewal for renewal in leases.renewals if renewal.entries]
    assert [entry for renewal in sent for entry in renewal.entries] == harness.engine.entries
    assert max(renewal.ByteSize() for renewal in sent) < 4 * 1024 * 1024


async def claimed_job(service: JobsService) -> str:
    """Create a job and claim it."""
    request = CreateJobRequest(job=Job(url="https://video.example/watch"))
    job = (await service.jobs.CreateJob(request)).name
    await service.leases.Claim(claim_request(work_pb2.WorkItem(job=job, attempt=1), "w1"))
    return job


@pytest.mark.parametrize("title", ["x" * 3_800_000, "A video"], ids=["oversized", "ordinary"])
async def test_jobs_bounds_media(service: JobsService, title: str) -> None:
    """Jobs stores bounded metadata, whatever a worker sends."""
    job = await claimed_job(service)
    media = MediaInfo(title=title, uploader=title[:100_000], formats=[media_pb2.Format(format_id="22")])
    await service.leases.Renew(RenewRequest(job=job, epoch=1, media=media))
    stored = (await service.jobs.GetJob(GetJobRequest(name=job))).media
    assert stored.title == title[:500]
    assert stored.uploader == title[:200]


async def test_jobs_rejects_oversized_outcomes(service: JobsService) -> None:
    """Artifacts, errors and results that no worker sends are rejected; ordinary ones are accepted."""
    job = await claimed_job(service)
    huge, artifact = "x" * 100_000, media_pb2.ArtifactInfo(name="artifacts/1", file_name="A video.mp4")
    delivered = media_pb2.DeliveredMedia(format_ids=[huge])
    outcomes = [
        FinishRequest.Succeeded(artifacts=[media_pb2.ArtifactInfo(file_name=huge)]),
        FinishRequest.Succeeded(artifacts=[artifact], got=delivered),
    ]
    requests = [FinishRequest(job=job, epoch=1, succeeded=outcome) for outcome in outcomes]
    requests.append(FinishRequest(job=job, epoch=1, failed=FinishRequest.Failed(status={"message": huge})))
    async with lease_client(service) as leases:
        for request in requests:
            with pytest.raises(ReelhaulError) as failure:
                await leases.finish(request)
            assert failure.value.reason == ErrorReason.FIELD_INVALID
        warning = MediaWarning(reason=MediaWarning.TRANSCODED, message=huge)
        succeeded = FinishRequest.Succeeded(artifacts=[artifact], warnings=[warning])
        response = await leases.finish(FinishRequest(job=job, epoch=1, succeeded=succeeded))
    assert response.HasField("receipt")
    stored = await service.jobs.GetJob(GetJobRequest(name=job))
    assert stored.state == Job.SUCCEEDED
    assert len(stored.warnings[0].message) == 500


async def test_message_beyond_the_limit_of_grpc(service: JobsService) -> None:
    """A request that gRPC does not accept fails as invalid, so that a worker gives it up."""
    job = await claimed_job(service)
    async with lease_client(service) as leases:
        for call in (
            leases.renew(RenewRequest(job=job, epoch=1, media=MediaInfo(title="x" * 5_000_000))),
            leases.finish(FinishRequest(job=job, epoch=1, succeeded={"media": {"title": "x" * 5_000_000}})),
        ):
            with pytest.raises(ReelhaulError) as failure:
                async with asyncio.timeout(20):
                    await call
            assert failure.value.reason == ErrorReason.FIELD_INVALID
        response = await leases.renew(RenewRequest(job=job, epoch=1, media=MediaInfo(title="A video")))
    assert response.HasField("renewal")


@asynccontextmanager
async def lease_client(service: JobsService) -> AsyncIterator[BatchingLeaseClient]:
    """Open the client that fetchers have."""
    address = f"127.0.0.1:{service.port}"
    async with open_channel(address, SERVICES, suite_token=TOKEN) as channel:
        yield BatchingLeaseClient(channel)
