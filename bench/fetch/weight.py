"""What the suite weighs: its long-lived processes, and the children that fetch."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.suite.suite import Suite

from bench.processes import Process

_PATIENCE = 20.0
# Extraction is over by then, and bytes come.
_SETTLED = 3.0


async def of_children(suite: Suite, count: int) -> list[float]:
    """PSS of each of the *count* children that fetch, its taster with it, in MB. Raises TimeoutError."""
    async with asyncio.timeout(_PATIENCE):
        while len(found := _grandchildren(suite)) < count:  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.05)
    await asyncio.sleep(_SETTLED)
    return [sum(map(_pss, [pid, *_children(pid)])) for pid in found]


def of_parts(suite: Suite) -> dict[str, float]:
    """RSS of each long-lived process, in MB: the parts, the fetcher's guard and its warm parent."""
    parts = {name: Process(pid).megabytes for name, pid in suite.processes().items()}
    fetcher = suite.processes()["fetcher"]
    for pid in _children(fetcher):
        name = "engine's parent" if b"ytdlp.process.zygote" in _command(pid) else "guard"
        parts[name] = Process(pid).megabytes
    return parts


def _grandchildren(suite: Suite) -> list[int]:
    return [pid for child in _children(suite.processes()["fetcher"]) for pid in _children(child)]


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _pss(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) * 1024 / 1e6
