"""Benchmark ``gateway``: transcoding, against Envoy before the same upstream, and FastAPI without one.

Parts: suite, keys (modules of these names), get, post, list50, list100, stream (200 NDJSON watchers), memory.
CPU per request is the steady figure: it is the target's own, with its access log, while 32 connections send
one request after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.gateway import keys, suite
from bench.gateway.messages import CREATE_BODY, FIRST, LIST_FORMS, NEW, ListForm, job_name
from bench.gateway.targets import LoadResult, Request, Target, running_targets
from bench.report import Report, median_ratio

_CONNECTIONS = 32
_WATCHERS, _EVENTS_PER_SECOND = 200, 10
_UNITS = {"cpu": "us", "rate": "per s", "p50": "ms", "p99": "ms"}

GET = Request("GET", f"/v1/{job_name(NEW)}")
GET_POLLED = Request("GET", f"/v1/{job_name(FIRST)}")
POST = Request("POST", "/v1/jobs", CREATE_BODY)
WATCH = Request("GET", f"/v1/{job_name(FIRST)}:watch", accept="application/x-ndjson")


def list_request(size: int, form: ListForm) -> Request:
    """Return the request of a list of *size* jobs."""
    return Request("GET", f"/v1/jobs?page_size={size}&page_token={form}")


@dataclass(frozen=True)
class Comparison:
    """Compares the targets in rounds; *seconds* of load for each target and round."""

    report: Report
    targets: Mapping[str, Target]
    rounds: int
    seconds: float

    async def compare(
        self,
        name: str,
        targets: Sequence[str],
        load: Callable[[Target, float], Awaitable[LoadResult]],
        cpu: float | None,
    ) -> None:
        """Load *targets* in turns and report. *cpu*: what the gateway's may be in ratio to Envoy's."""
        results = defaultdict[str, list[LoadResult]](list)
        for target in targets:
            await load(self.targets[target], 0.3)
        for number in range(self.rounds):
            # In alternating order, so that the machine's drift does not affect one more than another.
            for target in targets[:: 1 if number % 2 == 0 else -1]:
                results[target].append(await load(self.targets[target], self.seconds))
        for field, unit in _UNITS.items():
            for target in targets:
                values = [getattr(result, field) for result in results[target]]
                self.report.add_figure(f"{name}: {target}, {field}", unit, values)

        def ratio(field: str) -> float:
            ours, theirs = ([getattr(result, field) for result in results[it]] for it in ("gateway", "envoy"))
            return median_ratio(ours, theirs)

        if cpu is None:
            self.report.add_figure(f"{name}: cpu over Envoy's", "x", [ratio("cpu")])
        else:
            self.report.add_target(f"gateway-{name}-cpu-over-envoy", ratio("cpu"), "<=", cpu)
        self.report.add_target(f"gateway-{name}-p99-over-envoy", ratio("p99"), "<=", 1.25)


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    parts: dict[str, Callable[[Comparison], Awaitable[None]]] = {
        "get": _measure_get,
        "post": _measure_post,
        "list50": lambda comparison: _measure_list(comparison, 50),
        "list100": lambda comparison: _measure_list(comparison, 100),
        "stream": _measure_stream,
        "memory": _measure_memory,
    }
    rounds, seconds = (2, 1.0) if report.short else (5, 4.0)
    if not only or "suite" in only:
        await suite.measure(report, rounds, seconds)
    if not only or "keys" in only:
        await keys.measure(report, rounds, seconds)
    for name, measure_part in parts.items():
        if not only or name in only:
            async with running_targets() as targets:
                await measure_part(Comparison(report, targets, rounds, seconds))


async def _measure_get(comparison: Comparison) -> None:
    comparison.report.print_title(f"GET of a job, 1.6 KB, another each time, {_CONNECTIONS} connections")
    await comparison.compare("get", ["gateway", "envoy", "fastapi"], _load(GET), cpu=1.25)
    comparison.report.print_title(f"GET of the same job, {_CONNECTIONS} connections")
    await comparison.compare("get-polled", ["gateway", "envoy"], _load(GET_POLLED), cpu=1.25)


async def _measure_post(comparison: Comparison) -> None:
    comparison.report.print_title(
        f"POST of {len(CREATE_BODY)} bytes, answered with 1.6 KB, {_CONNECTIONS} connections"
    )
    await comparison.compare("post", ["gateway", "envoy", "fastapi"], _load(POST), cpu=1.25)


async def _measure_list(comparison: Comparison, size: int) -> None:
    """Measure lists of which all items, 90 % and none were in a list before. FastAPI has one form."""
    bars: dict[ListForm, float | None] = {"polled": 0.3, "most": None, "cold": 1.0}
    for form in LIST_FORMS:
        comparison.report.print_title(f"LIST of {size}, {form}, {_CONNECTIONS} connections")
        targets = ["gateway", "envoy", "fastapi"] if form == "polled" else ["gateway", "envoy"]
        load = _load(list_request(size, form))
        await comparison.compare(f"list{size}-{form}", targets, load, cpu=bars[form])


async def _measure_stream(comparison: Comparison) -> None:
    comparison.report.print_title(
        f"{_WATCHERS} watchers as NDJSON, {_EVENTS_PER_SECOND} events a second each; CPU is that of an event"
    )
    await comparison.compare("stream", ["gateway", "envoy"], _watch, cpu=1.3)


async def _measure_memory(comparison: Comparison) -> None:
    comparison.report.print_title("memory after all the load above")
    memory = dict[str, float]()
    for name in ("gateway", "envoy", "fastapi"):
        target = comparison.targets[name]
        for request in (GET, POST, list_request(50, "polled"), list_request(100, "cold")):
            await target.load(request, _CONNECTIONS, comparison.seconds)
        if name != "fastapi":
            await _watch(target, comparison.seconds)
        memory[name] = target.process.megabytes
        comparison.report.add_figure(f"memory: {name}, resident", "MB", [memory[name]])
        comparison.report.add_figure(
            f"memory: {name}, proportional", "MB", [target.process.proportional_megabytes]
        )
    comparison.report.add_target("gateway-memory-over-envoy", memory["gateway"] / memory["envoy"], "<=", 1)


def _load(request: Request) -> Callable[[Target, float], Awaitable[LoadResult]]:
    return lambda target, seconds: target.load(request, _CONNECTIONS, seconds)


async def _watch(target: Target, seconds: float) -> LoadResult:
    return await target.watch(WATCH, _WATCHERS, seconds)
