"""The load: clients that ask for films, cancel, retry and delete, and remember what they were answered."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

import grpc
from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.message import Message
from tests.chaos.films import Film, Films

from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.jobs.v1.job_pb2 import Job

ENDED = (Job.SUCCEEDED, Job.FAILED, Job.CANCELLED)

# Answers that say nothing of what was done: ask again.
_UNKNOWN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
)
_CALL_SECONDS = 4.0
_LOOK_SECONDS = 0.25
_MANY = 20


@dataclass
class Wish:
    """One job that a client wants, and what it was answered."""

    request_id: str
    film: Film
    #: Whether the site will never show its film.
    hopeless: bool = False
    #: Whether so many crashes may end it.
    few_attempts: bool = False
    #: CreateJob was answered with a refusal: its schedule_time had passed before anybody took it.
    refused: bool = False
    #: Names that CreateJob answered: one, or something is wrong.
    names: set[str] = field(default_factory=set)
    #: A cancel was answered as good, and nothing was asked since.
    cancelled: bool = False
    #: How often RetryJob was asked for, answered or not.
    retries: int = 0
    deleted: bool = False

    @property
    def id(self) -> str:
        """The job's id; empty where no name was answered."""
        return min(self.names, default="").removeprefix("jobs/")


class Clients:
    """Clients beside each other, each with one job after the other."""

    def __init__(
        self, replicas: Sequence[job_service_pb2_grpc.JobServiceStub], films: Films, seed: int, number: int
    ) -> None:
        # Each call, and each repetition of one, goes to the next replica of jobs.
        self._replicas, self._films = cycle(replicas), films
        self._rngs = [random.Random(f"{seed}/client/{n}") for n in range(number)]
        self._over = asyncio.Event()
        self.wishes: list[Wish] = []
        #: Answers that should not be: what was asked, and the answer.
        self.oddities: list[str] = []

    async def run(self) -> None:
        """Ask until ``stop``, and then until all that was asked is answered."""
        await asyncio.gather(*(self._client(rng) for rng in self._rngs))

    def stop(self) -> None:
        """Begin nothing new."""
        self._over.set()

    async def _client(self, rng: random.Random) -> None:
        while not self._over.is_set():
            wish = self._wish(rng)
            self.wishes.append(wish)
            try:
                await self._create(wish, rng)
                if not wish.refused:
                    await self._live_through(wish, rng)
            except grpc.aio.AioRpcError as error:
                self.oddities.append(f"{wish.id or wish.request_id}: {error.code().name} {error.details()}")

    def _wish(self, rng: random.Random) -> Wish:
        draw, hopeless, lasting = rng.random(), False, 0.0
        faults: dict[str, int] = {}
        if draw < 0.35:
            lasting = rng.uniform(2, 6)
        elif draw < 0.43:
            faults = {"fail": 503, "times": 2}
        elif draw < 0.50:
            faults = {"reset": 30_000, "times": 1}
        elif draw < 0.56:
            faults, hopeless = {"fail": 404}, True
        film = self._films.another(rng, lasting=lasting, **faults)
        return Wish(str(uuid.UUID(int=rng.getrandbits(128), version=4)), film, hopeless, rng.random() < 0.15)

    async def _create(self, wish: Wish, rng: random.Random) -> None:
        asked = job_service_pb2.CreateJobRequest(job=_job(wish, rng), request_id=wish.request_id)
        twice = rng.random() < 0.15
        calls = [self._answer("CreateJob", asked) for _ in range(1 + twice)]
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, Job):
                wish.names.add(answer.name)
            elif not _is_too_late(asked.job, answer):
                raise answer
        wish.refused = not wish.names

    async def _live_through(self, wish: Wish, rng: random.Random) -> None:
        """What becomes of *wish*, as its client will have it."""
        draw = rng.random()
        if draw < 0.15:
            await asyncio.sleep(rng.uniform(0, 2.5))
            await self._cancel(wish)
        elif draw < 0.19:
            await asyncio.sleep(rng.uniform(0, 2.5))
            await self._delete(wish)
            return
        ended = await self._end(wish)
        if ended in (Job.FAILED, Job.CANCELLED) and rng.random() < 0.4:
            await self._retry(wish)
            ended = await self._end(wish)
        if ended is not None and rng.random() < 0.05:
            await self._delete(wish)

    async def _cancel(self, wish: Wish) -> None:
        asked = job_service_pb2.CancelJobRequest(name=f"jobs/{wish.id}")
        try:
            await self._answer("CancelJob", asked)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                raise
        else:
            wish.cancelled = True

    async def _retry(self, wish: Wish) -> None:
        wish.retries, wish.cancelled = wish.retries + 1, False
        asked = job_service_pb2.RetryJobRequest(name=f"jobs/{wish.id}", request_id=str(uuid.uuid4()))
        await self._answer("RetryJob", asked)

    async def _delete(self, wish: Wish) -> None:
        wish.deleted = True
        asked = job_service_pb2.DeleteJobRequest(name=f"jobs/{wish.id}", allow_missing=True)
        await self._answer("DeleteJob", asked)

    async def _end(self, wish: Wish) -> Job.State.ValueType | None:
        """How *wish* ended; None where the load is over before."""
        asked = job_service_pb2.GetJobRequest(name=f"jobs/{wish.id}")
        while not self._over.is_set():
            job: Job = await self._answer("GetJob", asked)
            if job.state in ENDED:
                return job.state
            await asyncio.sleep(_LOOK_SECONDS)
        return None

    async def _answer(self, method: str, asked: Message) -> Any:
        """What *method* answers, asked again for as long as nobody does."""
        while True:
            try:
                return await getattr(next(self._replicas), method)(asked, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _UNKNOWN:
                    raise
            await asyncio.sleep(0.1)


def _is_too_late(job: Job, answer: BaseException) -> bool:
    """Whether *answer* says rightly that *job* was to start before now."""
    refused = isinstance(answer, grpc.aio.AioRpcError) and answer.code() == grpc.StatusCode.INVALID_ARGUMENT
    return refused and job.HasField("schedule_time") and job.schedule_time.ToDatetime(UTC) < datetime.now(UTC)


def _job(wish: Wish, rng: random.Random) -> Job:
    policy = job_pb2.RetryPolicy(
        max_attempts=3 if wish.few_attempts else _MANY,
        min_backoff=duration_pb2.Duration(seconds=1),
        max_backoff=duration_pb2.Duration(seconds=2),
    )
    job = Job(url=wish.film.url, retry_policy=policy, priority=rng.choice((Job.LOW, Job.NORMAL, Job.HIGH)))
    if rng.random() < 0.15:
        when = timestamp_pb2.Timestamp()
        when.FromDatetime(datetime.now(UTC) + timedelta(seconds=rng.uniform(1, 4)))
        job.schedule_time.CopyFrom(when)
    return job
