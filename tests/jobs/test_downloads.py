"""DownloadService over real gRPC, NATS and SQLite."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest
from google.api import field_behavior_pb2
from tests.jobs.calls import error_of
from tests.jobs.conftest import TOKEN, JobsService
from tests.jobs.fake_worker import run_worker

from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.downloads.v1 import download_service_pb2_grpc
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import GetJobRequest
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.work.v1.lease_service_pb2 import FinishRequest
from reelhaul_jobs.api.downloads import field_names, requests
from reelhaul_jobs.api.downloads.choices import QUALITIES
from reelhaul_jobs.api.downloads.info import info_response
from reelhaul_jobs.api.downloads.responses import requested_quality
from reelhaul_jobs.model.retries import error_status
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.filters.ast import And, Operator, Term
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.rpc.server import serving

URL = "https://videos.example/watch?v=1"
DOWNLOADS = flat.DESCRIPTOR.services_by_name["DownloadService"]
FETCHER = fetcher_service_pb2.DESCRIPTOR.services_by_name["FetcherService"]


@pytest.fixture
async def downloads(service: JobsService) -> AsyncIterator[download_service_pb2_grpc.DownloadServiceStub]:
    async with open_channel(f"127.0.0.1:{service.port}", [DOWNLOADS]) as opened:
        yield download_service_pb2_grpc.DownloadServiceStub(opened)


async def watched(downloads, job_id: str, **fields) -> list[flat.WatchProgressResponse]:
    async with asyncio.timeout(15):
        request = flat.WatchProgressRequest(job_id=job_id, **fields)
        return [message async for message in downloads.WatchProgress(request)]


def spec(**fields) -> FormatSpec:
    return requests.create_request(flat.CreateDownloadRequest(url=URL, **fields)).job.format


def rejected_fields(**fields) -> set[str]:
    with pytest.raises(ReelhaulError) as failure:
        requests.create_request(flat.CreateDownloadRequest(url=URL, **fields))
    assert failure.value.reason == ErrorReason.FIELD_INVALID
    return {violation.field for violation in failure.value.violations}


async def test_from_create_to_files(service, downloads):
    """A download keeps the words of its request, and ends with files that have links."""
    request = flat.CreateDownloadRequest(url=URL, quality="720p", format="mp4", labels={"team": "a"})
    created = await downloads.CreateDownload(request)
    assert (created.status, created.quality, created.format) == (Download.QUEUED, "720p", "mp4")
    assert created.priority == "normal"
    watch = asyncio.create_task(watched(downloads, created.job_id))

    async def handle(held_job):
        await held_job.renew(media={"title": "A video", "uploader": "Someone"})
        video = media_pb2.ArtifactInfo(
            name="artifacts/a1", kind=media_pb2.ArtifactInfo.VIDEO, file_name="A video.mp4", size_bytes=2**40
        )
        video.checksums.sha256 = bytes(32)
        got = media_pb2.DeliveredMedia(width=480, height=854, container="mp4")
        media = media_pb2.MediaInfo(title="A video")
        media.duration.FromMilliseconds(1500)
        await held_job.finish(succeeded=FinishRequest.Succeeded(artifacts=[video], media=media, got=got))

    async with run_worker(service, handle):
        messages = await watch
    assert [message.WhichOneof("event") for message in messages] == ["snapshot", "state", "completed"]
    assert all(message.job_id == created.job_id and message.resume_token for message in messages)
    done = messages[-1].completed
    assert (done.status, done.progress_percent, done.title) == (Download.SUCCEEDED, 100, "A video")
    assert (done.got_quality, done.got_format, done.duration) == ("480p", "mp4", 1.5)
    (file,) = done.files
    assert (file.url, file.size_bytes) == ("/v1/artifacts/a1:download", 2**40)
    assert file.sha256 == "00" * 32
    assert await downloads.GetDownload(flat.GetDownloadRequest(job_id=created.job_id)) == done


async def test_same_jobs_as_job_service(service, downloads):
    """A download is a job of JobService, with its defaults set."""
    created = await downloads.CreateDownload(
        flat.CreateDownloadRequest(url=URL, subtitle_languages=["de"], start_seconds=1.5, ttl_seconds=60)
    )
    job = await service.jobs.GetJob(GetJobRequest(name=f"jobs/{created.job_id}"))
    assert job.format.subtitles.languages == ["de"]
    assert job.format.subtitles.formats == [FormatSpec.Subtitles.SRT]
    assert job.format.clip.start.ToMilliseconds() == 1500


async def test_failure_ends_the_stream(service, downloads):
    """The last message of a failed download has its error, with a reason to switch on."""
    created = await downloads.CreateDownload(flat.CreateDownloadRequest(url=URL))

    async def handle(held_job):
        status = error_status(ErrorReason.MEDIA_NOT_FOUND, "the video was removed")
        await held_job.finish(failed=FinishRequest.Failed(status=status))

    async with run_worker(service, handle):
        messages = await watched(downloads, created.job_id)
    failed = messages[-1].failed
    assert (failed.status, failed.error.reason) == (Download.FAILED, "MEDIA_NOT_FOUND")
    assert not failed.error.retryable
    again = await downloads.RetryDownload(flat.RetryDownloadRequest(job_id=created.job_id))
    assert (again.job_id, again.status) == (created.job_id, Download.QUEUED)


async def test_cancel_and_delete(downloads):
    """A queued download is cancelled at once; a deleted one is not found."""
    created = await downloads.CreateDownload(flat.CreateDownloadRequest(url=URL))
    cancelled = await downloads.CancelDownload(flat.CancelDownloadRequest(job_id=created.job_id))
    assert cancelled.status == Download.CANCELLED
    assert cancelled.error.reason == "JOB_CANCELLED"
    await downloads.DeleteDownload(flat.DeleteDownloadRequest(job_id=created.job_id))
    gone = await error_of(downloads.GetDownload(flat.GetDownloadRequest(job_id=created.job_id)))
    assert gone.reason == ErrorReason.RESOURCE_NOT_FOUND


async def test_errors_name_the_flat_fields(downloads):
    """Errors name quality, not job.format.max_height; and nothing is stored."""
    error = await error_of(downloads.CreateDownload(flat.CreateDownloadRequest(url=URL, quality="1079p")))
    assert error.metadata["field"] == "quality"
    assert "1080p" in error.text
    bounds = {"max_fps": 999, "audio_bitrate": 1, "min_quality": "1080p"}
    request = flat.CreateDownloadRequest(url=URL, quality="720p", **bounds)
    error = await error_of(downloads.CreateDownload(request))
    assert {v.field for v in error.violations} == set(bounds)
    assert "job.format" not in error.text
    error = await error_of(downloads.CreateDownload(flat.CreateDownloadRequest(url="file:///etc/passwd")))
    assert (error.reason, error.violations[0].field) == (ErrorReason.URL_INVALID, "url")
    error = await error_of(downloads.CreateDownload(flat.CreateDownloadRequest(url="x", quality="y")))
    assert (error.reason, len(error.violations)) == (ErrorReason.URL_INVALID, 2)
    error = await error_of(downloads.GetDownload(flat.GetDownloadRequest(job_id="no-id")))
    assert error.text == "job_id: must be a lower-case UUID"
    assert "job_id" in (error.metadata.get("field"), *(v.field for v in error.violations))
    assert (await downloads.ListDownloads(flat.ListDownloadsRequest())).total == 0


async def test_same_request_id_is_one_download(downloads):
    """A repeated call returns the first one's download."""
    request = flat.CreateDownloadRequest(url=URL, request_id=str(uuid.uuid4()))
    first, second = await downloads.CreateDownload(request), await downloads.CreateDownload(request)
    assert first.job_id == second.job_id
    request.quality = "360p"
    assert (await error_of(downloads.CreateDownload(request))).reason == ErrorReason.REQUEST_ID_REUSED


