"""Benchmark ``fetch``: downloads from an origin into storage, against curl and yt-dlp.

Parts: big (one file of 512 MB), slow (1 MB/s on each connection), youtube (the stand-in at 5 MB/s on each
connection), small (files of 100 KB), memory.
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
from dataclasses import dataclass
from pathlib import Path

from bench.fetch import origin
from bench.fetch.rivals import Rivals
from bench.fetch.suite import (
    SuiteDownloader,
    child_memory,
    process_memory,
    running_downloader,
    stage_milliseconds,
)
from bench.processes import python_command
from bench.report import Report, median_ratio

_MB = 1_000_000
_RATE = "rate=1000000"


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    parts: dict[str, Callable[[Report, _Setup], Awaitable[None]]] = {
        "slow": _measure_slow,
        "small": _measure_small,
        "memory": _measure_memory,
    }
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    report.add_figure("the machine's load before, for each CPU", "", [load])
    if not only or "big" in only:
        # A separate suite, whose log has the stages; the others log as little as usual.
        async with _running_setup(log_level="DEBUG") as setup:
            await _measure_big(report, setup)
    if not only or only & parts.keys():
        async with _running_setup() as setup:
            for name, measure_part in parts.items():
                if not only or name in only:
                    await measure_part(report, setup)
    if not only or "youtube" in only:
        await _measure_youtube(report)


@dataclass
class _Setup:
    """An origin, its files, and the downloaders."""

    folder: Path
    #: URL of the origin.
    origin: str
    rivals: Rivals
    suite: SuiteDownloader
    _small_files: int = 0

    def new_small_urls(self, count: int) -> list[str]:
        """Return the URLs of *count* small files that were not downloaded before."""
        first, self._small_files = self._small_files, self._small_files + count
        return [f"{self.origin}/small/{number}.mp4" for number in range(first, self._small_files)]


@asynccontextmanager
async def _running_setup(**settings: str) -> AsyncIterator[_Setup]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-fetch-")))
        origin.create_small_file(folder)
        url = stack.enter_context(_running_server("origin", "-m", "bench.fetch.origin", str(folder)))
        suite = await stack.enter_async_context(running_downloader(folder, **settings))
        yield _Setup(folder, url, Rivals(folder), suite)


@contextmanager
def _running_server(word: str, *arguments: str) -> Iterator[str]:
    """Run Python with *arguments*; yield what the process prints after *word* on its first line."""
    command = python_command(*arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first, _, value = process.stdout.readline().strip().partition(" ")
            if first != word:
                raise RuntimeError(f"{command} did not start")
            yield value
        finally:
            process.terminate()


async def _measure_big(report: Report, setup: _Setup) -> None:
    rounds, size = (3, 128 * _MB) if report.short else (5, 512 * _MB)
    report.print_title(
        f"One file of {size // _MB} MB: origin to verified artifact, through the running suite"
    )
    path = origin.create_large_file(setup.folder, "big.mp4", size)
    url, speeds = f"{setup.origin}/big.mp4", defaultdict[str, list[float]](list)
    stages = defaultdict[str, list[float]](list)
    for number in range(rounds + 1):
        origin.change_file(path, number)
        megabytes = path.stat().st_size / _MB
        speeds["curl"].append(megabytes / setup.rivals.time_curl(url))
        speeds["yt-dlp, command line"].append(megabytes / setup.rivals.time_command_line([url]))
        begin = time.time()
        (name,) = await setup.suite.create([url])
        job = await setup.suite.wait_for_end(name)
        speeds["reelhaul"].append(megabytes / (job.end_time.ToNanoseconds() / 1e9 - begin))
        for stage, milliseconds in stage_milliseconds(setup.suite.suite.log, job).items():
            stages[f"of which {stage}"].append(milliseconds)
        # The rivals' files are removed too: kept files would need new memory in each round, which is slow.
        await setup.suite.delete(name)
        if number == 0:
            speeds.clear()
            stages.clear()
    path.unlink()
    _add_speeds(report, "big", speeds, curl=0.6, command_line=1.5)
    report.add_figures("ms", stages)


async def _measure_slow(report: Report, setup: _Setup) -> None:
    rounds, size = (3, 24 * _MB) if report.short else (3, 64 * _MB)
    report.print_title(f"One file of {size // _MB} MB from an origin that gives 1 MB/s to each connection")
    path = origin.create_large_file(setup.folder, "slow.mp4", size)
    url, speeds = f"{setup.origin}/slow.mp4?{_RATE}", defaultdict[str, list[float]](list)
    for number in range(rounds):
        origin.change_file(path, number)
        megabytes = path.stat().st_size / _MB
        speeds["reelhaul"].append(megabytes / await setup.suite.time([url]))
        # At once, because they wait for the origin and not for the machine.
        curl = asyncio.to_thread(setup.rivals.time_curl, url)
        command_line = asyncio.to_thread(setup.rivals.time_command_line, [url])
        curl_seconds, command_line_seconds = await asyncio.gather(curl, command_line)
        speeds["curl"].append(megabytes / curl_seconds)
        speeds["yt-dlp, command line"].append(megabytes / command_line_seconds)
    path.unlink()
    _add_speeds(report, "slow", speeds, curl=6, command_line=6)


def _add_speeds(
    report: Report, part: str, speeds: dict[str, list[float]], *, curl: float, command_line: float
) -> None:
    """Add the *speeds* of a part; ours is to be *curl* times curl's and *command_line* times yt-dlp's."""
    report.add_figures("MB/s", speeds)
    to_curl = median_ratio(speeds["reelhaul"], speeds["curl"])
    to_command_line = median_ratio(speeds["reelhaul"], speeds["yt-dlp, command line"])
    report.add_target(f"fetch-{part}-to-curl", to_curl, ">=", curl)
    report.add_target(f"fetch-{part}-to-command-line", to_command_line, ">=", command_line)


async def _measure_small(report: Report, setup: _Setup) -> None:
    rounds, count, processes = (3, 40, 4) if report.short else (3, 100, 8)
    report.print_title(f"Files of 100 KB, {count} jobs a round over 2 slots")
    await setup.suite.time(setup.new_small_urls(10))
    rates = defaultdict[str, list[float]](list)
    for _ in range(rounds):
        rates["reelhaul"].append(count / await setup.suite.time(setup.new_small_urls(count)))
        seconds = setup.rivals.time_command_line(setup.new_small_urls(processes))
        rates["yt-dlp, command line, 2 at a time"].append(processes / seconds)
        rates["yt-dlp in a loop, a YoutubeDL for each"].append(
            setup.rivals.loop_rate(setup.new_small_urls(count // 4 + 1), shared=False)
        )
        rates["yt-dlp in a loop, one YoutubeDL"].append(
            setup.rivals.loop_rate(setup.new_small_urls(count + 1), shared=True)
        )
    report.add_figures("jobs/s", rates)
    ours, rivals = rates.pop("reelhaul"), list(rates.values())
    report.add_target("fetch-small-to-command-line", median_ratio(ours, rivals[0]), ">=", 10)
    report.add_target("fetch-small-to-loop-of-each", median_ratio(ours, rivals[1]), ">=", 0.4)
    report.add_target("fetch-small-to-loop-of-one", median_ratio(ours, rivals[2]), ">=", 0.4)


async def _measure_memory(report: Report, setup: _Setup) -> None:
    first, more = (60, 60) if report.short else (100, 500)
    report.print_title("Memory")
    path = origin.create_large_file(setup.folder, "held.mp4", 24 * _MB)
    urls = [f"{setup.origin}/held.mp4?rate=100000&v={n}" for n in range(2)]
    names = await setup.suite.create(urls)
    report.add_figure("a running job, PSS of its child", "MB", await child_memory(setup.suite.suite, 2))
    await setup.suite.cancel(names)
    path.unlink()
    await setup.suite.time(setup.new_small_urls(first))
    before = process_memory(setup.suite.suite)
    await setup.suite.time(setup.new_small_urls(more))
    after = process_memory(setup.suite.suite)
    for name, megabytes in after.items():
        note = f"was {before[name]:.1f}"
        report.add_figure(f"{name}, RSS after {first + more} jobs", "MB", [megabytes], note)
    growth = {name: megabytes / before[name] for name, megabytes in after.items()}
    # Separate: the broker's heap grows from 3 MB at its start to 8 MB in use, under any load.
    broker = growth.pop("nats")
    report.add_target("fetch-memory-growth", max(growth.values()), "<=", 1.05)
    report.add_target("fetch-memory-growth-of-the-broker", broker, "<=", 1.05)


async def _measure_youtube(report: Report) -> None:
    rounds = 3
    report.print_title("YouTube's stand-in, 5 MB/s on each connection: 1080p and audio, merged")
    seconds = defaultdict[str, list[float]](list)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-fetch-")))
        ca_file = folder / "ca.pem"
        proxy = stack.enter_context(
            _running_server("youtube", "-m", "tests.sites.youtube", "--ca-out", str(ca_file))
        )
        settings = {"fetcher_upstream_proxy": proxy, "fetcher_ca_file": str(ca_file)}
        suite = await stack.enter_async_context(running_downloader(folder, **settings))
        rivals, url = Rivals(folder), "https://www.youtube.com/watch?v=slow5______"
        options = ["--proxy", proxy, "--compat-options", "no-certifi", "--no-cache-dir"]
        for _ in range(rounds):
            seconds["reelhaul"].append(await suite.time([url]))
            seconds["yt-dlp, command line"].append(
                rivals.time_command_line([url], *options, SSL_CERT_FILE=str(ca_file))
            )
    report.add_figures("s", seconds)
    ratio = median_ratio(seconds["yt-dlp, command line"], seconds["reelhaul"])
    report.add_target("fetch-youtube-to-command-line", ratio, ">=", 3.5)
