"""Batches and statistics of DownloadService; errors name what the caller wrote."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

from tests.jobs.calls import error_of
from tests.jobs.fake_worker import run_worker
from tests.jobs.test_downloads import URL, downloads, watched

from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1.lease_service_pb2 import FinishRequest
from reelhaul_jobs.model.retries import error_status

__all__ = ["downloads"]

Item = flat.CreateDownloadRequest


def batch(*urls: str, **fields) -> flat.BatchCreateDownloadsRequest:
    return flat.BatchCreateDownloadsRequest(urls=urls, **fields)


async def stored(downloads, **fields) -> int:
    return (await downloads.ListDownloads(flat.ListDownloadsRequest(**fields))).total


async def test_urls_and_items_are_one_batch(downloads):
    """Urls share their options, items have their own; the batch lists all in order."""
    request = batch("https://a.example/1", "https://a.example/2", options=Item(quality="720p"))
    request.items.add(url="https://a.example/3", audio_only=True, format="mp3")
    created = await downloads.BatchCreateDownloads(request)
    assert [job.url[-1] for job in created.jobs] == ["1", "2", "3"]
    assert [(job.quality, job.format) for job in created.jobs] == [
        ("720p", ""),
        ("720p", ""),
        ("best", "mp3"),
    ]
    assert (list(created.failed), {job.batch_id for job in created.jobs}) == ([], {created.batch_id})
    listed = flat.ListDownloadsRequest(batch_id=created.batch_id, order="oldest")
    assert [job.job_id for job in (await downloads.ListDownloads(listed)).jobs] == [
        job.job_id for job in created.jobs
    ]


async def test_errors_name_the_fields_of_the_batch(downloads):
    """An invalid url, option or item is named by its own path, and nothing is stored."""
    for request, reason, field in (
        (batch(URL, "file:///etc/passwd"), ErrorReason.URL_INVALID, "urls[1]"),
        (batch(URL, options=Item(quality="huge")), ErrorReason.FIELD_INVALID, "options.quality"),
        (batch(URL, options=Item(max_fps=999)), ErrorReason.FIELD_INVALID, "options.max_fps"),
        (
            batch(URL, items=[Item(url=URL), Item(url=URL, hdr="x")]),
            ErrorReason.FIELD_INVALID,
            "items[1].hdr",
        ),
        (
            batch(URL, items=[Item(url=URL, max_fps=999)]),
            ErrorReason.FIELD_INVALID,
            "items[0].max_fps",
        ),
        (batch(URL, items=[Item(url="ftp://a.example")]), ErrorReason.URL_INVALID, "items[0].url"),
        (batch(URL, items=[Item(url=URL, request_id=str(uuid.uuid4()))]), 1, "items[0].request_id"),
        (batch(URL, items=[Item(url=URL, validate_only=True)]), 1, "items[0].validate_only"),
        (batch(URL, options=Item(url=URL)), ErrorReason.FIELD_INVALID, "options.url"),
        (batch(URL, options=Item(request_id=str(uuid.uuid4()))), 1, "options.request_id"),
        (batch(URL, request_id="mine"), ErrorReason.FIELD_INVALID, "request_id"),
        (batch(*[URL] * 499, items=[Item(url=URL)] * 2), ErrorReason.FIELD_INVALID, "urls"),
        (batch(), ErrorReason.FIELD_INVALID, "urls"),
    ):
        error = await error_of(downloads.BatchCreateDownloads(request))
        assert (error.reason, error.violations[0].field) == (reason, field)
        assert "requests[" not in error.text
        assert "job." not in error.text
    assert await stored(downloads) == 0


async def test_partial_batch(downloads):
    """With partial the valid ones start, and each other is reported by index, URL and error."""
    urls = ("nonsense", "https://a.example/1", "https://user:secret@a.example")
    items = [
        Item(url="https://a.example/2", quality="huge"),
        Item(url="https://a.example/3"),
    ]
    request = batch(*urls, items=items, partial=True, request_id=str(uuid.uuid4()))
    created = await downloads.BatchCreateDownloads(request)
    assert [job.url for job in created.jobs] == ["https://a.example/1", "https://a.example/3"]
    assert [(failure.index, failure.url, failure.error.reason) for failure in created.failed] == [
        (0, "nonsense", "URL_INVALID"),
        (2, "https://user:secret@a.example", "URL_INVALID"),
        (3, "https://a.example/2", "FIELD_INVALID"),
    ]
    assert "1080p" in created.failed[2].error.message
    again = await downloads.BatchCreateDownloads(request)
    assert [job.job_id for job in again.jobs] == [job.job_id for job in created.jobs]
    assert again.failed == created.failed
    invalid = batch("nonsense", "more", partial=True, items=[Item(url=URL, max_fps=999)])
    error = await error_of(downloads.BatchCreateDownloads(invalid))
    assert (error.reason, error.metadata["failedCount"]) == (ErrorReason.BATCH_FAILED, "3")
    out_of_bounds = batch(URL, partial=True, options=Item(max_fps=999))
    error = await error_of(downloads.BatchCreateDownloads(out_of_bounds))
    assert "the first: max_fps: " in error.text
    assert await stored(downloads) == 2


async def test_stats(service, downloads):
    """Downloads are counted by status and reason, with their latencies, and those that wait now."""
    created = (await downloads.BatchCreateDownloads(batch("https://a.example/1", "https://a.example/2"))).jobs
    empty = await downloads.GetStats(flat.GetStatsRequest(created_before=created[0].create_time))
    assert (empty.total, dict(empty.by_status), empty.queued_now) == (0, {}, 2)
    assert not empty.HasField("success_ratio")
    assert not empty.HasField("median_seconds")

    async def handle(held_job):
        progress = media_pb2.Progress(downloaded_bytes=2**33)
        if held_job.job.endswith(created[0].job_id):
            status = error_status(ErrorReason.MEDIA_NOT_FOUND, "removed")
            await held_job.finish(failed=FinishRequest.Failed(status=status), progress=progress)
        else:
            artifact = media_pb2.ArtifactInfo(name="artifacts/1")
            await held_job.finish(succeeded=FinishRequest.Succeeded(artifacts=[artifact]), progress=progress)

    async with run_worker(service, handle):
        await asyncio.gather(*(watched(downloads, job.job_id) for job in created))
    await downloads.CreateDownload(Item(url=URL))
    stats = await downloads.GetStats(flat.GetStatsRequest())
    assert (stats.total, stats.queued_now, stats.running_now) == (3, 1, 0)
    assert dict(stats.by_status) == {"QUEUED": 1, "SUCCEEDED": 1, "FAILED": 1}
    assert dict(stats.by_error) == {"MEDIA_NOT_FOUND": 1}
    assert (stats.success_ratio, stats.downloaded_bytes) == (0.5, 2 * 2**33)
    assert 0 < stats.median_seconds == stats.p95_seconds
    old = flat.GetStatsRequest()
    old.created_after.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    error = await error_of(downloads.GetStats(old))
    assert error.metadata["field"] == "created_after"
    assert {Download.Status.Value(name) for name in stats.by_status} <= set(Download.Status.values())
