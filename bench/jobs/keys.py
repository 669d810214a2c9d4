"""Part ``keys``: the jobs service with API keys and rate limits, against the same without.

Both run at the same time, with SQLite, and are called in turns by 64 callers.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import AsyncExitStack

from bench import load
from bench.harness import JobsService, jobs_environment, running_jobs
from bench.report import Report, median_ratio
from reelhaul.jobs.v1.job_service_pb2 import GetJobRequest

_CALLERS = 64


async def measure(report: Report) -> None:
    """Measure calls that read a job, and calls that create one: rates, and CPU of the service."""
    rounds, calls = (2, 1_000) if report.short else (7, 5_000)
    report.print_title(f"Calls with keys and without, {calls} a round, {_CALLERS} callers")
    cpu, rates = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    async with AsyncExitStack() as stack:
        services = {}
        for name in ("none", "keys"):
            environment = await stack.enter_async_context(jobs_environment(keys=name == "keys"))
            services[name] = await stack.enter_async_context(running_jobs(environment))
        for number in range(rounds + 1):
            for name in list(services)[:: 1 if number % 2 == 0 else -1]:
                for method, measure_calls in (("GetJob", _get), ("CreateJob", _create)):
                    microseconds, rate = await measure_calls(services[name], calls)
                    if number:  # caches are filled in the first round
                        cpu[f"{method}, {name}"].append(microseconds)
                        rates[f"{method}, {name}"].append(rate)
    report.add_figures("us", {f"CPU of jobs: {name}": values for name, values in cpu.items()})
    report.add_figures("calls/s", rates)
    for method in ("GetJob", "CreateJob"):
        ratio = median_ratio(cpu[f"{method}, keys"], cpu[f"{method}, none"])
        report.add_target(f"jobs-keys-{method}-cpu-over-none", ratio, "<=", 1.2)


async def _get(service: JobsService, calls: int) -> tuple[float, float]:
    """Return the CPU of the service per call (µs), and the calls per second."""
    job = await service.jobs.CreateJob(load.new_scheduled_request())
    requests = iter([GetJobRequest(name=job.name)] * calls)

    async def call() -> None:
        for request in requests:
            await service.jobs.GetJob(request)

    before, begin = service.process.cpu_seconds, time.perf_counter()
    await asyncio.gather(*(call() for _ in range(_CALLERS)))
    seconds = time.perf_counter() - begin
    return (service.process.cpu_seconds - before) / calls * 1e6, calls / seconds


async def _create(service: JobsService, calls: int) -> tuple[float, float]:
    before = service.process.cpu_seconds
    begin, end = await load.create_jobs(service.jobs, calls, _CALLERS)
    return (service.process.cpu_seconds - before) / calls * 1e6, calls / (end - begin)
