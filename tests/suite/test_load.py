"""A fetcher with its hands full still answers, keeps every lease, and grows no fatter."""

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
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with four slots, whose leases are short."""
    with running_suite(
        tmp_path_factory.mktemp("busy") / "data", fetcher_slots="4", jobs_lease_seconds=str(_LEASE_SECONDS)
    ) as suite:
        yield suite


@contextmanager
def _asked_how_it_is(suite: Suite) -> Iterator[list[float]]:
    """Within the block the fetcher is asked for its health ten times a second; the seconds each took."""
    took, over = list[float](), threading.Event()

    def ask() -> None:
        with suite.channel("fetcher") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not over.wait(0.1):
                for service in ("", _SERVICE):
                    began = time.monotonic()
                    answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                    took.append(time.monotonic() - began)
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield took
    finally:
        over.set()
        asking.join()


def test_under_full_load(busy: Suite, site: Site) -> None:
    """While every slot downloads, merges or encodes, health answers in a second and no lease is lost."""
    with _asked_how_it_is(busy) as took:
        jobs = [create_download(busy, site.url(f"/media/720.mp4?token={n}"), format="webm") for n in range(2)]
        jobs += [
            create_download(busy, site.url(f"/hls/master.m3u8?token={n}"), quality="720p") for n in range(2)
        ]
        jobs += [create_download(busy, site.url("/media/1080.mp4?rate=2000000"))]
        ends = [wait_for_end(busy, job, seconds=100) for job in jobs]
    assert all("completed" in end for end in ends), ends
    assert len(took) > 20
    assert max(took) < 1
    for job in jobs:
        attempts = busy.http.get(f"/v1/jobs/{job}/attempts").raise_for_status().json()["attempts"]
        assert [attempt["state"] for attempt in attempts] == ["SUCCEEDED"]


def test_no_growth(busy: Suite, site: Site) -> None:
    """After fifty jobs the processes that stay hold what they held after ten."""
    _fetched(busy, site, 10)
    before = _held(busy)
    _fetched(busy, site, 40)
    after = _held(busy)
    for pid, resident in before.items():
        assert after[pid] < resident * 1.05 + (1 << 20), psutil.Process(pid).cmdline()


def _fetched(suite: Suite, site: Site, jobs: int) -> None:
    urls = [site.url(f"/media/audio-en.m4a?token={number}") for number in range(jobs)]
    for job in [create_download(suite, url, audio_only=True) for url in urls]:
        assert "completed" in wait_for_end(suite, job, seconds=100)


def _held(suite: Suite) -> dict[int, int]:
    """Resident bytes of the fetcher, its guard and the engine's parent, by their pids."""
    fetcher = psutil.Process(suite.pid("fetcher"))
    return {process.pid: process.memory_info().rss for process in (fetcher, *fetcher.children())}
