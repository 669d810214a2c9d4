"""Watching: how long progress takes from the fetcher to the gRPC client, and what it costs the service.

Parts: spread (500 watchers of 500 jobs), crowd (500 watchers of one job, with and without slow ones).
Each is played before a bare echo as well: what grpc.aio costs without any of the service in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

import grpc
from tests.servers import free_port

from bench import load
from bench.harness import House, Service, house, serving
from bench.processes import Process, python, running
from bench.report import Report, ratios
from bench.watch.scene import Held, Rounds, Scene, Stage
from reelhaul.work.v1 import lease_pb2
from reelhaul.work.v1.lease_service_pb2 import ClaimRequest

_WATCHERS = 500
# Of them so many are programs with a gRPC client; the others cost this machine next to nothing.
_REAL = 10
_GOAL_MS = 50.0


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those of *only*."""
    rounds = 2 if report.short else 5
    for name, part, jobs in (("spread", _spread, _WATCHERS), ("crowd", _crowd, 1)):
        if not only or name in only:
            async with _stages(jobs, 3.0 if report.short else 10.0) as stages:
                await part(report, stages, rounds)


@dataclass(frozen=True, slots=True)
class _Stages:
    """The service and the floor, with the same jobs running."""

    ours: Stage
    floor: Stage
    jobs: Sequence[Held]


async def _spread(report: Report, stages: _Stages, rounds: int) -> None:
    report.title(f"{_WATCHERS} watchers of {_WATCHERS} jobs, 1,000 events a second")
    scene = Scene(stages.jobs, [name for name, _ in stages.jobs], _REAL, rate=1000.0)
    bare, whole = Rounds(), Rounds()
    await stages.floor.play(scene, rounds, bare)
    await stages.ours.play(scene, rounds, whole)
    bare.tell(report, "floor")
    whole.tell(report, "500 of 500")
    _tell_over(report, "500 of 500", whole, bare)
    report.target("watch-500-jobs-p99", median(whole.p99) / _GOAL_MS, "<=", 1)


async def _crowd(report: Report, stages: _Stages, rounds: int) -> None:
    report.title(f"{_WATCHERS} watchers of one job, 4 events a second; then more that do not read")
    name = stages.jobs[0][0]
    scene = Scene(stages.jobs, [name] * _WATCHERS, _REAL, rate=4.0)
    bare, alone, one, many = Rounds(), Rounds(), Rounds(slow=1), Rounds(slow=50)
    await stages.floor.play(scene, rounds, bare)
    await stages.ours.play(scene, rounds, alone, one, many)
    bare.tell(report, "floor")
    alone.tell(report, "500 of one")
    one.tell(report, "500 of one, a slow one beside")
    many.tell(report, "500 of one, 50 slow ones beside")
    _tell_over(report, "500 of one", alone, bare)
    report.target("watch-one-job-p99", median(alone.p99) / _GOAL_MS, "<=", 1)
    report.target("watch-one-slow-neighbour-p99", ratios(one.p99, alone.p99), "<=", 1.1)
    report.target("watch-50-slow-neighbours-p99", ratios(many.p99, alone.p99), "<=", 1.1)


def _tell_over(report: Report, what: str, whole: Rounds, bare: Rounds) -> None:
    """What the service adds to the floor: where the machine is busy, both wait for it."""
    report.figure(f"{what}: p99 over the floor's", "x", [median(whole.p99) / median(bare.p99)])
    report.figure(f"{what}: CPU over the floor's", "x", [median(whole.cpu) / median(bare.cpu)])


@asynccontextmanager
async def _stages(jobs: int, seconds: float) -> AsyncIterator[_Stages]:
    settings = {"REELHAUL_JOBS_SITE_LIMIT": "0", "REELHAUL_JOBS_LEASE_SECONDS": "600"}
    async with house(settings=settings) as place, serving(place) as service, _echoing(place) as echo:
        held = await _held(service, jobs)
        ours = Stage(place, place.address, service.process, seconds)
        yield _Stages(ours, Stage(place, *echo, seconds), held)


@asynccontextmanager
async def _echoing(place: House) -> AsyncIterator[tuple[str, Process]]:
    """The floor, listening: its address and its process."""
    address = f"127.0.0.1:{free_port()}"
    command = python("-m", "bench.watch.echo_server", address, place.nats_url)
    async with running(command, place.folder / "echo.log") as process:
        async with grpc.aio.insecure_channel(address) as opened, asyncio.timeout(30):
            await opened.channel_ready()
        yield address, process


async def _held(service: Service, number: int) -> list[Held]:
    """Running jobs by name and epoch: this process is their worker."""
    held = list[Held]()
    for _ in range(number):
        job = await service.jobs.CreateJob(load.request())
        claim = ClaimRequest(
            job=job.name,
            attempt=1,
            worker="bench",
            slot=lease_pb2.Slot(engine_version="none 1", slot_count=1),
            request_id=job.name.removeprefix("jobs/"),
        )
        answer = await service.leases.Claim(claim)
        held.append((job.name, answer.lease.epoch))
    return held
