"""Benchmark ``jobs``, in parts: speed (throughput against Celery), million (long backlogs),
fairness, keys (with API keys against without).
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bench import load
from bench.harness import JobsService, jobs_environment, running_jobs, running_workers
from bench.jobs import backlog, keys, throughput
from bench.jobs.completions import CompletionCounter
from bench.jobs.row_copies import RowCopies
from bench.report import Report
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import GetJobRequest

_BACKLOG = 10_000
_SLOTS = 4


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    parts = {
        "speed": throughput.measure,
        "million": backlog.measure,
        "fairness": _measure_fairness,
        "keys": keys.measure,
    }
    for name, measure_part in parts.items():
        if not only or name in only:
            await measure_part(report)


async def _measure_fairness(report: Report) -> None:
    """Measure how long a new tenant's first job waits behind another tenant's 10,000, in job durations."""
    job_seconds, rounds = (1.0, 3) if report.short else (2.0, 7)
    report.print_title(
        f"A new tenant's job behind {_BACKLOG:,} of another, jobs of {job_seconds} s in {2 * _SLOTS} slots"
    )
    with (
        tempfile.TemporaryDirectory(prefix="bench-completions-") as folder,
        CompletionCounter.listening(Path(folder) / "socket") as completions,
    ):
        async with jobs_environment() as environment:
            async with running_jobs(environment) as service:
                template = (await service.jobs.CreateJob(load.new_scheduled_request())).name
            await RowCopies(environment.database, template).create(_BACKLOG, tenant="greedy")
            async with (
                running_jobs(environment) as service,
                running_workers(environment, completions.path, slots=_SLOTS, job_seconds=job_seconds),
            ):
                # By then all slots are busy and the dispatch window is full.
                await completions.wait_for(4 * _SLOTS)
                waits = [await _run_new_tenant(service) for _ in range(rounds)]
    report.add_figure("to the start of the newcomer's job", "s", waits)
    report.add_target("jobs-second-caller", max(waits) / job_seconds, "<=", 1)


async def _run_new_tenant(service: JobsService) -> float:
    """Create a job and wait until it has succeeded; return the seconds from its creation to its start."""
    job = await service.jobs.CreateJob(load.new_request())
    async with asyncio.timeout(120):
        while job.state != Job.SUCCEEDED:
            await asyncio.sleep(0.05)
            job = await service.jobs.GetJob(GetJobRequest(name=job.name))
    return (job.start_time.ToDatetime() - job.create_time.ToDatetime()).total_seconds()
