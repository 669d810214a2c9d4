"""The report of a run: latencies, costs by job and watcher, memory, restarts, failures, violations."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.load.run import LoadOptions, LoadResult, Phase

_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
# A process may grow by so much in the second half of the load; in the first one garbage accumulates until it
# is collected.
_MOST_GROWTH, _MOST_GROWTH_MEGABYTES = 0.10, 8.0
_VIOLATIONS_SHOWN = 40


def summarize(options: LoadOptions, result: LoadResult) -> dict[str, Any]:
    """Return all figures of *result*, as JSON."""
    phases = {phase.name: phase for phase in result.phases}
    return {
        "commit": _commit(),
        "machine": f"{os.cpu_count()} CPUs, {platform.platform()}, Python {platform.python_version()}",
        "options": vars(options),
        "jobs": dict(result.states),
        "milliseconds": {
            phase: {operation: _percentiles(seconds) for operation, seconds in sorted(calls.items())}
            for phase, calls in result.latencies.items()
        },
        "event_age_milliseconds": {
            phase: {kind: _percentiles(ages) for kind, ages in kinds.items() if ages}
            for phase, kinds in result.ages.items()
        },
        "phases": {name: _phase(phase, phases["idle"], result) for name, phase in phases.items()},
        "watcher_megabytes": _watcher_megabytes(result),
        "watcher_cpu_milliseconds_per_event": _event_costs(phases, result),
        "memory_megabytes": result.memory,
        "growth": find_growth(result),
        "restarts": [vars(restart) for restart in result.restarts],
        "kills": [vars(restart) for restart in result.kills],
        "watches": result.watches,
        "resumes": dict(result.resumes),
        "failures": {phase: dict(failures) for phase, failures in result.failures.items()},
        "violations": [vars(violation) for violation in result.violations],
    }


def find_growth(result: LoadResult) -> dict[str, float]:
    """Return the megabytes by which each process grew under constant load, where that is too much."""
    if not {"middle", "end"} <= result.memory.keys():
        return {}
    before, after = result.memory["middle"], result.memory["end"]
    return {
        name: after[name] - megabytes
        for name, megabytes in before.items()
        if after[name] - megabytes > megabytes * _MOST_GROWTH + _MOST_GROWTH_MEGABYTES
    }


def has_passed(result: LoadResult) -> bool:
    """Return whether nothing failed that must not fail."""
    wrong_exits = [restart for restart in result.restarts if restart.exit_code != 0]
    return not (result.failed_calls or result.violations or find_growth(result) or wrong_exits)


def last_line(result: LoadResult) -> str:
    """Return the line that sums up the run; scripts parse it."""
    calls = sum(len(seconds) for calls in result.latencies.values() for seconds in calls.values())
    killed = sum(result.failures.get("kills", {}).values())
    text = (
        f"jobs={result.states.total()} succeeded={result.states['SUCCEEDED']} calls={calls}"
        f" failed={result.failed_calls} failed_by_kills={killed} watches={result.watches}"
        f" restarts={len(result.restarts)} kills={len(result.kills)} violations={len(result.violations)}"
    )
    return f"load {'ok' if has_passed(result) else 'FAILED'} {text}"


def write(figures: Mapping[str, Any], path: Path) -> None:
    """Write *figures* to *path*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"the report is {path}")


def print_report(figures: Mapping[str, Any], result: LoadResult) -> None:
    """Print *figures* as text."""
    print(f"\ncommit {figures['commit']}, {figures['machine']}; the generator shares the CPUs")
    for title, by_phase in (
        ("calls, milliseconds", figures["milliseconds"]),
        ("age of events at the watcher, milliseconds", figures["event_age_milliseconds"]),
    ):
        print(f"\n{title:<44}{'number':>8}" + "".join(f"{share:>9}" for share in _SHARES))
        for phase, rows in by_phase.items():
            for name, row in rows.items():
                figures_of_row = "".join(f"{row[share]:>9.1f}" for share in _SHARES)
                print(f"  {phase:<12}{name:<30}{row['number']:>8}{figures_of_row}")
    for name, phase in figures["phases"].items():
        counts = f"{phase['jobs']} jobs ended, {phase['calls']} calls, {phase['events']} events"
        print(f"\nphase {name}: {phase['seconds']:.0f} s, {counts}")
        of_jobs = ("cpu_milliseconds_per_job", "rows_per_job", "per_job") if phase["jobs"] else ()
        for title in ("cpu_percent", "per_second", *of_jobs):
            print(f"  {title.replace('_', ' '):<26}" + _join(phase[title]))
    print("\nmegabytes by watcher: " + _join(figures["watcher_megabytes"], 3))
    print("CPU milliseconds by event: " + _join(figures["watcher_cpu_milliseconds_per_event"], 3))
    print("\nmemory, megabytes (PSS)")
    for moment, megabytes in figures["memory_megabytes"].items():
        print(f"  {moment:<26}" + _join(megabytes, 0))
    if figures["growth"]:
        print("  GREW by " + _join(figures["growth"], 0))
    print(f"\n{figures['watches']} watches, resumed: {_join(figures['resumes'], 0)}")
    for phase, failures in figures["failures"].items():
        for text, number in failures.items():
            print(f"failed in {phase}: {number} × {text}")
    for violation in result.violations[:_VIOLATIONS_SHOWN]:
        print(f"broken {violation.invariant} {violation.job or '-'}: {violation.text}")


