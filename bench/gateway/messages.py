"""Messages that the canned upstream and FastAPI answer with."""

from __future__ import annotations

import itertools
import json
import re
from datetime import timedelta
from functools import cache
from typing import Any, Literal

from google.protobuf import json_format

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import ListJobsResponse, WatchJobResponse
from reelhaul.type.v1 import media_pb2

#: How the items of a list compare with those of the lists before: the same, 90 % the same, all different.
ListForm = Literal["polled", "most", "cold"]
LIST_FORMS: tuple[ListForm, ...] = ("polled", "most", "cold")

_ITEMS = 100
# Stands for the id of a job and is replaced by another of the same length.
_ID = "01999a3c-0000-7000-8000-000000000000"
_ANY_ID = re.compile(_ID[:24].encode() + rb"[0-9]{12}")
#: A job with this name has another id in each response.
NEW_JOB = f"jobs/{_ID[:-1]}1"
_TIME = 1_790_000_000

#: A request that creates a job, and its body of 215 bytes.
CREATE_FIELDS = {
    "url": "https://site.example/watch?v=dQw4w9WgXcQ",
    "format": {"maxHeight": 1080, "thumbnail": True},
    "priority": "HIGH",
    "labels": {"project": "gateway", "owner": "bench"},
    "attemptDeadline": "1800s",
}
CREATE_BODY = json.dumps(CREATE_FIELDS)


def job() -> Job:
    """Return a typical job that has succeeded: 1.6 KB as JSON."""
    result = Job(
        name=f"jobs/{_ID}",
        url="https://site.example/watch?v=dQw4w9WgXcQ",
        format=media_pb2.FormatSpec(max_height=1080, thumbnail=True),
        priority=Job.NORMAL,
        labels={"project": "gateway", "owner": "bench"},
        kind=Job.SINGLE,
        state=Job.SUCCEEDED,
        attempt_count=1,
        tenant="local",
        revision=7,
        etag='"7"',
    )
    result.attempt_deadline.FromTimedelta(timedelta(hours=1))
    for name, seconds in {"create": 0, "start": 1, "end": 42, "update": 42, "expire": 86_400}.items():
        getattr(result, f"{name}_time").FromNanoseconds((_TIME + seconds) * 10**9 + 123_456_000)
    result.progress.MergeFrom(_progress(percent=100, downloaded_bytes=123_456_789))
    result.media.MergeFrom(
        media_pb2.MediaInfo(
            extractor="example",
            media_id="dQw4w9WgXcQ",
            url="https://site.example/watch?v=dQw4w9WgXcQ",
            title="A video of “ordinary” length — with a title that is not only ASCII",
            description="What the video shows, in a sentence or two, as sites have it below the player; "
            "lists and progress do not repeat it, but a job that is read by its name does.",
            uploader="An uploader",
            thumbnail_url="https://site.example/thumbnails/dQw4w9WgXcQ/maxresdefault.jpg",
            view_count=1_234_567,
        )
    )
    result.media.duration.FromTimedelta(timedelta(seconds=212.5))
    artifact = result.artifacts.add(
        name=f"artifacts/{_ID}",
        kind=media_pb2.ArtifactInfo.VIDEO,
        file_name="A video of ordinary length [dQw4w9WgXcQ].mp4",
        media_type="video/mp4",
        size_bytes=123_456_789,
    )
    artifact.checksums.crc32c = 3_735_928_559
    artifact.checksums.sha256 = bytes(range(32))
    result.got.MergeFrom(
        media_pb2.DeliveredMedia(
            width=1920, height=1080, frame_rate=29.97, container="mp4", video_codec="avc1", audio_codec="mp4a"
        )
    )
    return result


def event(sequence: int, sent_us: int) -> WatchJobResponse:
    """Return a progress event; ``downloaded_bytes`` is the time of sending, in µs since the epoch."""
    response = WatchJobResponse(sequence=sequence, resume_token=f"t{sequence:08d}")
    response.event_time.FromMicroseconds(sent_us)
    response.progress.MergeFrom(_progress(percent=50, downloaded_bytes=sent_us))
    return response


def _progress(percent: float, downloaded_bytes: int) -> media_pb2.Progress:
    return media_pb2.Progress(
        stage=media_pb2.Progress.DOWNLOADING,
        percent=percent,
        attempt=1,
        downloaded_bytes=downloaded_bytes,
        total_bytes=10**10,
        bytes_per_second=5_000_000,
    )


class JobResponses:
    """Serialized answers of GetJob, CreateJob and ListJobs; making one costs some 20 µs."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._job = job().SerializeToString()
        # A repeated message is the key of its field, its length, and its content.
        self._items = [_with_number(_serialized_item(), number) for number in range(_ITEMS)]

    def serialize_job(self, *, new: bool) -> bytes:
        """Return the same job, or one with another id."""
        return _with_number(self._job, next(self._numbers) + _ITEMS) if new else self._job

    def serialize_list(self, form: ListForm, size: int) -> bytes:
        """Return a response with *size* items of one length; ids count up where items are new."""
        items = self._items[:size]
        if form == "cold":
            items = [_with_number(item, next(self._numbers) + _ITEMS) for item in items]
        elif form == "most":
            for index in range(0, size, 10):
                items[index] = _with_number(items[index], next(self._numbers) + _ITEMS)
        return b"".join(items)


def with_one_id(content: bytes) -> bytes:
    """Return JSON with the id of ``job`` in place of all ids that JobResponses has put there."""
    return _ANY_ID.sub(_ID.encode(), content)


def _with_number(item: bytes, number: int) -> bytes:
    return item.replace(_ID[24:].encode(), b"%012d" % number)


@cache
def _serialized_item() -> bytes:
    return ListJobsResponse(jobs=[job()]).SerializeToString()


def as_json(message: Any) -> Any:
    """Return *message* as the JSON value that all targets answer."""
    return json_format.MessageToDict(message)
