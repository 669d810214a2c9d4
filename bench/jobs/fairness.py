"""A second caller: how long its first job waits behind ten thousand of another."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bench import load
from bench.harness import Service, house, serving, working
from bench.jobs.completions import Tally
from bench.jobs.row_copies import Copies
from bench.report import Report
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import GetJobRequest

_BACKLOG = 10_000
_SLOTS = 4


async def measure(report: Report) -> None:
    """Seconds to the start of a newcomer's first job, in downloads."""
    hold, rounds = (1.0, 3) if report.short else (2.0, 7)
    report.title(
        f"A newcomer behind {_BACKLOG:,} jobs of another, downloads of {hold} s in {2 * _SLOTS} slots"
    )
    with tempfile.TemporaryDirectory(prefix="bench-tally-") as folder, Tally.at(Path(folder) / "t") as tally:
        async with house() as place:
            async with serving(place) as service:
                template = (await service.jobs.CreateJob(load.request_for_later())).name
            await Copies(place.database, template).make(_BACKLOG, tenant="greedy")
            async with serving(place) as service, working(place, tally.path, slots=_SLOTS, hold=hold):
                # All slots are busy, and the window is as long as it gets.
                await tally.reach(4 * _SLOTS)
                waits = [await _newcomer(service) for _ in range(rounds)]
    report.figure("to the start of the newcomer's job", "s", waits)
    report.target("jobs-second-caller", max(waits) / hold, "<=", 1)


async def _newcomer(service: Service) -> float:
    """From the create of its job to its start; returns when the job is done."""
    job = await service.jobs.CreateJob(load.request())
    async with asyncio.timeout(120):
        while job.state != Job.SUCCEEDED:
            await asyncio.sleep(0.05)
            job = await service.jobs.GetJob(GetJobRequest(name=job.name))
    return (job.start_time.ToDatetime() - job.create_time.ToDatetime()).total_seconds()
