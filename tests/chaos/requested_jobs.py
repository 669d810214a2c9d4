"""Requested jobs: what the clients requested, and how the service responded."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2
from tests.chaos.videos import Video, VideoSource

from reelhaul.jobs.v1 import job_pb2
from reelhaul.jobs.v1.job_pb2 import Job

#: Label in which a job shows the last acknowledged update.
UPDATE_LABEL = "update"

_MANY_ATTEMPTS = 20
_FEW_ATTEMPTS = 3


@dataclass
class RequestedJob:
    """One job that a client asks for, with the responses to its calls."""

    request_id: str
    video: Video
    tenant: str = ""
    #: Whether the site never serves the video.
    unavailable: bool = False
    #: Whether the job may run out of attempts because of crashes.
    few_attempts: bool = False
    #: Whether the create was refused because the job's schedule_time had passed.
    refused: bool = False
    #: Names in the create responses; more than one is an error.
    names: set[str] = field(default_factory=set)
    #: Whether a cancel was acknowledged and no retry was requested since.
    cancelled: bool = False
    #: Number of RetryJob and ResumeJob requests, acknowledged or not.
    retries: int = 0
    resumes: int = 0
    #: Value of UPDATE_LABEL in the last acknowledged update.
    update_label: str = ""
    deleted: bool = False

    @property
    def id(self) -> str:
        """The job's id; empty before the create is answered."""
        return min(self.names, default="").removeprefix("jobs/")

    @property
    def name(self) -> str:
        """The job's resource name."""
        return f"jobs/{self.id}"


def draw_job(rng: random.Random, videos: VideoSource, tenant: str) -> RequestedJob:
    """Create a video with random faults and return the request for it."""
    draw, unavailable, duration = rng.random(), False, 0.0
    faults: dict[str, int] = {}
    if draw < 0.25:
        duration = rng.uniform(2, 6)
    elif draw < 0.43:
        faults = {"fail": 503, "times": 2}
    elif draw < 0.50:
        faults = {"reset": 30_000, "times": 1}
    elif draw < 0.56:
        faults, unavailable = {"fail": 404}, True
    video = videos.create(rng, duration=duration, **faults)
    return RequestedJob(new_request_id(rng), video, tenant, unavailable, rng.random() < 0.15)


def new_request_id(rng: random.Random) -> str:
    """Return a request_id that is the same for the same seed."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def to_proto(requested: RequestedJob, rng: random.Random, *, scheduled: float) -> Job:
    """Return the job to create; *scheduled* is the probability that it starts in a few seconds."""
    policy = job_pb2.RetryPolicy(
        max_attempts=_FEW_ATTEMPTS if requested.few_attempts else _MANY_ATTEMPTS,
        min_backoff=duration_pb2.Duration(seconds=1),
        max_backoff=duration_pb2.Duration(seconds=2),
    )
    job = Job(url=requested.video.url, retry_policy=policy, priority=draw_priority(rng))
    if rng.random() < scheduled:
        job.schedule_time.CopyFrom(timestamp_in(rng.uniform(0.5, 4)))
    return job


def draw_priority(rng: random.Random) -> Job.Priority.ValueType:
    """Return a random priority."""
    return rng.choice((Job.LOW, Job.NORMAL, Job.HIGH))


def timestamp_in(seconds: float) -> timestamp_pb2.Timestamp:
    """Return the time *seconds* from now."""
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return timestamp


def is_overdue(job: Job) -> bool:
    """Return whether the schedule_time of *job* has passed."""
    return job.HasField("schedule_time") and job.schedule_time.ToDatetime(UTC) < datetime.now(UTC)
