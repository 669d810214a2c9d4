"""Part ``speed``: jobs per second, admitted and from creation to acknowledgement, against Celery with Redis.

Both are durable: SQLite with synchronous=FULL or PostgreSQL with fsync, and JetStream with sync_interval
always; Redis with its append-only file synced at every write, and tasks acknowledged late. The sides are
measured in turns.
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
from bench.harness import JobsService, jobs_environment, running_jobs, running_postgresql, running_workers
from bench.jobs.celery_harness import CeleryService, running_celery
from bench.jobs.completions import CompletionCounter
from bench.processes import CpuMeter
from bench.report import Report, median_ratio

_DATABASES = ("sqlite", "postgresql")
# Slots of each of the two worker processes; more do not help.
_SLOTS = 32

#: Creates a number of jobs; returns the times of the first call and of the last response.
CreateJobs = Callable[[load.JobCalls, int], Awaitable[tuple[float, float]]]


@dataclass(frozen=True)
class _Service:
    """The jobs service with one of the databases, and the pids of its processes by name."""

    service: JobsService
    processes: Mapping[str, int]


@dataclass(frozen=True)
class _Round:
    """Jobs per second, and milliseconds of CPU per job by process."""

    rate: float
    cost: Mapping[str, float]


async def measure(report: Report) -> None:
    """Measure no-op jobs end to end, then the admission of single jobs and batches."""
    rounds, jobs = (2, 400) if report.short else (5, 3000)
    with (
        tempfile.TemporaryDirectory(prefix="bench-completions-") as folder,
        CompletionCounter.listening(Path(folder) / "socket") as completions,
    ):
        await _measure_end_to_end(report, completions, rounds, jobs)
        await _measure_admission(report, completions, rounds, jobs)


async def _measure_end_to_end(report: Report, completions: CompletionCounter, rounds: int, jobs: int) -> None:
    report.print_title(
        f"No-op jobs end to end, {jobs} a round, 2 worker processes, of ours {_SLOTS} slots each"
    )
    results: dict[str, list[_Round]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        celery = await stack.enter_async_context(running_celery(completions.path))
        services = {
            database: await stack.enter_async_context(_running_service(database, completions.path))
            for database in _DATABASES
        }
        for number in range(rounds + 1):
            results["celery"].append(await _run_celery(celery, completions, jobs))
            for database, service in services.items():
                results[database].append(await _run_jobs(service, completions, jobs, load.create_jobs))
                results[_batched(database)].append(
                    await _run_jobs(service, completions, jobs, load.create_batches)
                )
            if number == 0:  # Pools, prepared statements and caches are filled in the first round.
                for values in results.values():
                    values.clear()
    rates = {side: [value.rate for value in values] for side, values in results.items()}
    report.add_figures("jobs/s", {f"end to end: {side}": values for side, values in rates.items()})
    for side, values in results.items():
        _add_cost(report, f"CPU a job: {side}", [value.cost for value in values])
    for database in _DATABASES:
        for side in (database, _batched(database)):
            target = f"jobs-end-to-end-{side.replace(', ', '-').replace(' ', '-')}"
            report.add_target(target, median_ratio(rates[side], rates["celery"]), ">=", 1.5)


async def _measure_admission(report: Report, completions: CompletionCounter, rounds: int, jobs: int) -> None:
    report.print_title(f"Admission, {jobs} a round, without workers")
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[Mapping[str, float]]] = {}
    async with AsyncExitStack() as stack:
        celery = await stack.enter_async_context(running_celery(completions.path))
        services = {
            database: await stack.enter_async_context(_running_service(database, None))
            for database in _DATABASES
        }
        for _ in range(rounds):
            produced = await celery.enqueue(jobs)
            rates.setdefault("celery delay()", []).append(jobs / (produced.end - produced.begin))
            await completions.wait_for(jobs)
            completions.clear()
            for database, service in services.items():
                for name, create in (
                    ("CreateJob x 64", load.create_jobs),
                    ("BatchCreateJobs of 100", load.create_batches),
                ):
                    rate, cost = await _admit_jobs(service, jobs, create)
                    rates.setdefault(f"{name}, {database}", []).append(rate)
                    costs.setdefault(f"{name}, {database}", []).append(cost)
    report.add_figures("jobs/s", rates)
    for name, values in costs.items():
        _add_cost(report, f"CPU a job: {name}", values)
    for database in _DATABASES:
        batches = rates[f"BatchCreateJobs of 100, {database}"]
        ratio = median_ratio(batches, rates["celery delay()"])
        report.add_target(f"jobs-batch-admission-{database}", ratio, ">=", 5)


def _add_cost(report: Report, name: str, rounds: list[Mapping[str, float]]) -> None:
    """Add the CPU time of all processes as a figure, with the time of each in its note."""
    medians = {process: median(cost[process] for cost in rounds) for process in rounds[0]}
    note = ", ".join(f"{process} {milliseconds:.2f}" for process, milliseconds in medians.items())
    report.add_figure(name, "ms", [sum(cost.values()) for cost in rounds], note)


@asynccontextmanager
async def _running_service(database: str, completions: Path | None) -> AsyncIterator[_Service]:
    """Run the jobs service with *database*, and workers if there is a socket for their *completions*."""
    processes: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        url = ""
        if database == "postgresql":
            url, processes["database"] = stack.enter_context(running_postgresql())
        environment = await stack.enter_async_context(jobs_environment(url))
        service = await stack.enter_async_context(running_jobs(environment))
        processes |= {"jobs": service.process.pid, "nats": environment.nats.pid}
        if completions is not None:
            workers = await stack.enter_async_context(running_workers(environment, completions, slots=_SLOTS))
            processes |= {f"worker {n}": worker.pid for n, worker in enumerate(workers, 1)}
        yield _Service(service, processes)


def _batched(database: str) -> str:
    return f"{database}, created by batches"


async def _admit_jobs(service: _Service, jobs: int, create: CreateJobs) -> tuple[float, Mapping[str, float]]:
    """Create *jobs* jobs; return their rate and cost."""
    meter, client = CpuMeter(service.processes), time.process_time()
    begin, end = await create(service.service.jobs, jobs)
    cost = meter.milliseconds_per_job(jobs, client=time.process_time() - client)
    return jobs / (end - begin), cost


async def _run_jobs(
    service: _Service, completions: CompletionCounter, jobs: int, create: CreateJobs
) -> _Round:
    """Create *jobs* jobs and wait until the last one is acknowledged."""
    completions.clear()
    meter, client = CpuMeter(service.processes), time.process_time()
    begin, _ = await create(service.service.jobs, jobs)
    client = time.process_time() - client
    rate = jobs / ((await completions.wait_for(jobs))[-1] - begin)
    return _Round(rate, meter.milliseconds_per_job(jobs, client=client))


async def _run_celery(celery: CeleryService, completions: CompletionCounter, jobs: int) -> _Round:
    """Enqueue *jobs* tasks and wait until the last one is completed."""
    completions.clear()
    meter = CpuMeter(celery.processes)
    produced = await celery.enqueue(jobs)
    rate = jobs / ((await completions.wait_for(jobs))[-1] - produced.begin)
    return _Round(rate, meter.milliseconds_per_job(jobs, producer=produced.cpu_seconds))
