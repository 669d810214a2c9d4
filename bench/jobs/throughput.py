"""Jobs per second: admitted, and from create to acknowledged, against Celery with Redis.

Both keep their promises to disk: SQLite FULL or PostgreSQL with fsync, JetStream with sync always;
Redis with its append-only file synced at every write, tasks acknowledged late. Sides take turns.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import load
from bench.cost import Cost
from bench.harness import Service, house, postgresql, serving, working
from bench.jobs.celery_harness import CeleryHouse, celery_house
from bench.jobs.completions import Tally
from bench.report import Report, ratios
from reelhaul.jobs.v1 import job_service_pb2_grpc

_SIDES = ("sqlite", "postgresql")
# Of each of our two worker processes; as many as pay.
_SLOTS = 32

#: How jobs are asked for: stub and number -> when that began and ended.
Create = Callable[[job_service_pb2_grpc.JobServiceStub, int], Awaitable[tuple[float, float]]]


async def measure(report: Report) -> None:
    """Single creates, batches and no-op jobs end to end, each side in turn."""
    rounds, jobs = (2, 400) if report.short else (5, 3000)
    with tempfile.TemporaryDirectory(prefix="bench-tally-") as folder, Tally.at(Path(folder) / "t") as tally:
        await _end_to_end(report, tally, rounds, jobs)
        await _admission(report, tally, rounds, jobs)


@dataclass(frozen=True)
class _Ours:
    """Our service over one of the databases, and the processes that it takes."""

    service: Service
    processes: Mapping[str, int]


@dataclass(frozen=True)
class _Round:
    """Jobs per second, and what a job cost each process, in milliseconds of CPU."""

    rate: float
    cost: Mapping[str, float]


async def _end_to_end(report: Report, tally: Tally, rounds: int, jobs: int) -> None:
    report.title(f"No-op jobs end to end, {jobs} a round, 2 worker processes, of ours {_SLOTS} slots each")
    done: dict[str, list[_Round]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        rival = await stack.enter_async_context(celery_house(tally.path))
        ours = {side: await stack.enter_async_context(_side(side, tally.path)) for side in _SIDES}
        for round_ in range(rounds + 1):
            done["celery"].append(await _celery_through(rival, tally, jobs))
            for side, house_ in ours.items():
                done[side].append(await _through(house_, tally, jobs, load.create))
                done[_batched(side)].append(await _through(house_, tally, jobs, load.create_batches))
            if round_ == 0:  # pools, prepared statements and caches fill in the first one
                for each in done.values():
                    each.clear()
    rates = {name: [each.rate for each in all_] for name, all_ in done.items()}
    report.figures("jobs/s", {f"end to end: {side}": each for side, each in rates.items()})
    for name, all_ in done.items():
        _tell_cost(report, f"CPU a job: {name}", [each.cost for each in all_])
    for side in _SIDES:
        for name in (side, _batched(side)):
            target = f"jobs-end-to-end-{name.replace(', ', '-').replace(' ', '-')}"
            report.target(target, ratios(rates[name], rates["celery"]), ">=", 1.5)


def _tell_cost(report: Report, name: str, rounds: list[Mapping[str, float]]) -> None:
    parts = {part: median(each[part] for each in rounds) for part in rounds[0]}
    note = ", ".join(f"{part} {milliseconds:.2f}" for part, milliseconds in parts.items())
    report.figure(name, "ms", [sum(each.values()) for each in rounds], note)


async def _admission(report: Report, tally: Tally, rounds: int, jobs: int) -> None:
    report.title(f"Admission, {jobs} a round, nobody works")
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[Mapping[str, float]]] = {}
    async with AsyncExitStack() as stack:
        rival = await stack.enter_async_context(celery_house(tally.path))
        ours = {side: await stack.enter_async_context(_side(side, None)) for side in _SIDES}
        for _ in range(rounds):
            produced = await rival.enqueue(jobs)
            rates.setdefault("celery delay()", []).append(jobs / (produced.ended - produced.begun))
            await tally.reach(jobs)
            tally.clear()
            for side, house_ in ours.items():
                for name, create in (
                    ("CreateJob x 64", load.create),
                    ("BatchCreateJobs of 100", load.create_batches),
                ):
                    rate, cost = await _admitted(house_, jobs, create)
                    rates.setdefault(f"{name}, {side}", []).append(rate)
                    costs.setdefault(f"{name}, {side}", []).append(cost)
    report.figures("jobs/s", rates)
    for name, each in costs.items():
        _tell_cost(report, f"CPU a job: {name}", each)
    for side in _SIDES:
        batches = rates[f"BatchCreateJobs of 100, {side}"]
        report.target(f"jobs-batch-admission-{side}", ratios(batches, rates["celery delay()"]), ">=", 5)


@asynccontextmanager
async def _side(side: str, tally: Path | None) -> AsyncIterator[_Ours]:
    """Our service over one of the databases, with workers where there is a *tally*."""
    processes: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        url = ""
        if side == "postgresql":
            url, processes["database"] = stack.enter_context(postgresql())
        place = await stack.enter_async_context(house(url))
        service = await stack.enter_async_context(serving(place))
        processes |= {"jobs": service.process.pid, "nats": place.nats.pid}
        if tally is not None:
            workers = await stack.enter_async_context(working(place, tally, slots=_SLOTS))
            processes |= {f"worker {n}": worker.pid for n, worker in enumerate(workers, 1)}
        yield _Ours(service, processes)


def _batched(side: str) -> str:
    return f"{side}, created by batches"


async def _admitted(ours: _Ours, jobs: int, create: Create) -> tuple[float, Mapping[str, float]]:
    """Jobs taken per second, and what each cost."""
    cost, client = Cost(ours.processes), time.process_time()
    begun, ended = await create(ours.service.jobs, jobs)
    return jobs / (ended - begun), cost.each(jobs, client=time.process_time() - client)


async def _through(ours: _Ours, tally: Tally, jobs: int, create: Create) -> _Round:
    """Our jobs, from the first create to the last acknowledgement."""
    tally.clear()
    cost, client = Cost(ours.processes), time.process_time()
    begun, _ = await create(ours.service.jobs, jobs)
    client = time.process_time() - client
    rate = jobs / ((await tally.reach(jobs))[-1] - begun)
    return _Round(rate, cost.each(jobs, client=client))


async def _celery_through(rival: CeleryHouse, tally: Tally, jobs: int) -> _Round:
    """Tasks, from the first delay() to the end of the last task."""
    tally.clear()
    cost = Cost(rival.processes)
    produced = await rival.enqueue(jobs)
    rate = jobs / ((await tally.reach(jobs))[-1] - produced.begun)
    return _Round(rate, cost.each(jobs, producer=produced.cpu_seconds))
