"""Part ``keys``: the gateway and the jobs service with API keys and rate limits, against both without.

Both pairs run at the same time, and are loaded in turns: a GET of a job, by one key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from bench import load
from bench.gateway.targets import Request, Target, fetch, run_load, running_gateway
from bench.harness import jobs_environment, running_jobs
from bench.processes import Process
from bench.report import Report, median_ratio

_CONNECTIONS = 32
_SETTINGS = ("REELHAUL_AUTH", "REELHAUL_LEVEL_QUOTAS", "REELHAUL_NATS_URL")


@dataclass(frozen=True)
class _Pair:
    """A running gateway and the jobs service behind it."""

    gateway: Target
    jobs: Process
    request: Request

    async def load(self, seconds: float) -> dict[str, float]:
        """Send the request for *seconds*; return rate, latencies (ms), and CPU a response (µs) by process."""
        size = len(await fetch(self.gateway.port, self.request))
        processes = {"gateway": self.gateway.process, "jobs": self.jobs}
        before = {name: process.cpu_seconds for name, process in processes.items()}
        summary = await run_load(self.gateway.port, [self.request], size, _CONNECTIONS, seconds)
        result = {name: float(summary[name]) for name in ("rate", "p50", "p99")}
        for name, process in processes.items():
            result[f"cpu of {name}"] = (process.cpu_seconds - before[name]) / summary["responses"] * 1e6
        return result


async def measure(report: Report, rounds: int, seconds: float) -> None:
    """Measure *rounds* rounds."""
    report.print_title(
        f"GET of a job by the gateway and jobs, with keys and without, {_CONNECTIONS} connections"
    )
    results = defaultdict[str, dict[str, list[float]]](lambda: defaultdict(list))
    async with AsyncExitStack() as stack:
        pairs = {
            name: await stack.enter_async_context(_running_pair(keys=name == "keys"))
            for name in ("none", "keys")
        }
        for pair in pairs.values():
            await pair.load(0.5)
        for number in range(rounds):
            for name in list(pairs)[:: 1 if number % 2 == 0 else -1]:
                for field, value in (await pairs[name].load(seconds)).items():
                    results[name][field].append(value)
    for name, fields in results.items():
        for field, values in fields.items():
            unit = {"rate": "per s", "p50": "ms", "p99": "ms"}.get(field, "us")
            report.add_figure(f"{name}: {field}", unit, values)
    for process in ("gateway", "jobs"):
        field = f"cpu of {process}"
        ratio = median_ratio(results["keys"][field], results["none"][field])
        report.add_target(f"gateway-keys-cpu-of-{process}-over-none", ratio, "<=", 1.2)


@asynccontextmanager
async def _running_pair(*, keys: bool) -> AsyncIterator[_Pair]:
    async with AsyncExitStack() as stack:
        environment = await stack.enter_async_context(jobs_environment(keys=keys))
        service = await stack.enter_async_context(running_jobs(environment))
        settings: Mapping[str, str] = {name: environment.variables[name] for name in _SETTINGS}
        gateway = await stack.enter_async_context(
            running_gateway(environment.folder, environment.address, settings)
        )
        # It does not change while it is read.
        job = await service.jobs.CreateJob(load.new_scheduled_request())
        yield _Pair(gateway, service.process, Request("GET", f"/v1/{job.name}", key=environment.key))
