"""Fetching: what a download costs from its origin to storage, against curl and yt-dlp's own command line.

Parts: big (one file of 512 MB), slow (1 MB/s on each connection), youtube (the stand-in at 5 MB/s on each),
small (files of 100 KB), memory.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from bench.fetch import media, stages, weight
from bench.fetch.rivals import Rivals
from bench.fetch.suite import Ours, ours
from bench.processes import python
from bench.report import Report, ratios

_MB = 1_000_000
_RATE = "rate=1000000"


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those of *only*."""
    parts: dict[str, Callable[[Report, _Scene], Awaitable[None]]] = {
        "slow": _slow,
        "small": _small,
        "memory": _memory,
    }
    report.figure("the machine's load before, for each CPU", "", [os.getloadavg()[0] / (os.cpu_count() or 1)])
    if not only or "big" in only:
        # A suite of its own, whose log tells of stages; the others are to write as little as usual.
        async with _scene(log_level="DEBUG") as scene:
            await _big(report, scene)
    if not only or only & parts.keys():
        async with _scene() as scene:
            for name, part in parts.items():
                if not only or name in only:
                    await part(report, scene)
    if not only or "youtube" in only:
        await _youtube(report)


class _Scene:
    """An origin, its files, and those who fetch them."""

    def __init__(self, folder: Path, origin: str, rivals: Rivals, side: Ours) -> None:
        self.folder, self.origin, self.rivals, self.ours = folder, origin, rivals, side
        self._numbers = 0

    def smalls(self, count: int) -> list[str]:
        """URLs of *count* small files that nobody has seen."""
        first, self._numbers = self._numbers, self._numbers + count
        return [f"{self.origin}/small/{number}.mp4" for number in range(first, self._numbers)]


@asynccontextmanager
async def _scene(**settings: str) -> AsyncIterator[_Scene]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-fetch-")))
        media.make_small(folder)
        origin = stack.enter_context(_said("origin", "-m", "bench.fetch.origin", str(folder)))
        yield _Scene(
            folder, origin, Rivals(folder), await stack.enter_async_context(ours(folder, **settings))
        )


