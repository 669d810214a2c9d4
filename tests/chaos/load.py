"""The load: clients of several tenants that ask for films by each way there is, and remember the answers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Sequence
from itertools import count
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc import aio
from tests.chaos.client import Caller, Refused
from tests.chaos.requested_jobs import Wish, drawn, has_passed, in_seconds, job_of, request_id
from tests.chaos.scenarios import Life
from tests.chaos.videos import Films

from reelhaul.jobs.v1 import job_service_pb2, schedule_pb2, schedule_service_pb2
from reelhaul.jobs.v1.job_pb2 import Job

#: Whose clients there are.
TENANTS = ("acme", "brook", "crane")

# So long may a call be under way that was given up: it is asked about once more then.
_LATE_SECONDS = 8.0
# Never in a run.
_NEW_YEAR = "0 0 1 1 *"


class Clients:
    """Clients beside each other, each with one wish, batch or schedule after the other."""

    def __init__(self, replicas: Sequence[aio.Channel], films: Films, seed: int, number: int) -> None:
        self._films = films
        self._callers = [Caller(replicas, tenant) for tenant in TENANTS]
        self._rngs = [random.Random(f"{seed}/client/{n}") for n in range(number)]
        self._over = asyncio.Event()
        self.wishes: list[Wish] = []
        #: Answers that should not be: what was asked, and the answer.
        self.oddities: list[str] = []

    @property
    def done(self) -> Counter[str]:
        """How often each method was done."""
        return sum((caller.done for caller in self._callers), Counter())

    async def run(self) -> None:
        """Ask until ``stop``, and then until all that was asked is answered."""
        await asyncio.gather(*(self._client(number, rng) for number, rng in enumerate(self._rngs)))

    def stop(self) -> None:
        """Begin nothing new."""
        self._over.set()

    async def _client(self, number: int, rng: random.Random) -> None:
        caller = self._callers[number % len(TENANTS)]
        # Each begins elsewhere: a short run has all of them too.
        ways = [self._batch, *[self._single] * 4, self._schedule, *[self._single] * 3, self._batch]
        turns = count(number)
        while not self._over.is_set():
            way = ways[next(turns) % len(ways)]
            wishes = [drawn(rng, self._films, caller.tenant) for _ in range(_number(way == self._batch, rng))]
            self.wishes += wishes
            try:
                await way(caller, wishes, rng)
            except (Refused, AssertionError) as odd:
                self.oddities.append(f"{wishes[0].id or wishes[0].request_id}: {odd}")

    async def _single(self, caller: Caller, wishes: list[Wish], rng: random.Random) -> None:
        (wish,) = wishes
        asked = job_service_pb2.CreateJobRequest(job=job_of(wish, rng), request_id=wish.request_id)
        for answer in await _answers(caller, "CreateJob", asked, [asked.job], rng):
            wish.names.add(answer.name)
        wish.refused = not wish.names
        await self._live(caller, wishes)

    async def _batch(self, caller: Caller, wishes: list[Wish], rng: random.Random) -> None:
        """Some at once, at times with one among them that cannot be."""
        jobs = [job_of(wish, rng, soon=0.1) for wish in wishes]
        if rng.random() < 0.3:
            jobs[0].schedule_time.CopyFrom(in_seconds(rng.uniform(0.2, 1)))
        requests = [job_service_pb2.CreateJobRequest(job=job) for job in jobs]
        bad = rng.randrange(len(requests) + 1) if rng.random() < 0.3 else -1
        if bad >= 0:
            requests.insert(bad, job_service_pb2.CreateJobRequest(job=Job(url="file:///etc/passwd")))
        asked = job_service_pb2.BatchCreateJobsRequest(
            requests=requests, request_id=wishes[0].request_id, return_partial_success=bad >= 0
        )
        for answer in await _answers(caller, "BatchCreateJobs", asked, jobs, rng):
            _note(answer, wishes, jobs, bad)
        for wish in wishes:
            wish.refused = not wish.names
        await self._live(caller, wishes)

    async def _schedule(self, caller: Caller, wishes: list[Wish], rng: random.Random) -> None:
        """A schedule that is run by hand, paused or not, and goes again."""
        (wish,) = wishes
        schedule = schedule_pb2.Schedule(cron=_NEW_YEAR, job_template=job_of(wish, rng, soon=0))
        asked = schedule_service_pb2.CreateScheduleRequest(schedule=schedule, request_id=request_id(rng))
        (made, *others) = await _answers(caller, "CreateSchedule", asked, [], rng)
        assert all(other.name == made.name for other in others), "one request_id made two schedules"
        if rng.random() < 0.3:
            pause = schedule_service_pb2.PauseScheduleRequest(name=made.name)
            await caller.ask("PauseSchedule", pause)
        run = schedule_service_pb2.RunScheduleRequest(name=made.name, request_id=wish.request_id)
        for answer in await _answers(caller, "RunSchedule", run, [], rng):
            wish.names.add(answer.name)
        await self._live(caller, wishes)
        try:
            gone = schedule_service_pb2.DeleteScheduleRequest(name=made.name)
            await caller.ask("DeleteSchedule", gone)
        except Refused as no:
            if no.code is not grpc.StatusCode.NOT_FOUND or not no.unsure:
                raise

    async def _live(self, caller: Caller, wishes: list[Wish]) -> None:
        stranger = next(other for other in self._callers if other is not caller)
        lives = [Life(caller, stranger, wish, self._over).run() for wish in wishes if wish.names]
        for failure in await asyncio.gather(*lives, return_exceptions=True):
            if isinstance(failure, BaseException):
                raise failure


def _number(of_a_batch: bool, rng: random.Random) -> int:
    return rng.randint(2, 6) if of_a_batch else 1


async def _answers(
    caller: Caller, method: str, asked: Message, jobs: Sequence[Job], rng: random.Random
) -> list[Any]:
    """What *method* answers, at times asked twice at once.

    None where the time of one of *jobs* had passed before anybody took them. Where that is not sure,
    a call that was given up may still be under way: it is asked again.
    """
    times = 1 + (rng.random() < 0.15)
    answers, unsure = await _taken([caller.ask(method, asked) for _ in range(times)], jobs)
    if not answers and unsure:
        await asyncio.sleep(_LATE_SECONDS)
        answers, _ = await _taken([caller.ask(method, asked)], jobs)
    return answers


async def _taken(calls: Sequence[Awaitable[Any]], jobs: Sequence[Job]) -> tuple[list[Any], bool]:
    answers, unsure = list[Any](), False
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(answer, Refused) and _is_too_late(answer, jobs):
            unsure |= answer.unsure
        elif isinstance(answer, BaseException):
            raise answer
        else:
            answers.append(answer)
    return answers, unsure


def _is_too_late(no: Refused, jobs: Sequence[Job]) -> bool:
    """Whether *no* says rightly that one of *jobs* was to start before now."""
    return no.code is grpc.StatusCode.INVALID_ARGUMENT and any(has_passed(job) for job in jobs)


def _note(
    answer: job_service_pb2.BatchCreateJobsResponse, wishes: list[Wish], jobs: list[Job], bad: int
) -> None:
    """Which job each wish of a batch was answered with; one that came too late may be among the failed."""
    failed = set(answer.failed_requests)
    places = [place for place in range(len(wishes) + (bad >= 0)) if place != bad]
    late = {place for place, job in zip(places, jobs, strict=True) if place in failed and has_passed(job)}
    wrong = failed - late - {bad}
    assert not wrong, f"a batch failed at {sorted(wrong)} without need"
    kept = [wish for wish, place in zip(wishes, places, strict=True) if place not in late]
    assert len(kept) == len(answer.jobs), f"a batch of {len(kept)} made {len(answer.jobs)} jobs"
    for wish, job in zip(kept, answer.jobs, strict=True):
        wish.names.add(job.name)