async def test_list_filters(downloads):
    """Lists narrow by status, part of the URL and times together; pages go by number or token."""
    created = [
        await downloads.CreateDownload(flat.CreateDownloadRequest(url=f"https://a.example/{name}"))
        for name in ("One*100%", "two", "three")
    ]
    await downloads.CancelDownload(flat.CancelDownloadRequest(job_id=created[1].job_id))

    async def found(**fields) -> list[str]:
        page = await downloads.ListDownloads(flat.ListDownloadsRequest(**fields))
        return [job.url.rpartition("/")[2] for job in page.jobs]

    assert await found() == ["three", "two", "One*100%"]
    assert await found(order="oldest") == ["One*100%", "two", "three"]
    assert await found(status=[Download.CANCELLED, Download.FAILED]) == ["two"]
    assert await found(url_contains="ONE*") == ["One*100%"]
    assert await found(url_contains='"') == []
    assert await found(url_contains="*") == ["One*100%"]
    assert await found(created_before=created[1].create_time) == ["One*100%"]
    assert await found(created_after=created[1].create_time, status=[Download.QUEUED]) == ["three"]
    assert await found(page=2, page_size=2) == ["One*100%"]
    first = await downloads.ListDownloads(flat.ListDownloadsRequest(page_size=2))
    assert (first.total, first.page) == (3, 1)
    assert await found(page_size=2, page_token=first.next_page_token) == ["One*100%"]


