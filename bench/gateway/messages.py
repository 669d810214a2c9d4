"""Messages that the canned upstream and FastAPI answer with."""

from __future__ import annotations

import itertools
import json
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

#: Number of the job that FastAPI answers with, and of a job that the upstream answers with another number.
FIRST, NEW = 0, 999_999_999_999
# Jobs that are the same each time.
_POLLED = 100

# Stand in the serialized job where its number does, in ids, names and checksums, and in all times.
_DIGITS, _NANOS = b"777777777777", 333_333_000
_TIME = 1_790_000_000

#: A request that creates a job, and its body of 201 bytes.
CREATE_FIELDS = {
    "url": "https://site.example/watch?v=dQw4w9WgXcQ",
    "format": {"maxHeight": 1080, "thumbnail": True},
    "priority": "HIGH",
    "labels": {"project": "gateway", "owner": "bench"},
    "attemptDeadline": "1800s",
}
CREATE_BODY = json.dumps(CREATE_FIELDS)


def job_name(number: int) -> str:
    """Return the name of the job with *number*."""
    return f"jobs/01999a3c-0000-7000-8000-{number:012d}"


def serialize_job(number: int) -> bytes:
    """Return a job of 0.8 KB, as JSON 1.6 KB.

    What differs from job to job in practice (ids, URLs, names, checksums, times) differs by *number*; all
    have the same size, also as JSON.
    """
    return _with_number(_serialized_job(), number)


def job_as_json(number: int) -> dict[str, Any]:
    """Return the job with *number* as the JSON value that all targets answer."""
    value: dict[str, Any] = json_format.MessageToDict(Job.FromString(serialize_job(number)))
    return value


def event(sequence: int, sent_us: int) -> WatchJobResponse:
    """Return a progress event; ``downloaded_bytes`` is the time of sending, in µs since the epoch."""
    response = WatchJobResponse(sequence=sequence, resume_token=f"t{sequence:08d}")
    response.event_time.FromMicroseconds(sent_us)
    response.progress.MergeFrom(_progress(percent=50, downloaded_bytes=sent_us))
    return response


class JobResponses:
    """Serialized answers of GetJob, CreateJob and ListJobs; a new item costs some 3 µs."""

    def __init__(self) -> None:
        self._numbers = itertools.count(_POLLED)
        self._item = ListJobsResponse(jobs=[Job.FromString(_serialized_job())]).SerializeToString()
        self._items = [_with_number(self._item, number) for number in range(_POLLED)]

    def new_job(self) -> bytes:
        """Return a job that differs from all before."""
        return serialize_job(next(self._numbers))

    def list_jobs(self, form: ListForm, size: int) -> bytes:
        """Return a response with *size* items."""
        items = self._items[:size]
        new = {"polled": (), "most": range(0, size, 10), "cold": range(size)}[form]
        for index in new:
            items[index] = _with_number(self._item, next(self._numbers))
        return b"".join(items)


@cache
def _serialized_job() -> bytes:
    """Return a job that has succeeded, with placeholders for its number."""
    number = _DIGITS.decode()
    job = Job(
        name=job_name(int(number)),
        url=f"https://site.example/watch?v={number}",
        format=media_pb2.FormatSpec(max_height=1080, thumbnail=True),
        priority=Job.NORMAL,
        labels={"project": "gateway", "owner": "bench"},
        kind=Job.SINGLE,
        state=Job.SUCCEEDED,
        attempt_count=1,
        tenant="local",
        revision=7,
        etag='"7"',
        progress=_progress(percent=100, downloaded_bytes=123_456_789),
        got=media_pb2.DeliveredMedia(
            width=1920, height=1080, frame_rate=29.97, container="mp4", video_codec="avc1", audio_codec="mp4a"
        ),
    )
    job.attempt_deadline.FromTimedelta(timedelta(hours=1))
    times = {"create": 0, "start": 1, "end": 42, "update": 42, "expire": 86_400}
    for name, seconds in times.items():
        getattr(job, f"{name}_time").FromNanoseconds((_TIME + seconds) * 10**9 + _NANOS)
    job.progress.measure_time.CopyFrom(job.end_time)
    job.media.MergeFrom(
        media_pb2.MediaInfo(
            extractor="example",
            media_id=number,
            url=f"https://site.example/watch?v={number}",
            title="A video of “ordinary” length — with a title that is not only ASCII",
            description="What the video shows, in a sentence or two, as sites have it below the player",
            uploader="An uploader",
            thumbnail_url=f"https://site.example/thumbnails/{number}/maxresdefault.jpg",
            view_count=1_234_567,
        )
    )
    job.media.duration.FromTimedelta(timedelta(seconds=212.5))
    artifact = job.artifacts.add(
        name=f"artifacts/01999a3c-0000-7000-8000-{number}",
        kind=media_pb2.ArtifactInfo.VIDEO,
        file_name=f"A video of ordinary length [{number}].mp4",
        media_type="video/mp4",
        size_bytes=123_456_789,
    )
    artifact.checksums.crc32c = 3_735_928_559
    artifact.checksums.sha256 = bytes(range(20)) + _DIGITS
    return job.SerializeToString()


def _progress(percent: float, downloaded_bytes: int) -> media_pb2.Progress:
    return media_pb2.Progress(
        stage=media_pb2.Progress.DOWNLOADING,
        percent=percent,
        attempt=1,
        downloaded_bytes=downloaded_bytes,
        total_bytes=10**10,
        bytes_per_second=5_000_000,
    )


def _with_number(content: bytes, number: int) -> bytes:
    # An odd number of µs, so that JSON has six digits.
    nanos = 300_000_000 + 1000 * ((2 * number + 1) % 600_000)
    return content.replace(_DIGITS, b"%012d" % number).replace(_NANOS_VARINT, _varint(nanos))


def _varint(value: int) -> bytes:
    """Return a number of 29 to 35 bits as a varint of five bytes."""
    return bytes(
        (
            value & 127 | 128,
            value >> 7 & 127 | 128,
            value >> 14 & 127 | 128,
            value >> 21 & 127 | 128,
            value >> 28,
        )
    )


_NANOS_VARINT = _varint(_NANOS)
