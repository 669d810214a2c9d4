"""Benchmark ``idle``: memory, CPU and start of a suite that nobody uses, as ``reelhaul up`` starts it.

Parts: start (ready, ten times), idle (memory and CPU by process). The reference is metube's published idle
figures: its image cannot be run where there is no registry of images.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.processes import Process
from bench.report import Report
from reelhaul_runtime.up import procfs

_SERVICES = ("gateway", "jobs", "fetcher", "storage")
_DRAIN_SECONDS = 30.0
# After this time the suite has done what it does once: connections, first checks.
_SETTLE_SECONDS = 10.0

_MAX_CPU_PERCENT, _MAX_MEGABYTES, _MAX_READY_SECONDS = 1.0, 300.0, 2.5
# As published for metube's container; not measured here.
_METUBE_MEGABYTES = 57.0


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    report.add_figure("the machine's load before, for each CPU", "", [load])
    with tempfile.TemporaryDirectory(prefix="bench-idle-") as name:
        folder = Path(name)
        with _running_suite(folder) as suite:
            report.add_figure("the first start, which creates the databases", "s", [suite.ready_seconds])
        if not only or "start" in only:
            await _measure_start(report, folder)
        if not only or "idle" in only:
            await _measure_idle(report, folder)


async def _measure_start(report: Report, folder: Path) -> None:
    report.print_title("Start: from the command to the first response of the gateway, all services ready")
    seconds, cpu = list[float](), list[float]()
    for _ in range(3 if report.short else 10):
        with _running_suite(folder) as suite:
            seconds.append(suite.ready_seconds)
            cpu.append(sum(suite.cpu_seconds().values()))
    report.add_figure("ready after", "s", seconds)
    report.add_figure("CPU until then, of all processes that still run", "s", cpu)
    report.add_target("idle-ready-seconds", median(seconds), "<=", _MAX_READY_SECONDS)


async def _measure_idle(report: Report, folder: Path) -> None:
    seconds = 15.0 if report.short else 60.0
    report.print_title(f"Idle, over {seconds:g} s: memory (PSS) and CPU by process, children counted")
    with _running_suite(folder) as suite:
        await asyncio.sleep(_SETTLE_SECONDS)
        before, wakeups = suite.cpu_seconds(), suite.count_wakeups()
        await asyncio.sleep(seconds)
        after = suite.cpu_seconds()
        percent = {name: 100 * (after[name] - before[name]) / seconds for name in after}
        per_second = (suite.count_wakeups() - wakeups) / seconds
        megabytes = suite.megabytes()
    for name in megabytes:
        report.add_figure(f"{name}, memory", "MB", [megabytes[name]])
        report.add_figure(f"{name}, CPU", "% of one", [percent[name]])
    report.add_figure("wakeups of all threads", "1/s", [per_second])
    total = sum(megabytes.values())
    report.add_figure("all processes, memory", "MB", [total])
    report.add_figure("all processes, CPU", "% of one", [sum(percent.values())])
    report.add_figure("metube, memory as published", "MB", [_METUBE_MEGABYTES], "not run here; CPU: none")
    report.add_target("idle-cpu-percent", sum(percent.values()), "<=", _MAX_CPU_PERCENT)
    report.add_target("idle-memory-mb", total, "<=", _MAX_MEGABYTES)


@dataclass(frozen=True)
class _Suite:
    """A suite that is ready."""

    pid: int
    #: From the command to the first response.
    ready_seconds: float

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds of each process with its children, to the microsecond."""
        return {
            name: sum(_read_times(pid)[0] for pid in pids) / 1e9 for name, pids in self._processes().items()
        }

    def count_wakeups(self) -> int:
        """Return how often threads have waited and run again."""
        return sum(_read_times(pid)[1] for pids in self._processes().values() for pid in pids)

    def megabytes(self) -> dict[str, float]:
        """Return the PSS of each process with its children."""
        return {
            name: sum(Process(pid).proportional_megabytes for pid in pids)
            for name, pids in self._processes().items()
        }

    def _processes(self) -> dict[str, list[int]]:
        found = defaultdict[str, list[int]](list, {"up": [self.pid]})
        for child in procfs.children(self.pid):
            command = Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            service = command[-1].decode()
            found[service if service in _SERVICES else "nats"] += [child]
            for descendant in procfs.descendants(child):
                module = Path(f"/proc/{descendant}/cmdline").read_bytes()
                found["zygote" if b"zygote" in module else "guard"].append(descendant)
        return found


def _read_times(pid: int) -> tuple[int, int]:
    """Return the nanoseconds on a CPU and the voluntary context switches of all threads of *pid*."""
    cpu = switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            cpu += int((task / "schedstat").read_text().split()[0])
            status = (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        switches += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return cpu, switches


@contextmanager
def _running_suite(folder: Path) -> Iterator[_Suite]:
    """Run ``reelhaul up`` on *folder* until the block ends; it is ready when the block begins."""
    addresses = {f"REELHAUL_{name.upper()}_ADDRESS": "127.0.0.1:0" for name in (*_SERVICES, "storage_http")}
    addresses |= {f"REELHAUL_{name.upper()}_METRICS_ADDRESS": "127.0.0.1:0" for name in _SERVICES}
    environment = os.environ | addresses | {"REELHAUL_DATA_DIR": str(folder / "data")}
    begin = time.monotonic()
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "reelhaul"), "up"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("Reelhaul is ready"):
            raise RuntimeError(f"the suite did not start: {line}")
        state = json.loads((folder / "data" / "run" / "suite.json").read_text())
        url = f"{state['addresses']['gateway']}/v1:describeServer"
        key = (folder / "data" / "run" / "api-key").read_text().strip()
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            response.read()
        yield _Suite(process.pid, time.monotonic() - begin)
    finally:
        process.terminate()
        try:
            process.wait(_DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
