"""Wishes: what the clients want, and what they were answered."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2
from tests.chaos.videos import Film, Films

from reelhaul.jobs.v1 import job_pb2
from reelhaul.jobs.v1.job_pb2 import Job

#: The label by which a job shows the last update that was answered.
MARK = "mark"

_MANY = 20


@dataclass
class Wish:
    """One job that a client wants, and what it was answered."""

    request_id: str
    film: Film
    tenant: str = ""
    #: Whether the site will never show its film.
    hopeless: bool = False
    #: Whether so many crashes may end it.
    few_attempts: bool = False
    #: It was answered with a refusal: its schedule_time had passed before anybody took it.
    refused: bool = False
    #: Names that it was answered with: one, or something is wrong.
    names: set[str] = field(default_factory=set)
    #: A cancel was answered as good, and nothing was asked since.
    cancelled: bool = False
    #: How often RetryJob and ResumeJob were asked for, answered or not.
    retries: int = 0
    resumes: int = 0
    #: What the last answered update made of its label.
    mark: str = ""
    deleted: bool = False

    @property
    def id(self) -> str:
        """The job's id; empty where no name was answered."""
        return min(self.names, default="").removeprefix("jobs/")

    @property
    def name(self) -> str:
        """The job's name."""
        return f"jobs/{self.id}"


def drawn(rng: random.Random, films: Films, tenant: str) -> Wish:
    """A wish for a film, with what goes wrong with that at its site."""
    draw, hopeless, lasting = rng.random(), False, 0.0
    faults: dict[str, int] = {}
    if draw < 0.25:
        lasting = rng.uniform(2, 6)
    elif draw < 0.43:
        faults = {"fail": 503, "times": 2}
    elif draw < 0.50:
        faults = {"reset": 30_000, "times": 1}
    elif draw < 0.56:
        faults, hopeless = {"fail": 404}, True
    film = films.another(rng, lasting=lasting, **faults)
    return Wish(request_id(rng), film, tenant, hopeless, rng.random() < 0.15)


def request_id(rng: random.Random) -> str:
    """A request_id that a seed repeats."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def job_of(wish: Wish, rng: random.Random, *, soon: float = 0.15) -> Job:
    """The job that *wish* asks for; by the odds *soon* it is to start in a few seconds."""
    policy = job_pb2.RetryPolicy(
        max_attempts=3 if wish.few_attempts else _MANY,
        min_backoff=duration_pb2.Duration(seconds=1),
        max_backoff=duration_pb2.Duration(seconds=2),
    )
    job = Job(url=wish.film.url, retry_policy=policy, priority=priority(rng))
    if rng.random() < soon:
        job.schedule_time.CopyFrom(in_seconds(rng.uniform(0.5, 4)))
    return job


def priority(rng: random.Random) -> Job.Priority.ValueType:
    """Any of the three."""
    return rng.choice((Job.LOW, Job.NORMAL, Job.HIGH))


def in_seconds(seconds: float) -> timestamp_pb2.Timestamp:
    """The time in so many seconds."""
    when = timestamp_pb2.Timestamp()
    when.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return when


def has_passed(job: Job) -> bool:
    """Whether *job* was to start before now."""
    return job.HasField("schedule_time") and job.schedule_time.ToDatetime(UTC) < datetime.now(UTC)