async def test_invalid_lists_are_rejected(downloads):
    """Each invalid field is named, and a damaged token is rejected."""
    for request, field in (
        (flat.ListDownloadsRequest(page=101, page_size=100), "page"),
        (flat.ListDownloadsRequest(page=1, page_token="x"), "page"),
        (flat.ListDownloadsRequest(order="random"), "order"),
        (flat.ListDownloadsRequest(url_contains="x" * 201), "url_contains"),
    ):
        error = await error_of(downloads.ListDownloads(request))
        assert error.metadata["field"] == field
    error = await error_of(downloads.ListDownloads(flat.ListDownloadsRequest(page_token="damaged")))
    assert error.reason == ErrorReason.PAGE_TOKEN_INVALID


async def test_info_probes_the_media(service, downloads):
    """GetInfo returns the fetcher's response, with the estimate for the requested quality."""

    class Fetcher(fetcher_service_pb2_grpc.FetcherServiceServicer):
        async def ProbeMedia(self, request, context):
            assert request.format.max_height == 720
            answer = fetcher_service_pb2.ProbeMediaResponse(media=media_pb2.MediaInfo(title="A video"))
            answer.media.formats.add(
                format_id="1", width=1920, height=800, video_codec="avc1", frame_rate=29.97
            )
            answer.media.formats.add(format_id="2", width=720, height=1280, video_codec="avc1")
            answer.estimate.size_bytes = 1000
            answer.estimate.formats.add(container="mp4", width=720, height=1280)
            return answer

    add = fetcher_service_pb2_grpc.add_FetcherServiceServicer_to_server
    servicer = (add, Fetcher(), FETCHER.full_name)
    async with serving(service.settings.fetcher_address, [servicer], authenticator=NoAuthentication(TOKEN)):
        response = await downloads.GetInfo(flat.GetInfoRequest(url=URL, quality="720p"))
    assert response.title == "A video"
    assert response.qualities == ["1080p", "720p"]
    assert response.formats[0].fps == 29.97
    assert (response.estimate.quality, response.estimate.format, response.estimate.size_bytes) == (
        "720p",
        "mp4",
        1000,
    )
    assert not response.HasField("duration")


async def test_validate_only_has_no_job_id(service, downloads):
    """With validate_only there is no job, and no id."""

    class Fetcher(fetcher_service_pb2_grpc.FetcherServiceServicer):
        async def ProbeMedia(self, request, context):
            return fetcher_service_pb2.ProbeMediaResponse(media=media_pb2.MediaInfo(title="A video"))

    add = fetcher_service_pb2_grpc.add_FetcherServiceServicer_to_server
    servicer = (add, Fetcher(), FETCHER.full_name)
    async with serving(service.settings.fetcher_address, [servicer], authenticator=NoAuthentication(TOKEN)):
        request = flat.CreateDownloadRequest(url=URL, validate_only=True)
        response = await downloads.CreateDownload(request)
    assert (response.title, response.job_id) == ("A video", "")


async def test_info_is_validated_before_the_fetcher_is_called(downloads):
    """An invalid request is rejected though no fetcher is running."""
    error = await error_of(downloads.GetInfo(flat.GetInfoRequest(url="nonsense", max_entries=2000)))
    assert {v.field for v in error.violations} == {"url", "max_entries"}


