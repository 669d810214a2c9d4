"""Gauges of the fetcher: what a scrape reads from the worker, its processes and its folders."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from reelhaul_fetcher.disk.cookies import CookieFolder
from reelhaul_fetcher.disk.workdir import WorkDirs
from reelhaul_fetcher.guard.supervisor import GuardSupervisor
from reelhaul_fetcher.model.cookies import login_expiry, parse
from reelhaul_fetcher.service.worker import Worker
from reelhaul_fetcher.ytdlp import version
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_runtime.up import procfs

#: Seconds for which what is read from processes and from folders is kept.
PROCESSES_MAX_AGE_SECONDS, FILES_MAX_AGE_SECONDS = 5.0, 60.0
#: The label of the cookies of REELHAUL_FETCHER_COOKIES_FILE; named cookies have other names.
UNNAMED_COOKIES = "(file)"
# Named cookies that are shown.
_MAX_NAMES = 100


class ProcessGauges:
    """Gauges of the worker, the guard and the engine."""

    def __init__(self, worker: Worker, guard: GuardSupervisor, engine: YtDlpEngine) -> None:
        self._worker, self._guard, self._engine = worker, guard, engine

    async def read(self) -> Iterable[Metric]:
        """Return the gauges as of now."""
        busy = self._worker.busy
        slots = GaugeMetricFamily("reelhaul_fetcher_slots", "Slots for downloads", labels=["state"])
        slots.add_metric(["busy"], busy)
        # A worker that drains has none.
        slots.add_metric(["free"], max(0, self._worker.slots - busy))
        connections = GaugeMetricFamily(
            "reelhaul_egress_connections", "Open connections through an egress", labels=["egress"]
        )
        for egress, count in self._guard.open_connections.items():
            connections.add_metric([egress or "direct"], count)
        memory = GaugeMetricFamily(
            "reelhaul_engine_process_bytes", "Memory of the engine's processes", labels=["process"]
        )
        for name, used in (await asyncio.to_thread(self._memory)).items():
            memory.add_metric([name], used)
        release = GaugeMetricFamily(
            "reelhaul_engine_release_timestamp_seconds", "When the engine was released", labels=["version"]
        )
        if (released := version.release_time(self._engine.version)) is not None:
            release.add_metric([self._engine.version.rpartition(" ")[2]], released.timestamp())
        return [slots, connections, memory, release]

    def _memory(self) -> Mapping[str, int]:
        zygote = self._engine.zygote_pid
        children = procfs.descendants(zygote) if zygote and self._engine.child_pids else []
        return {
            "guard": _used_bytes(self._guard.pid),
            "zygote": _used_bytes(zygote),
            "children": sum(_used_bytes(pid) for pid in children),
        }


class FileGauges:
    """Gauges of the work folder and of cookies. *cookies_file* are those without a name; None: none."""

    def __init__(self, scratch: WorkDirs, cookies: CookieFolder | None, cookies_file: Path | None) -> None:
        self._scratch, self._cookies, self._cookies_file = scratch, cookies, cookies_file

    async def read(self) -> Iterable[Metric]:
        """Return the gauges as of now. Raises OSError."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Iterable[Metric]:
        kept = GaugeMetricFamily(
            "reelhaul_kept_media_bytes", "Media kept between attempts", self._scratch.kept_bytes()
        )
        expiry = GaugeMetricFamily(
            "reelhaul_cookies_expiry_timestamp_seconds", "When a login expires", labels=["cookies"]
        )
        for name, time in self._cookie_expiries():
            expiry.add_metric([name], time.timestamp())
        return [kept, expiry]

    def _cookie_expiries(self) -> Iterable[tuple[str, datetime]]:
        if self._cookies_file is not None:
            added = datetime.fromtimestamp(self._cookies_file.stat().st_mtime, UTC)
            if time := _expiry(self._cookies_file.read_text(), added):
                yield UNNAMED_COOKIES, time
        for stored in self._cookies.list()[:_MAX_NAMES] if self._cookies else ():
            if stored.jar is not None and (time := _expiry(stored.jar.text, stored.added)):
                yield stored.name, time


def _expiry(text: str, added: datetime | None) -> datetime | None:
    try:
        return login_expiry(parse(text), added or datetime.now(UTC))
    except ValueError:
        # A file that a user edited: fetches that use it say so.
        return None


def _used_bytes(pid: int) -> int:
    """Return the bytes of *pid* in RAM, its part of shared ones; all of these if that is not known."""
    if not pid:
        return 0
    if used := procfs.memory(pid).pss:
        return used
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
