"""Attacks on a running suite: idle connections, and hostile sites beside an honest download."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from tests.security.hostile_site import HostileSite
from tests.sites.http import serve_in_thread
from tests.sites.site import Site, start_site
from tests.suite.downloads import create_download, download, wait_for_end
from tests.suite.suite import SITE_NETWORK, Suite, running_suite

# Limits of the rate of requests are by site: the hostile one is another.
_HOSTILE_HOST = "127.0.0.3"
_HONEST = "/watch/video?token=honest-{}"
_HONEST_RUNS = 5
_HONEST_SECONDS = 60
_CANCEL_SECONDS = 60
_REQUESTS = 200
_REFILL_SECONDS = 0.2
_POLL_SECONDS = 0.1

#: A site that is hostile in each stage of a download, as paths and options of the request.
HOSTILE: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("page hangs", "/watch/jsonld?hang=1", {}),
    ("page drips", "/watch/jsonld?rate=1", {}),
    ("page stalls", "/watch/video?stall=10", {}),
    ("page without an end", "/watch/video?chunked=1&stall=200", {}),
    ("media hangs", "/watch/video?media.hang=1", {}),
    ("media drips", "/watch/video?media.rate=1", {}),
    ("media stalls", "/watch/video?media.stall=1000", {}),
    ("media is reset", "/watch/video?media.reset=1000", {}),
    ("media changes", "/watch/video?media.changing=1&media.rate=100000", {}),
    ("media is longer than stated", "/watch/video?media.length=1000000", {}),
    ("playlist hangs", "/hls/master.m3u8?hang=1", {}),
    ("segments hang", "/hls/master.m3u8?media.hang=1", {}),
    ("segments drip", "/hls/master.m3u8?media.rate=1", {}),
    ("packaging takes long", "/media/1080.mp4", {"format": "webm"}),
)

_RECORDED = {"live": {"mode": "RECORD"}}
#: The same in later stages, with the format of a job. Recordings have capacity of their own beside the slots.
HOSTILE_JOBS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("a recording without new segments", "/hostile/stands.m3u8", _RECORDED),
    ("a recording without an end", "/hostile/grows.m3u8", _RECORDED),
    ("a recording that drips", "/hostile/drips.m3u8", _RECORDED),
    ("a file per chapter", "/hostile/chapters", {"chapters": "SPLIT"}),
)
# What takes seconds, and is downloaded again and again beside the honest download: merging, verifying,
# uploading.
_REPEATED = (
    ("merging", "/hls/master.m3u8?token=merge-{}"),
    ("uploading", "/hostile/padded.mp4?token=padded-{}"),
)


@dataclass(frozen=True)
class LoadResult:
    """What the honest callers noticed, and what went wrong."""

    idle: int
    honest_ratio: float
    problems: tuple[str, ...]


def attack_suite(folder: Path, site: Site, idle: int) -> LoadResult:
    """Attack a suite with *idle* connections and with hostile sites; return what honest callers notice."""
    problems: list[str] = []
    slots = len(HOSTILE) + len(HOSTILE_JOBS) + len(_REPEATED) + 1
    settings = {
        "fetcher_slots": str(slots),
        "fetcher_allow_networks": f"{SITE_NETWORK},{_HOSTILE_HOST}/32",
        # The hostile site is one; each of its ways is to have a slot.
        "jobs_site_limit": "0",
        # Without the fetcher's files, so that storage receives them.
        "storage_adopt_dir": str(folder / "nowhere"),
    }
    hostile_site = HostileSite(site.media)
    with (
        serve_in_thread(lambda: start_site(hostile_site, _HOSTILE_HOST), name="hostile site"),
        running_suite(folder / "data", **settings) as suite,
    ):
        usual = _measure_honest(suite, site, "usual")
        held = _hold_idle_connections(suite, site, idle, problems)
        jobs = {
            name: create_download(suite, hostile_site.url(path), **options) for name, path, options in HOSTILE
        }
        jobs |= {name: _create_job(suite, hostile_site.url(path), spec) for name, path, spec in HOSTILE_JOBS}
        _wait_until_running(suite, jobs)
        with _repeating(suite, hostile_site) as counts:
            beside = _measure_honest(suite, site, "beside")
        print("meanwhile:", ", ".join(f"{count} times {name}" for name, count in sorted(counts.items())))
        problems += [f"{name} did not happen" for name, _ in _REPEATED if not counts[name]]
        problems += _cancel_all(suite, jobs)
    print(f"honest download: {usual:.2f} s alone, {beside:.2f} s beside {len(jobs)} hostile sites")
    return LoadResult(held, beside / usual, tuple(problems))


def _create_job(suite: Suite, url: str, spec: dict[str, object]) -> str:
    """Create a job of *url* with the format *spec*; return its id."""
    response = suite.http.post("/v1/jobs", json={"url": url, "format": spec})
    assert response.status_code == 200, response.text
    return str(response.json()["name"]).removeprefix("jobs/")


@contextmanager
def _repeating(suite: Suite, site: Site) -> Iterator[Counter[str]]:
    """Download what _REPEATED names from *site* again and again within the block; yield how often it was."""
    stop, counts = threading.Event(), Counter[str]()

    def repeat(name: str, path: str) -> None:
        with httpx.Client(base_url=suite.http.base_url, trust_env=False, timeout=30) as client:
            number = 0
            while not stop.is_set():
                number += 1
                response = client.post("/api/v1/download", json={"url": site.url(path.format(number))})
                job, status = response.json()["job_id"], ""
                while status not in ("SUCCEEDED", "FAILED") and not stop.wait(_POLL_SECONDS):
                    status = client.get(f"/api/v1/status/{job}").json()["status"]
                counts[name] += status == "SUCCEEDED"

    threads = [threading.Thread(target=repeat, args=each) for each in _REPEATED]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _measure_honest(suite: Suite, site: Site, label: str) -> float:
    """Return the median seconds of an honest download."""
    seconds = []
    for number in range(_HONEST_RUNS):
        start = time.monotonic()
        download(suite, site.url(_HONEST.format(f"{label}-{number}")))
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def _hold_idle_connections(suite: Suite, site: Site, count: int, problems: list[str]) -> int:
    """Call the suite while *count* connections are open that send nothing, or half a head."""
    address = urlsplit(suite.address("gateway"))
    with _idle_connections(str(address.hostname), address.port or 80, count) as sockets:
        seconds = []
        for _ in range(_REQUESTS):
            start = time.monotonic()
            response = suite.http.get("/api/v1/jobs")
            seconds.append(time.monotonic() - start)
            if response.status_code != 200:
                problems.append(f"beside idle connections a request gets {response.status_code}")
                break
        download(suite, site.url(_HONEST.format("idle")))
        held = len(sockets)
    slowest = sorted(seconds)[-max(len(seconds) // 20, 1)]
    print(f"{held} idle connections: requests take {slowest * 1000:.0f} ms (95th percentile)")
    if slowest > 1:
        problems.append(f"beside idle connections a request takes {slowest:.1f} s")
    return held


@contextmanager
def _idle_connections(host: str, port: int, count: int) -> Iterator[list[socket.socket]]:
    """Keep *count* connections open; those that the server closes are replaced."""
    sockets: list[socket.socket] = []
    stop = threading.Event()

    def connect(number: int) -> socket.socket:
        connection = socket.create_connection((host, port), timeout=5)
        if number % 2:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        connection.setblocking(False)
        return connection

    def is_closed(connection: socket.socket) -> bool:
        try:
            return not connection.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def refill() -> None:
        while not stop.wait(_REFILL_SECONDS):
            for number, connection in enumerate(sockets):
                if is_closed(connection):
                    connection.close()
                    with suppress(OSError):
                        sockets[number] = connect(number)

    try:
        for number in range(count):
            sockets.append(connect(number))
        thread = threading.Thread(target=refill)
        thread.start()
        try:
            yield sockets
        finally:
            stop.set()
            thread.join()
    finally:
        for connection in sockets:
            connection.close()


def _wait_until_running(suite: Suite, jobs: dict[str, str]) -> None:
    """Wait until no hostile job waits for a slot any more; print what they do."""

    def started() -> Counter[str]:
        downloads = [suite.http.get(f"/api/v1/status/{job}").json() for job in jobs.values()]
        if any(each["status"] in ("QUEUED", "RUNNING") and "stage" not in each for each in downloads):
            return Counter()
        # Media is hostile only once its download has begun.
        if any(each.get("stage") == "PROBING" and "media." in each["url"] for each in downloads):
            return Counter()
        return Counter(each["stage"] if each["status"] == "RUNNING" else each["status"] for each in downloads)

    stages = suite.wait_for("start of the hostile downloads", started)
    print("hostile downloads:", ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items())))


def _cancel_all(suite: Suite, jobs: dict[str, str]) -> list[str]:
    """Cancel what still runs; return those that do not end."""
    problems = []
    for name, job in jobs.items():
        suite.http.post(f"/api/v1/cancel/{job}", json={})
        try:
            last = wait_for_end(suite, job, _CANCEL_SECONDS)
        except Exception as error:
            problems.append(f"{name}: the download does not end: {error}")
            continue
        print(f"  {name}: {' '.join(last.keys() & {'completed', 'failed'})} after it was cancelled")
    return problems
