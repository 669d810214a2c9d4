"""Part ``suite``: the gateway and the jobs service together: a list of 100 downloads, and the status of one.

The rival is metube's history of 100 downloads, which it reads from memory. It is measured if the variable
``METUBE`` is the address (host:port) of a running metube that has so many.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import load
from bench.gateway.targets import Request, fetch, run_load, running_gateway
from bench.harness import JobsEnvironment, jobs_environment, running_jobs, running_workers
from bench.jobs.completions import CompletionCounter
from bench.processes import Process
from bench.report import Report

_CONNECTIONS = 32
_PAGE_SIZE = 100
_HISTORY = Request("GET", "/history")


@dataclass(frozen=True)
class SuiteResult:
    """Result of a period of load: responses a second, latencies (ms), CPU a response (µs) by process."""

    rate: float
    p50: float
    p99: float
    cpu: Mapping[str, float]


async def measure(report: Report, rounds: int, seconds: float) -> None:
    """Measure *rounds* rounds. Each starts the services anew and requests each page once: the cold lists.

    The warm list is the first page again and again.
    """
    jobs = 2_000 if report.short else 10_000
    report.print_title(f"the suite with {jobs:,} ended jobs, SQLite, {_CONNECTIONS} connections")
    results = defaultdict[str, list[SuiteResult]](list)
    async with jobs_environment(settings={"REELHAUL_JOBS_SITE_LIMIT": "0"}) as environment:
        await _run_jobs(environment, jobs)
        pages = [_list_request(_PAGE_SIZE, page) for page in range(1, jobs // _PAGE_SIZE + 1)]
        for _ in range(rounds):
            async with _running_suite(environment) as suite:
                results["cold list"].append(await suite.load_once(pages))
                results["warm list"].append(await suite.load(pages[0], seconds))
                results["status"].append(await suite.load(await suite.find_status(), seconds))
                if address := os.environ.get("METUBE"):
                    results["metube's history"].append(await _load_metube(address, seconds))
    for name, values in results.items():
        _add_figures(report, name, values)
    if "metube's history" not in results:
        print("  metube is not measured: METUBE is not set")
    _add_target(report, "cold-list-rate-over-150", [result.rate / 150 for result in results["cold list"]])
    _add_target(report, "warm-list-rate-over-800", [result.rate / 800 for result in results["warm list"]])
    _add_target(report, "status-rate-over-2000", [result.rate / 2000 for result in results["status"]])
    p99 = median(result.p99 for result in results["warm list"])
    report.add_target("gateway-suite-warm-list-p99-over-60-ms", p99 / 60, "<=", 1)


@dataclass(frozen=True)
class _Suite:
    """The running services."""

    port: int
    processes: Mapping[str, Process]

    async def load(self, request: Request, seconds: float) -> SuiteResult:
        """Send *request* for *seconds*; all responses have the size of the first."""
        size = len(await fetch(self.port, request))
        return await self._load([request], size, seconds)

    async def load_once(self, requests: Sequence[Request]) -> SuiteResult:
        """Send each of *requests* once."""
        # It compiles the codec of the gateway and opens the connections between the services.
        await fetch(self.port, _list_request(1))
        return await self._load(requests, 0, 0)

    async def find_status(self) -> Request:
        """Return the request of the status of the newest download."""
        (download,) = json.loads(await fetch(self.port, _list_request(1)))["jobs"]
        return Request("GET", f"/api/v1/status/{download['job_id']}")

    async def _load(self, requests: Sequence[Request], size: int, seconds: float) -> SuiteResult:
        before = {name: process.cpu_seconds for name, process in self.processes.items()}
        summary = await run_load(self.port, requests, size, _CONNECTIONS, seconds)
        cpu = {
            name: (process.cpu_seconds - before[name]) / summary["responses"] * 1e6
            for name, process in self.processes.items()
        }
        return SuiteResult(summary["rate"], summary["p50"], summary["p99"], cpu)


async def _load_metube(address: str, seconds: float) -> SuiteResult:
    port = int(address.rpartition(":")[2])
    history = await fetch(port, _HISTORY)
    if (number := len(json.loads(history)["done"])) != _PAGE_SIZE:
        raise RuntimeError(f"metube at {address} has {number} downloads in its history, not {_PAGE_SIZE}")
    summary = await run_load(port, [_HISTORY], len(history), _CONNECTIONS, seconds)
    return SuiteResult(summary["rate"], summary["p50"], summary["p99"], {})


def _list_request(size: int, page: int = 1) -> Request:
    return Request("GET", f"/api/v1/jobs?page_size={size}&page={page}")


async def _run_jobs(environment: JobsEnvironment, number: int) -> None:
    """Create jobs and run them to their end, with workers that download nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-completions-") as folder,
        CompletionCounter.listening(Path(folder) / "socket") as completions,
    ):
        async with running_jobs(environment) as service, running_workers(environment, completions.path):
            await load.create_batches(service.jobs, number)
            await completions.wait_for(number)


@asynccontextmanager
async def _running_suite(environment: JobsEnvironment) -> AsyncIterator[_Suite]:
    async with (
        running_jobs(environment) as service,
        running_gateway(environment.folder, environment.address) as gateway,
    ):
        yield _Suite(gateway.port, {"gateway": gateway.process, "jobs": service.process})


def _add_figures(report: Report, name: str, results: Sequence[SuiteResult]) -> None:
    for field, unit in {"rate": "per s", "p50": "ms", "p99": "ms"}.items():
        report.add_figure(f"suite: {name}, {field}", unit, [getattr(result, field) for result in results])
    for process in results[0].cpu:
        report.add_figure(
            f"suite: {name}, cpu of {process}", "us", [result.cpu[process] for result in results]
        )


def _add_target(report: Report, name: str, ratios: Sequence[float]) -> None:
    report.add_target(f"gateway-suite-{name}", median(ratios), ">=", 1)
