"""Part ``million``: do a million rows slow down the dispatch of jobs, or the lists?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench import load
from bench.harness import (
    JobsEnvironment,
    JobsService,
    jobs_environment,
    running_jobs,
    running_postgresql,
    running_workers,
)
from bench.jobs.completions import CompletionCounter
from bench.jobs.row_copies import RowCopies
from bench.report import Report, median_ratio
from reelhaul.jobs.v1.job_service_pb2 import ListJobsRequest

_FEW_ROWS = 1_000
_PAGE_SIZE, _FAR_PAGE = 50, 1_000
# Longer than the dispatcher takes to fill its window while no worker runs.
_DISPATCH_SECONDS = 1.2

# Target, order and filter of the lists of jobs most of which have ended.
# By ``end_time desc`` the jobs that have not ended come first.
_LISTS = (
    ("jobs-far-page-ended", "", ""),
    ("jobs-far-page-by-end", "end_time", ""),
    ("jobs-far-page-by-end-desc", "end_time desc", ""),
    ("jobs-far-page-by-end-failed", "end_time desc", "state=FAILED"),
    ("jobs-far-page-failed", "", "state=FAILED"),
)


async def measure(report: Report) -> None:
    """Measure dispatch and lists with a million rows waiting, and lists of a million rows that have ended."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-completions-") as folder,
        CompletionCounter.listening(Path(folder) / "socket") as completions,
    ):
        for database in ("sqlite",) if report.short else ("sqlite", "postgresql"):
            await _measure_waiting(report, completions, database)
            await _measure_ended(report, database)


async def _measure_waiting(report: Report, completions: CompletionCounter, database: str) -> None:
    rows, rounds = (60_000, 1) if report.short else (1_000_000, 3)
    report.print_title(f"{rows:,} rows waiting, {database}")
    async with AsyncExitStack() as stack:
        small = await stack.enter_async_context(_running_backlog(database, _FEW_ROWS))
        begin = time.monotonic()
        large = await stack.enter_async_context(_running_backlog(database, rows))
        report.add_figure(f"filling, {database}", "s", [time.monotonic() - begin])
        await _measure_list(report, database, large.service, "jobs-far-page")
        await _measure_dispatch(report, database, completions, small, large, rounds)


async def _measure_ended(report: Report, database: str) -> None:
    """Measure lists of a tenant most of whose jobs have ended."""
    rows = 60_000 if report.short else 1_000_000
    report.print_title(f"{rows:,} rows, of which 98 in 100 have ended, {database}")
    async with _running_backlog(database, rows, ended=True) as backlog:
        for target, order, filter_ in _LISTS:
            await _measure_list(report, database, backlog.service, target, order, filter_)


async def _measure_list(
    report: Report, database: str, service: JobsService, target: str, order: str = "", filter_: str = ""
) -> None:
    """Measure the first page and a far page of a list in turns."""
    token, number = "", 1
    while number < _FAR_PAGE and (next_token := (await _list_page(service, order, filter_, token))[1]):
        token, number = next_token, number + 1
    first, far = [], []
    for _ in range(50):
        first.append((await _list_page(service, order, filter_, ""))[0])
        far.append((await _list_page(service, order, filter_, token))[0])
    query = "".join((f" of {filter_}" if filter_ else "", f" by {order}" if order else ""))
    report.add_figure(f"ListJobs{query}, page 1, {database}", "ms", first)
    report.add_figure(f"ListJobs{query}, page {number:,}, {database}", "ms", far)
    report.add_target(f"{target}-{database}", median_ratio(far, first), "<=", 1.5)


async def _list_page(service: JobsService, order: str, filter_: str, token: str) -> tuple[float, str]:
    """List a page; return the milliseconds that it took, and the token of the next page."""
    request = ListJobsRequest(page_size=_PAGE_SIZE, page_token=token, order_by=order, filter=filter_)
    begin = time.perf_counter()
    response = await service.jobs.ListJobs(request)
    elapsed = (time.perf_counter() - begin) * 1000
    assert response.jobs
    return elapsed, response.next_page_token


async def _measure_dispatch(
    report: Report,
    database: str,
    completions: CompletionCounter,
    small: _Backlog,
    large: _Backlog,
    rounds: int,
) -> None:
    """Measure the jobs per second of the workers with either backlog, in turns."""
    small_rates, large_rates, memory = [], [], []
    for _ in range(rounds):
        small_rates.append(await small.drain(completions))
        large_rates.append(await large.drain(completions))
        memory.append(large.environment.nats.megabytes)
        await small.copies.create(_FEW_ROWS - small.waiting)
        small.waiting = _FEW_ROWS
    report.add_figure(f"dispatched with {_FEW_ROWS:,} waiting, {database}", "jobs/s", small_rates)
    report.add_figure(f"dispatched with {large.waiting:,} waiting, {database}", "jobs/s", large_rates)
    report.add_figure(f"nats-server, {database}", "MB", memory)
    report.add_target(f"jobs-long-backlog-{database}", median_ratio(large_rates, small_rates), ">=", 0.9)
    report.add_target(f"jobs-nats-memory-{database}", max(memory) / 100, "<=", 1)


class _Backlog:
    """A jobs service with waiting jobs and without workers."""

    def __init__(self, environment: JobsEnvironment, service: JobsService, copies: RowCopies) -> None:
        self.environment, self.service, self.copies = environment, service, copies
        self.waiting = copies.count

    async def drain(self, completions: CompletionCounter, number: int = 800) -> float:
        """Let workers complete *number* jobs; return their rate without the first tenth."""
        await asyncio.sleep(_DISPATCH_SECONDS)
        completions.clear()
        async with running_workers(self.environment, completions.path):
            times = await completions.wait_for(number)
        self.waiting -= len(completions.times)
        start = number // 10
        return (number - start) / (times[-1] - times[start - 1])


@asynccontextmanager
async def _running_backlog(database: str, rows: int, *, ended: bool = False) -> AsyncIterator[_Backlog]:
    """Run the jobs service with copies of a job in *rows* rows."""
    async with AsyncExitStack() as stack:
        url = stack.enter_context(running_postgresql())[0] if database == "postgresql" else ""
        environment = await stack.enter_async_context(jobs_environment(url))
        async with running_jobs(environment) as service:
            template = (await service.jobs.CreateJob(load.new_scheduled_request())).name
        copies = RowCopies(environment.database, template)
        await copies.create(rows, ended=ended)
        service = await stack.enter_async_context(running_jobs(environment))
        yield _Backlog(environment, service, copies)
