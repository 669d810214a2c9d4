"""Benchmark ``gateway``: transcoding, against Envoy before the same upstream, and FastAPI without one.

Parts: get, list50, list100, post. CPU per request is the steady figure: it is the target's own, with its
access log, while 32 connections send one request after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from bench.gateway.messages import CREATE_BODY, LIST_FORMS, ListForm, as_json, job
from bench.gateway.targets import LoadResult, Request, Target, running_targets
from bench.report import Report, median_ratio
from reelhaul.jobs.v1.job_service_pb2 import ListJobsResponse

_CONNECTIONS = 32
_UNITS = {"cpu": "us", "rate": "per s", "p50": "ms", "p99": "ms"}
_TITLES = {"cpu": "CPU a request", "rate": "requests", "p50": "p50", "p99": "p99"}


class Rounds:
    """How many rounds are measured, and the seconds of load per target and round."""

    def __init__(self, *, short: bool) -> None:
        self.number, self.seconds = (2, 1.0) if short else (5, 4.0)


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    parts: dict[str, Callable[[Report, Mapping[str, Target], Rounds], Awaitable[None]]] = {
        "get": _measure_get,
        "post": _measure_post,
        "list50": lambda *arguments: _measure_list(50, *arguments),
        "list100": lambda *arguments: _measure_list(100, *arguments),
    }
    rounds = Rounds(short=report.short)
    async with running_targets() as targets:
        for name, measure_part in parts.items():
            if not only or name in only:
                await measure_part(report, targets, rounds)


async def _measure_get(report: Report, targets: Mapping[str, Target], rounds: Rounds) -> None:
    report.print_title(f"GET of one job, 1.6 KB, {_CONNECTIONS} connections")
    expected = as_json(job())
    request = Request("GET", f"/v1/{expected['name']}", expected)
    await _compare(report, "get", targets, request, rounds, cpu=1.25)


async def _measure_post(report: Report, targets: Mapping[str, Target], rounds: Rounds) -> None:
    report.print_title(f"POST of {len(CREATE_BODY)} bytes, answered with 1.6 KB, {_CONNECTIONS} connections")
    request = Request("POST", "/v1/jobs", as_json(job()), CREATE_BODY)
    await _compare(report, "post", targets, request, rounds, cpu=1.25)


async def _measure_list(size: int, report: Report, targets: Mapping[str, Target], rounds: Rounds) -> None:
    """Measure lists of which all items, 90 % and none were in a list before. FastAPI has one form."""
    bars: dict[ListForm, float | None] = {"polled": 0.3, "most": None, "cold": 1.0}
    expected = as_json(ListJobsResponse(jobs=[job()] * size))
    for form in LIST_FORMS:
        report.print_title(f"LIST of {size}, {form}, {_CONNECTIONS} connections")
        request = Request("GET", f"/v1/jobs?page_size={size}&page_token={form}", expected)
        compared = targets if form == "polled" else {name: targets[name] for name in ("gateway", "envoy")}
        await _compare(report, f"list{size}-{form}", compared, request, rounds, cpu=bars[form])


async def _compare(
    report: Report,
    name: str,
    targets: Mapping[str, Target],
    request: Request,
    rounds: Rounds,
    cpu: float | None,
) -> None:
    """Load the targets in turns. *cpu*: what the gateway's CPU may be in ratio to Envoy's."""
    results = defaultdict[str, list[LoadResult]](list)
    for target in targets.values():
        await target.load(request, _CONNECTIONS, 0.3)
    for number in range(rounds.number):
        # In alternating order, so that the machine's drift does not affect one more than another.
        for target in list(targets.values())[:: 1 if number % 2 == 0 else -1]:
            results[target.name].append(await target.load(request, _CONNECTIONS, rounds.seconds))
    for field, unit in _UNITS.items():
        for target_name, values in results.items():
            rounds_of_field = [getattr(value, field) for value in values]
            report.add_figure(f"{name}: {target_name}, {_TITLES[field]}", unit, rounds_of_field)

    def ratio(field: str) -> float:
        ours, theirs = ([getattr(result, field) for result in results[it]] for it in ("gateway", "envoy"))
        return median_ratio(ours, theirs)

    if cpu is None:
        report.add_figure(f"{name}: CPU over Envoy's", "x", [ratio("cpu")])
    else:
        report.add_target(f"gateway-{name}-cpu-over-envoy", ratio("cpu"), "<=", cpu)
    report.add_target(f"gateway-{name}-p99-over-envoy", ratio("p99"), "<=", 1.25)