def _phase(phase: Phase, idle: Phase, result: LoadResult) -> dict[str, Any]:
    """Return what *phase* used: in total each second, and for each job beyond what the idle suite uses."""
    jobs = max(1, phase.ended_jobs)
    cpu, counts = _used(phase)
    idle_cpu, idle_counts = _used(idle)
    share = phase.seconds / idle.seconds if phase is not idle else 0.0
    job_cpu = {name: seconds - share * idle_cpu[name] for name, seconds in cpu.items()}
    job_counts = {name: number - share * idle_counts.get(name, 0) for name, number in counts.items()}
    return {
        "seconds": phase.seconds,
        "jobs": phase.ended_jobs,
        "calls": sum(len(seconds) for seconds in result.latencies.get(phase.name, {}).values()),
        "events": sum(len(ages) for ages in result.ages.get(phase.name, {}).values()),
        "cpu_percent": {name: 100 * seconds / phase.seconds for name, seconds in cpu.items()},
        "per_second": {name: number / phase.seconds for name, number in counts.items()},
        "cpu_milliseconds_per_job": {name: 1000 * seconds / jobs for name, seconds in job_cpu.items()},
        "rows_per_job": {
            name: rows / jobs
            for name, rows in _difference(phase.after.rows, phase.before.rows).items()
            if rows
        },
        "per_job": {name: number / jobs for name, number in job_counts.items()},
        "resident_and_children_megabytes": phase.after.tree_megabytes,
    }


def _used(phase: Phase) -> tuple[dict[str, float], dict[str, float]]:
    """Return the CPU seconds of *phase* by service, and what databases, broker and S3 counted."""
    database = _difference(phase.after.database, phase.before.database)
    s3 = _difference(phase.after.s3, phase.before.s3)
    messages = _difference(phase.after.messages, phase.before.messages)
    counts = database | {f"S3 {name}": number for name, number in s3.items()} | messages
    return _difference(phase.after.cpu, phase.before.cpu), counts


def _watcher_megabytes(result: LoadResult) -> dict[str, float]:
    """Return the memory of jobs and gateways for one watcher, by kind."""
    figures, moments = dict[str, float](), list(result.memory.items())
    for (_, before), (moment, after) in pairwise(moments):
        if moment.endswith("watchers"):
            number, kind, _ = moment.split()
            for service in ("jobs", "gateway"):
                grown = sum(after[name] - before[name] for name in after if name.startswith(service))
                figures[f"{kind} in {service}"] = grown / int(number)
    return figures


def _event_costs(phases: Mapping[str, Phase], result: LoadResult) -> dict[str, float]:
    """Return the CPU time by event: what jobs and gateway use more with watchers than without them."""
    if not {"jobs", "watchers"} <= set(phases):
        return {}
    without, watched = phases["jobs"], phases["watchers"]
    events = sum(len(ages) for ages in result.ages.get("watchers", {}).values())
    costs = dict[str, float]()
    for service in ("jobs", "gateway", "nats"):
        used = [
            (phase.after.cpu[service] - phase.before.cpu[service]) / phase.seconds
            for phase in (without, watched)
        ]
        costs[service] = 1000 * (used[1] - used[0]) * watched.seconds / max(1, events)
    return costs


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {"number": len(ordered)} | {
        name: 1000 * ordered[min(last, int(share * len(ordered)))] for name, share in _SHARES.items()
    }


def _difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0) for name, value in after.items()}


def _join(figures: Mapping[str, float], digits: int = 1) -> str:
    return ", ".join(f"{name} {value:,.{digits}f}" for name, value in figures.items())


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
