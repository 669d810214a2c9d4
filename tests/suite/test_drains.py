"""SIGTERM of one service under load: no call fails, no download is lost, and nothing is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end, wait_until_downloading
from tests.suite.suite import Suite, running_suite

from reelhaul.client import AsyncClient
from reelhaul_runtime.up import procfs

# Bytes per second of the download; slower where it must outlast the drain.
_RATE, _SLOW_RATE = 1_500_000, 500_000
_DRAIN_SECONDS = 1


@pytest.fixture(scope="module")
def drained_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite whose services have a second to drain."""
    with running_suite(
        tmp_path_factory.mktemp("drains") / "data", drain_seconds=str(_DRAIN_SECONDS)
    ) as suite:
        yield suite


@pytest.mark.parametrize("service", ["gateway", "fetcher", "jobs", "storage"])
def test_a_service_drains_under_load(drained_suite: Suite, site: Site, service: str) -> None:
    """The callers of a service that gets SIGTERM notice a delay at most; its download succeeds once."""
    suite = drained_suite
    suite.wait_until_ready()
    rate = _SLOW_RATE if service == "fetcher" else _RATE
    job = create_download(suite, site.url(f"/watch/demo?media.rate={rate}"), quality="1080p", format="mp4")
    wait_until_downloading(suite, job, 300_000)
    stop = Event()
    with ThreadPoolExecutor(1) as callers:
        calls = callers.submit(asyncio.run, _call_until(stop, suite, job))
        pid = suite.pid(service)
        below = procfs.descendants(pid)
        os.kill(pid, signal.SIGTERM)
        suite.wait_for_restart(service, pid)
        last = wait_for_end(suite, job, seconds=60)
        stop.set()
        assert calls.result(60) > 0, "calls that failed would have raised"

    assert f"{service} ended with exit code 0; restarting" in suite.log.read_text()
    suite.wait_for("end of what ran below it", lambda: not any(map(_exists, below)))
    file = suite.http.get(last["completed"]["files"][0]["url"]).raise_for_status().content
    assert site.digest("/media/1080.mp4") == hashlib.sha256(file).hexdigest()
    attempts = suite.http.get(f"/v1/jobs/{job}/attempts").raise_for_status().json()["attempts"]
    # A fetcher hands back what it cannot end in time; the attempt that follows continues it.
    states = ["SUCCEEDED"] if service != "fetcher" else ["RELEASED", "SUCCEEDED"]
    assert sorted(states) == sorted(attempt["state"] for attempt in attempts)


async def _call_until(stop: Event, suite: Suite, job: str) -> int:
    """Read a job and its list until *stop*; return how many calls succeeded. Raises CallFailed."""
    count = 0
    async with AsyncClient(
        suite.address("jobs"), storage=suite.address("storage"), retry_timeout=60
    ) as client:
        while not stop.is_set():
            assert job == (await client.get(job)).job_id
            count += 1
            await asyncio.sleep(0.01)
    return count


def _exists(pid: int) -> bool:
    try:
        procfs.age_seconds(pid)
    except ProcessLookupError:
        return False
    return True
