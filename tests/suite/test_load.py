"""A fetcher under full load answers health checks, keeps its leases, and does not grow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite, running_suite

_LEASE_SECONDS = 3
_SERVICE = "reelhaul.fetcher.v1.FetcherService"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with four slots and short leases."""
    with running_suite(
        tmp_path_factory.mktemp("load") / "data", fetcher_slots="4", jobs_lease_seconds=str(_LEASE_SECONDS)
    ) as suite:
        yield suite


@contextmanager
def _health_checks(suite: Suite) -> Iterator[list[float]]:
    """Check the fetcher's health ten times a second until the block ends; yield the seconds of each call."""
    latencies, stop = list[float](), threading.Event()

    def check() -> None:
        with suite.channel("fetcher") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not stop.wait(0.1):
                for service in ("", _SERVICE):
                    begin = time.monotonic()
                    response = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                    latencies.append(time.monotonic() - begin)
                    assert response.status == health_pb2.HealthCheckResponse.SERVING

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield latencies
    finally:
        stop.set()
        thread.join()


def test_full_load(suite: Suite, site: Site) -> None:
    """While all slots work, each health check takes less than a second, and no lease expires."""
    with _health_checks(suite) as latencies:
        urls = [site.url(f"/media/720.mp4?token={n}") for n in range(2)]
        jobs = [create_download(suite, url, format="webm") for url in urls]
        urls = [site.url(f"/hls/master.m3u8?token={n}") for n in range(2)]
        jobs += [create_download(suite, url, quality="720p") for url in urls]
        jobs += [create_download(suite, site.url("/media/1080.mp4?rate=2000000"))]
        ends = [wait_for_end(suite, job, seconds=100) for job in jobs]
    assert all("completed" in end for end in ends), ends
    assert len(latencies) > 20
    assert max(latencies) < 1
    for job in jobs:
        attempts = suite.http.get(f"/v1/jobs/{job}/attempts").raise_for_status().json()["attempts"]
        assert [attempt["state"] for attempt in attempts] == ["SUCCEEDED"]


def test_no_growth(suite: Suite, site: Site) -> None:
    """After fifty jobs the long-lived processes have the resident memory that they had after ten."""
    _download_audio(suite, site, 10)
    before = _resident_bytes(suite)
    _download_audio(suite, site, 40)
    after = _resident_bytes(suite)
    for pid, resident in before.items():
        assert after[pid] < resident * 1.05 + (1 << 20), psutil.Process(pid).cmdline()


def _download_audio(suite: Suite, site: Site, count: int) -> None:
    urls = [site.url(f"/media/audio-en.m4a?token={number}") for number in range(count)]
    for job in [create_download(suite, url, audio_only=True) for url in urls]:
        assert "completed" in wait_for_end(suite, job, seconds=100)


def _resident_bytes(suite: Suite) -> dict[int, int]:
    """Return the resident bytes of the fetcher, its guard and the engine's zygote by their pids."""
    fetcher = psutil.Process(suite.pid("fetcher"))
    return {process.pid: process.memory_info().rss for process in (fetcher, *fetcher.children())}