@contextmanager
def _said(word: str, *command: str) -> Iterator[str]:
    """What a process says after *word* on its first line; it ends with the block."""
    with subprocess.Popen(python(*command), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told, _, value = process.stdout.readline().strip().partition(" ")
            if told != word:
                raise RuntimeError(f"{command} did not start")
            yield value
        finally:
            process.terminate()


async def _big(report: Report, scene: _Scene) -> None:
    rounds, size = (3, 128 * _MB) if report.short else (5, 512 * _MB)
    report.title(f"One file of {size // _MB} MB: origin to verified artifact, through the running suite")
    path = media.make(scene.folder, "big.mp4", size)
    url, speeds = f"{scene.origin}/big.mp4", defaultdict[str, list[float]](list)
    spent = defaultdict[str, list[float]](list)
    for number in range(rounds + 1):
        media.renew(path, number)
        megabytes = path.stat().st_size / _MB
        speeds["curl"].append(megabytes / scene.rivals.with_curl(url))
        speeds["yt-dlp, command line"].append(megabytes / scene.rivals.with_command_line([url]))
        began = time.time()
        (name,) = await scene.ours.create([url])
        job = await scene.ours.ended(name)
        speeds["reelhaul"].append(megabytes / (job.end_time.ToNanoseconds() / 1e9 - began))
        for stage, milliseconds in stages.spent(scene.ours.suite.log, job).items():
            spent[f"of which {stage}"].append(milliseconds)
        # As the rivals' files are: who keeps them needs fresh memory for each, which costs more.
        await scene.ours.forget(name)
        if number == 0:
            speeds.clear()
            spent.clear()
    path.unlink()
    _against(report, "big", speeds, curl=0.6, command_line=1.5)
    report.figures("ms", spent)


async def _slow(report: Report, scene: _Scene) -> None:
    rounds, size = (3, 24 * _MB) if report.short else (3, 64 * _MB)
    report.title(f"One file of {size // _MB} MB from an origin that gives 1 MB/s to each connection")
    path = media.make(scene.folder, "slow.mp4", size)
    url, speeds = f"{scene.origin}/slow.mp4?{_RATE}", defaultdict[str, list[float]](list)
    for number in range(rounds):
        media.renew(path, number)
        megabytes = path.stat().st_size / _MB
        speeds["reelhaul"].append(megabytes / await scene.ours.seconds([url]))
        # Side by side: the origin keeps them waiting, not the machine.
        curl = asyncio.to_thread(scene.rivals.with_curl, url)
        command_line = asyncio.to_thread(scene.rivals.with_command_line, [url])
        for name, seconds in zip(
            ("curl", "yt-dlp, command line"), await asyncio.gather(curl, command_line), strict=True
        ):
            speeds[name].append(megabytes / seconds)
    path.unlink()
    _against(report, "slow", speeds, curl=6, command_line=6)


def _against(
    report: Report, part: str, speeds: dict[str, list[float]], *, curl: float, command_line: float
) -> None:
    """The *speeds* of a *part*; ours is to be *curl* times curl's and *command_line* times yt-dlp's."""
    report.figures("MB/s", speeds)
    to_curl = ratios(speeds["reelhaul"], speeds["curl"])
    to_command_line = ratios(speeds["reelhaul"], speeds["yt-dlp, command line"])
    report.target(f"fetch-{part}-to-curl", to_curl, ">=", curl)
    report.target(f"fetch-{part}-to-command-line", to_command_line, ">=", command_line)


async def _small(report: Report, scene: _Scene) -> None:
    rounds, count, spawned = (3, 40, 4) if report.short else (3, 100, 8)
    report.title(f"Files of 100 KB, {count} jobs a round over 2 slots")
    await scene.ours.seconds(scene.smalls(10))
    rates = defaultdict[str, list[float]](list)
    for _ in range(rounds):
        rates["reelhaul"].append(count / await scene.ours.seconds(scene.smalls(count)))
        alone = scene.rivals.with_command_line(scene.smalls(spawned))
        rates["yt-dlp, command line, 2 at a time"].append(spawned / alone)
        each = scene.rivals.in_a_loop(scene.smalls(count // 4 + 1), shared=False)
        rates["yt-dlp in a loop, a YoutubeDL for each"].append(each)
        rates["yt-dlp in a loop, one YoutubeDL"].append(
            scene.rivals.in_a_loop(scene.smalls(count + 1), shared=True)
        )
    report.figures("jobs/s", rates)
    ours_, rivals = rates.pop("reelhaul"), list(rates.values())
    report.target("fetch-small-to-command-line", ratios(ours_, rivals[0]), ">=", 10)
    report.target("fetch-small-to-loop-of-each", ratios(ours_, rivals[1]), ">=", 0.4)
    report.target("fetch-small-to-loop-of-one", ratios(ours_, rivals[2]), ">=", 0.4)


async def _memory(report: Report, scene: _Scene) -> None:
    first, more = (60, 60) if report.short else (100, 500)
    report.title("Memory")
    path = media.make(scene.folder, "held.mp4", 24 * _MB)
    names = await scene.ours.create([f"{scene.origin}/held.mp4?rate=100000&v={n}" for n in range(2)])
    report.figure("a running job, PSS of its child", "MB", await weight.of_children(scene.ours.suite, 2))
    await scene.ours.cancel(names)
    path.unlink()
    await scene.ours.seconds(scene.smalls(first))
    before = weight.of_parts(scene.ours.suite)
    await scene.ours.seconds(scene.smalls(more))
    after = weight.of_parts(scene.ours.suite)
    for name, megabytes in after.items():
        report.figure(f"{name}, RSS after {first + more} jobs", "MB", [megabytes], f"was {before[name]:.1f}")
    growth = {name: megabytes / before[name] for name, megabytes in after.items()}
    # The broker by itself: its heap is 3 MB at its start and 8 MB in use, whoever uses it.
    broker = growth.pop("nats")
    report.target("fetch-memory-growth", max(growth.values()), "<=", 1.05)
    report.target("fetch-memory-growth-of-the-broker", broker, "<=", 1.05)


async def _youtube(report: Report) -> None:
    rounds = 3
    report.title("YouTube's stand-in, 5 MB/s on each connection: 1080p and sound, merged")
    seconds = defaultdict[str, list[float]](list)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-fetch-")))
        trust = folder / "ca.pem"
        proxy = stack.enter_context(_said("youtube", "-m", "tests.sites.youtube", "--ca-out", str(trust)))
        settings = {"fetcher_upstream_proxy": proxy, "fetcher_ca_file": str(trust)}
        side = await stack.enter_async_context(ours(folder, **settings))
        rivals, url = Rivals(folder), "https://www.youtube.com/watch?v=slow5______"
        for _ in range(rounds):
            seconds["reelhaul"].append(await side.seconds([url]))
            more = ["--proxy", proxy, "--compat-options", "no-certifi", "--no-cache-dir"]
            taken = rivals.with_command_line([url], *more, SSL_CERT_FILE=str(trust))
            seconds["yt-dlp, command line"].append(taken)
    report.figures("s", seconds)
    ratio = ratios(seconds["yt-dlp, command line"], seconds["reelhaul"])
    report.target("fetch-youtube-to-command-line", ratio, ">=", 3.5)
