"""Benchmark ``telemetry``: CPU of the services a request and a job, with metrics and traces against none.

Each mode has its own broker, jobs and gateway; all do the same work, in short turns. "none" is the same
build, whose metrics count nothing and in which nothing asks for spans. Parts: hooks (what is called for
metrics and spans, alone), requests (status of a job, and creation of a job, through gateway and jobs), jobs
(creation, dispatch, claim and finish, no download). The traces are those of requests without a trace
context, exported to a collector that drops them. Ratios are of the least disturbed rounds; on a busy machine
only the hooks are measured well.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean

from tests.servers import free_port, wait_until_listening

from bench import load
from bench.gateway.targets import Request, fetch, run_load, running_gateway
from bench.harness import JobsService, jobs_environment, running_jobs, running_workers
from bench.jobs.completions import CompletionCounter
from bench.processes import Process, python_command, running
from bench.report import Report
from bench.telemetry import hooks
from bench.telemetry.service import WITHOUT_VARIABLE

_MODULE = "bench.telemetry.service"
_CONNECTIONS = 16
#: What each mode leaves out, and the share of traces that it samples; None: tracing is off.
_MODES: Mapping[str, tuple[str, str | None]] = {
    "none": ("metrics tracing", None),
    "metrics": ("tracing", None),
    "tracing off": ("metrics", None),
    "traces 0 %": ("metrics", "0"),
    "traces 5 %": ("metrics", "0.05"),
    "traces 100 %": ("metrics", "1"),
}
_TARGETS = {"metrics": 1.03, "tracing off": 1.01, "traces 5 %": 1.05}


@dataclass(frozen=True)
class _Suite:
    """Running services, and the port of their gateway."""

    service: JobsService
    port: int
    processes: Mapping[str, Process]
    completions: CompletionCounter

    async def measure_requests(self, requests: list[Request]) -> float:
        """Send each of *requests* once; return the CPU of gateway and jobs a request, in microseconds."""
        before = self._cpu_seconds()
        await run_load(self.port, requests, 0, _CONNECTIONS, 0)
        return (self._cpu_seconds() - before) / len(requests) * 1e6

    async def measure_jobs(self, number: int) -> float:
        """Run *number* jobs without download; return the CPU of jobs a job, in microseconds."""
        self.completions.clear()
        before = self.processes["jobs"].exact_cpu_seconds
        await load.create_jobs(self.service.jobs, number)
        await self.completions.wait_for(number)
        return (self.processes["jobs"].exact_cpu_seconds - before) / number * 1e6

    def _cpu_seconds(self) -> float:
        return sum(process.exact_cpu_seconds for process in self.processes.values())


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    rounds, reads, writes, jobs = (5, 400, 150, 60) if report.short else (40, 800, 300, 300)
    parts = only or {"hooks", "requests", "jobs"}
    if "hooks" in parts:
        hooks.measure(report)
    if parts == {"hooks"}:
        return
    cpu = defaultdict[str, dict[str, list[float]]](lambda: defaultdict(list))
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(_running_collector())
        suites = {
            name: await stack.enter_async_context(_running_suite(*mode, collector))
            for name, mode in _MODES.items()
        }
        report.print_title(
            f"CPU of gateway and jobs a request, of jobs a job; {reads:,} GET, {writes:,} POST, {jobs} jobs"
            " a round"
        )
        for number in range(rounds + 1):
            for name in list(suites)[:: 1 if number % 2 == 0 else -1]:
                suite, values = suites[name], dict[str, float]()
                if "requests" in parts:
                    values["GET"] = await suite.measure_requests([await _find_status(suite)] * reads)
                    values["POST"] = await suite.measure_requests([_create_request(i) for i in range(writes)])
                if "jobs" in parts:
                    values["job"] = await suite.measure_jobs(jobs)
                if number:  # in the first round connections are opened and code is warmed up
                    for part, value in values.items():
                        cpu[part][name].append(value)
    for part, modes in cpu.items():
        report.add_figures("us", {f"{part}: {name}": values for name, values in modes.items()})
    for part, modes in cpu.items():
        for name, values in modes.items():
            ratio = _undisturbed(values) / _undisturbed(modes["none"])
            label = name.replace(" ", "-").replace("-%", "-percent")
            if name in _TARGETS:
                report.add_target(f"telemetry-{part}-{label}", ratio, "<=", _TARGETS[name])
            elif name != "none":
                print(f"  {part}: {name} against none: {ratio:.3f}")


def _undisturbed(rounds: Sequence[float]) -> float:
    """Return the mean of the lowest quarter of *rounds*: other work on the machine only adds to CPU time."""
    return mean(sorted(rounds)[: max(1, len(rounds) // 4)])


@asynccontextmanager
async def _running_suite(without: str, ratio: str | None, collector: str) -> AsyncIterator[_Suite]:
    settings = {WITHOUT_VARIABLE: without, "REELHAUL_JOBS_SITE_LIMIT": "0"}
    if ratio is not None:
        settings |= {"REELHAUL_OTLP_ENDPOINT": collector, "REELHAUL_TRACE_SAMPLE_RATIO": ratio}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-completions-")))
        completions = stack.enter_context(CompletionCounter.listening(folder / "socket"))
        environment = await stack.enter_async_context(jobs_environment(settings=settings))
        service = await stack.enter_async_context(running_jobs(environment, _MODULE))
        await stack.enter_async_context(running_workers(environment, completions.path, processes=1))
        gateway = await stack.enter_async_context(
            running_gateway(environment.folder, environment.address, settings, _MODULE)
        )
        processes = {"gateway": gateway.process, "jobs": service.process}
        yield _Suite(service, gateway.port, processes, completions)


@asynccontextmanager
async def _running_collector() -> AsyncIterator[str]:
    """Run a collector; yields its endpoint."""
    port = free_port()
    command = python_command("-m", "bench.telemetry.collector", str(port))
    with tempfile.TemporaryDirectory(prefix="reelhaul-bench-") as folder:
        async with running(command, Path(folder) / "log"):
            await wait_until_listening(port, 30)
            yield f"http://127.0.0.1:{port}"


async def _find_status(suite: _Suite) -> Request:
    """Return the request of the status of a job that waits for its time."""
    created = json.loads(await fetch(suite.port, _create_request(0)))
    return Request("GET", f"/v1/{created['name']}")


def _create_request(number: int) -> Request:
    """Return the request that creates a job which no worker takes: it is due in 300 days."""
    time = (datetime.now(UTC) + timedelta(days=300)).isoformat()
    body = {"url": f"https://site-{number % 8}.example/watch?v={number}", "scheduleTime": time}
    return Request("POST", "/v1/jobs", json.dumps(body))