@pytest.mark.parametrize(
    ("field", "valid", "invalid"),
    [
        ("heartbeat_seconds", (0, 1, 60), (0.5, 60.5, -1, math.nan, math.inf)),
        ("min_interval_seconds", (0, 0.05, 60), (0.04, 61, -0.25, math.nan)),
    ],
)
def test_pace_of_a_watch_has_bounds(field, valid, invalid):
    """What the API's comments promise is checked; 0 means the default."""
    for value in valid:
        requests.watch_pace(flat.WatchProgressRequest(**{field: value}))
    for value in invalid:
        with pytest.raises(ReelhaulError, match=field):
            requests.watch_pace(flat.WatchProgressRequest(**{field: value}))


def test_words_become_format_fields():
    """Each word of the flat API sets its field of FormatSpec."""
    format_spec = spec(quality="worst", format="webm", video_codec="av1", hdr="require", chapters="split")
    assert format_spec.smallest
    assert format_spec.container == FormatSpec.WEBM
    assert format_spec.video_codecs == [FormatSpec.AV1]
    assert format_spec.dynamic_range == FormatSpec.REQUIRE_HDR
    assert format_spec.chapters == FormatSpec.SPLIT
    format_spec = spec(format="opus", audio_language="de", quality="best")
    assert format_spec.media_kind == FormatSpec.AUDIO
    assert format_spec.audio.format == FormatSpec.Audio.OPUS
    format_spec = spec(subtitles_only=True, subtitle_formats=["txt", "json"], translate_to="en")
    assert format_spec.media_kind == FormatSpec.SUBTITLES_ONLY
    assert format_spec.subtitles.formats == [FormatSpec.Subtitles.TXT, FormatSpec.Subtitles.JSON]
    assert spec(subtitles=True).HasField("subtitles")
    assert not spec().HasField("subtitles")
    assert spec(live="record").live.mode == FormatSpec.Live.RECORD


@pytest.mark.parametrize("quality", QUALITIES)
def test_quality_is_returned_as_requested(quality):
    """The word for a requested quality is the word of the request."""
    assert requested_quality(spec(quality=quality)) == quality


def test_conflicting_words_are_reported_together():
    """One error reports all unknown and conflicting words."""
    assert rejected_fields(quality="huge", format="avi", priority="now") == {"quality", "format", "priority"}
    assert rejected_fields(audio_only=True, format="mp4", quality="720p") == {"format", "quality"}
    assert rejected_fields(subtitles_only=True, format="mp3", audio_bitrate=64) == {"format", "audio_bitrate"}
    assert rejected_fields(subtitle_formats=["srt", ""]) == {"subtitle_formats"}
    assert rejected_fields(start_seconds=math.nan, end_seconds=-1, ttl_seconds=1e30) == {
        "start_seconds",
        "end_seconds",
        "ttl_seconds",
    }
    assert rejected_fields(max_entries=5) == {"max_entries"}


def test_every_field_of_a_job_has_a_flat_name():
    """Every field that validation may report has a name in the flat request."""
    flat_names = set(flat.CreateDownloadRequest.DESCRIPTOR.fields_by_name)
    paths = [*_paths(Job.DESCRIPTOR, "job")]
    # No flat request sets these; selector is for JobService alone.
    unset = ("selector", "retry_policy", "attempt_deadline", "language_required", "live.max", "live.from")
    unset += ("expire_time", "new_entries_only", "counts", "_count", "etag", "name")
    for path in paths:
        if not any(word in path for word in unset):
            assert field_names.flat_name(path) in flat_names, path


def test_unknown_numbers_from_newer_services_pass():
    """An enum number that this build does not know is passed on."""
    answer = fetcher_service_pb2.ProbeMediaResponse()
    answer.media.MergeFromString(b"\x78\x63")
    assert info_response(answer, FormatSpec()).live_status == 99


def test_list_times_are_exact():
    """Times of a list request are kept to the microsecond."""
    request = flat.ListDownloadsRequest()
    moment = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    request.created_after.FromDatetime(moment)
    query = requests.list_query(request, "local", PageTokens(b"k" * 32))
    assert query.where == And((Term("create_time", Operator.GREATER_OR_EQUAL, moment),))


def _paths(descriptor, path: str) -> Iterator[str]:
    for field in descriptor.fields:
        behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
        if field_behavior_pb2.OUTPUT_ONLY in behaviors:
            continue
        inner = f"{path}.{field.name}"
        yield inner
        message = field.message_type
        if message and message.full_name.startswith("reelhaul.") and not message.GetOptions().map_entry:
            yield from _paths(message, inner)
