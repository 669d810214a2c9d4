"""``make console-bench``: sizes of the console, time until it can be used, and its updates with 1,000 jobs.

The server is a stand-in with the routes that the list uses: 1,000 jobs, of which 200 run. All of these have
new progress in every answer, and 20 jobs change in a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import statistics
import sys
import threading
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from aiohttp import web
from playwright.sync_api import Browser, expect
from tests.chromium import running_chromium
from tests.console.console import Console

_JOBS, _RUNNING, _CHANGES_PER_SECOND = 1000, 200, 20
_SECONDS = 20
_TARGETS = {"first load, kB": 150.0, "time to interactive, ms": 1000.0, "longest update, ms": 50.0}
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
# When the form takes input and the first row is shown.
_MEASURE_START = """
new MutationObserver(() => {
  if (!window.interactive && document.querySelector("textarea") && document.querySelector(".job"))
    window.interactive = performance.now();
}).observe(document, { childList: true, subtree: true });
"""
# The time from the callback of a frame to the first task after the frame was drawn.
_MEASURE_FRAMES = """
window.frames = [];
const request = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (callback) => request((time) => {
  const start = performance.now();
  callback(time);
  const channel = new MessageChannel();
  channel.port1.onmessage = () => window.frames.push(performance.now() - start);
  channel.port2.postMessage(null);
});
"""


def main() -> int:
    """Measure, and print a line for each figure; return 1 if one misses its target."""
    with _running_server() as address, running_chromium() as browser:
        figures = {
            "first load, kB": _measure_size(),
            "time to interactive, ms": _measure_start(browser, address),
            **_measure_updates(browser, address),
        }
    missed = False
    for name, value in figures.items():
        target = _TARGETS.get(name)
        missed |= target is not None and value > target
        print(f"{name:28}{value:8.1f}" + (f"   target {target:g}" if target else ""))
    return int(missed)


def _measure_size() -> float:
    folder = files("reelhaul_gateway").joinpath("static", "console")
    return sum(len(gzip.compress(entry.read_bytes(), 9)) for entry in folder.iterdir()) / 1000


def _measure_start(browser: Browser, address: str) -> float:
    """Return the median time from navigation to a form that takes input and a list that shows rows."""
    times = []
    for _ in range(7):
        console = Console(browser, address)
        console.page.add_init_script(_MEASURE_START)
        page = console.open()
        expect(page.get_by_role("list", name="Downloads").get_by_role("listitem").first).to_be_visible()
        times.append(page.evaluate("window.interactive"))
        console.close()
    return statistics.median(times)


def _measure_updates(browser: Browser, address: str) -> dict[str, float]:
    console = Console(browser, address)
    console.page.add_init_script(_MEASURE_FRAMES)
    page = console.open()
    expect(page.get_by_text("1,000 downloads")).to_be_visible()
    # All pages of the list are loaded before the measurement begins.
    while page.locator(f".job[aria-setsize='{_JOBS}']").count() == 0:
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(200)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(1000)
    page.evaluate("window.frames.length = 0")
    page.wait_for_timeout(_SECONDS * 1000)
    frames: list[float] = page.evaluate("window.frames")
    console.close()
    assert len(frames) > _SECONDS
    return {
        "updates": len(frames),
        "median update, ms": statistics.median(frames),
        "95 % of updates within, ms": statistics.quantiles(frames, n=20)[-1],
        "longest update, ms": max(frames),
    }


class _Server:
    """The stand-in of the gateway."""

    def __init__(self) -> None:
        self._jobs = [_job(number) for number in range(_JOBS)]
        self._tick = 0

    def build_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1:describeServer", self._describe)
        app.router.add_get("/v1/jobs", self._list)
        app.router.add_get("/v1/jobs:watch", self._watch)
        app.router.add_get("/api/v1/jobs", self._list_progress)
        app.router.add_get("/", self._file)
        app.router.add_get("/console/{name}", self._file)
        return app

    async def _describe(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0", "authenticationRequired": False})

    async def _list(self, request: web.Request) -> web.Response:
        size = int(request.query.get("pageSize", 50))
        start = int(request.query.get("pageToken") or 0)
        end = start + size
        token = str(end) if end < _JOBS else ""
        return web.json_response(
            {"jobs": self._jobs[start:end], "nextPageToken": token, "totalSize": str(_JOBS)}
        )

    async def _list_progress(self, _: web.Request) -> web.Response:
        self._tick += 1
        running = [job for job in self._jobs if job["state"] == "RUNNING"]
        return web.json_response({"jobs": [_progress(job, self._tick) for job in running]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'id: 0\ndata: {"resumeToken": "0"}\n\n')
        with contextlib.suppress(ConnectionResetError):
            for number in itertools.count(1):
                await asyncio.sleep(1 / _CHANGES_PER_SECOND)
                job = self._jobs[number * 7 % _JOBS]
                job["revision"] = str(int(job["revision"]) + 1)
                message = {"resumeToken": str(number), "job": job}
                await response.write(f"id: {number}\ndata: {json.dumps(message)}\n\n".encode())
        return response

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        body = files("reelhaul_gateway").joinpath("static", "console", name).read_bytes()
        response = web.Response(body=body, content_type=_TYPES[name.rpartition(".")[2]])
        response.enable_compression()
        return response


def _job(number: int) -> dict[str, Any]:
    states = ("SUCCEEDED", "FAILED", "QUEUED", "CANCELLED")
    state = "RUNNING" if number % (_JOBS // _RUNNING) == 0 else states[number % len(states)]
    return {
        "name": f"jobs/0199{_JOBS - number:04x}-0000-7000-8000-{_JOBS - number:012x}",
        "url": f"https://site-{number % 17}.example/watch?v={number}",
        "state": state,
        "revision": "1",
        "createTime": f"2026-11-30T12:{(_JOBS - number) // 60 % 60:02}:{(_JOBS - number) % 60:02}.000000Z",
        "media": {"title": f"A video with a title of usual length, number {number}", "extractor": "generic"},
    }


def _progress(job: dict[str, Any], tick: int) -> dict[str, Any]:
    percent = (tick * 3 + len(job["url"])) % 100
    return {
        "job_id": job["name"].removeprefix("jobs/"),
        "status": "RUNNING",
        "stage": "DOWNLOADING",
        "progress_percent": percent,
        "downloaded_bytes": percent * 1_000_000,
        "total_bytes": 100_000_000,
        "speed": 2_500_000 + tick,
        "eta_seconds": 100 - percent,
    }


@contextlib.contextmanager
def _running_server() -> Iterator[str]:
    """Run the stand-in in a thread until the block ends; yield its address."""
    loop, runner = asyncio.new_event_loop(), web.AppRunner(_Server().build_app(), shutdown_timeout=0.1)

    async def start() -> str:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
