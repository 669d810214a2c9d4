"""Metrics of the fetcher: what the guard carried and refused, where attempts spent time, what expires."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from tests.fetcher.fakes import FakeEngine, FakeGuard
from tests.fetcher.guard_harness import PUBLIC, proxy_client, running_site
from tests.metric_values import MetricChanges

from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_fetcher.guard.supervisor import GuardConfig, running_guard
from reelhaul_fetcher.model.cookies import login_expiry, parse
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.service.probe_cache import ProbeCache, ProbeQuery
from reelhaul_fetcher.service.progress_reporter import ProgressReporter
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_runtime.metrics.labels import OTHER

NOW = datetime(2030, 1, 1, tzinfo=UTC)


async def request(proxy_url: str, target: str) -> None:
    credentials = urlsplit(proxy_url).netloc.partition("@")[0]
    async with proxy_client(urlsplit(proxy_url).port or 0) as client:
        await client.request("GET", target, credentials=credentials)


async def test_traffic_of_an_egress():
    """The bytes of an egress are those of its sessions, also of one that outlived its guard process."""
    changes = MetricChanges()
    config = GuardConfig(allow_networks=(f"{PUBLIC}/32",), egresses={"": ""})
    async with running_site() as site, running_guard(config) as guard:
        url = await guard.open("one")
        await request(url, f"http://{PUBLIC}:{site.port}/")
        await request(url, f"http://127.0.0.1:{site.port}/")
        await guard.usage("one")
        os.kill(guard.pid, signal.SIGKILL)
        # A connection waits until the next guard takes it.
        await request(url, f"http://{PUBLIC}:{site.port}/")
        usage = await guard.close("one")
        assert guard.open_connections == {"": 0}
    assert changes.of("reelhaul_egress_bytes_total") == {
        ("in", "direct"): usage.ingress_bytes,
        ("out", "direct"): usage.egress_bytes,
    }
    assert changes.of("reelhaul_guard_refused_total") == {("loopback",): 1}
    assert changes.of("reelhaul_engine_restarts_total") == {("guard",): 1}


async def test_open_connections_of_an_egress():
    """A connection counts for its egress until it is closed, whether bytes flow or not."""
    config = GuardConfig(allow_networks=(f"{PUBLIC}/32",), egresses={"": "", "other": ""})
    async with running_site() as site, running_guard(config) as guard:
        url = await guard.open("one", egress="other")
        credentials = urlsplit(url).netloc.partition("@")[0]
        async with proxy_client(urlsplit(url).port or 0) as client:
            target = f"http://{PUBLIC}:{site.port}/"
            await client.request("GET", target, credentials=credentials)
            await guard.usage("one")
            assert guard.open_connections == {"": 0, "other": 1}
        async with asyncio.timeout(10):
            while guard.open_connections["other"]:  # noqa: ASYNC110 - another process reports it
                await asyncio.sleep(0.02)


async def test_time_of_stages():
    """Each stage of an attempt counts the time until the next one began, or the attempt ended."""
    time, changes = [100.0], MetricChanges()
    reporter = ProgressReporter(
        "jobs/one",
        1,
        1,
        None,
        recording_started=lambda: None,
        media_file_ready=lambda _: None,
        published=lambda _: None,
        renew_now=lambda: None,
        site="stages.example",
        clock=lambda: time[0],
    )
    # Progress comes from a child that a site may control.
    unknown = Progress()
    unknown.MergeFromString(b"\x08\x63")
    async with reporter.publishing():
        for seconds, stage in ((1, Progress.PROBING), (2, Progress.DOWNLOADING), (4, Progress.DOWNLOADING)):
            time[0] += seconds
            reporter.on_progress(Progress(stage=stage))
        reporter.on_progress(unknown)
        time[0] += 8
        reporter.report_upload(0, 1)
        time[0] += 16
    seconds = {"PROBING": 2.0, "DOWNLOADING": 4.0, "UPLOADING": 16.0}
    assert changes.of("reelhaul_fetch_stage_seconds_sum") == {(name,): s for name, s in seconds.items()}
    assert changes.of("reelhaul_fetch_stage_seconds_count") == {(name,): 1 for name in seconds}


async def test_bytes_of_sites_while_they_are_received():
    """Bytes count for their site when they are measured; of a thousand sites most are one label."""
    changes = MetricChanges()
    for number in range(1000):
        reporter = ProgressReporter(
            "jobs/one",
            1,
            1,
            None,
            recording_started=lambda: None,
            media_file_ready=lambda _: None,
            published=lambda _: None,
            renew_now=lambda: None,
            site=f"site{number}.example",
        )
        for received in (0, 3, 3, 10):
            reporter.on_usage(Usage(received, 99))
    counted = changes.of("reelhaul_fetch_bytes_total")
    assert sum(counted.values()) == 10_000
    assert len(counted) <= 101
    assert counted[OTHER,] >= 9000


async def test_results_of_probes():
    """Probes count by whether the cache, a probe that ran, or the site answered them."""
    engine, changes = FakeEngine(), MetricChanges()
    cache = ProbeCache(engine, SiteAccess(FakeGuard()), lambda: NOW)
    query = ProbeQuery("https://videos.example/1")
    await asyncio.gather(*(cache.probe(query) for _ in range(3)))
    await cache.probe(query)
    await cache.probe(query, bypass_cache=True)
    assert changes.of("reelhaul_probe_cache_total") == {("miss",): 2, ("joined",): 2, ("hit",): 1}


HOUR, MONTH, YEAR = timedelta(hours=1), timedelta(days=30), timedelta(days=365)


@pytest.mark.parametrize(
    ("cookies", "expected"),
    [
        ([("#HttpOnly_", YEAR), ("#HttpOnly_", MONTH), ("", HOUR)], MONTH),
        ([("#HttpOnly_", HOUR), ("#HttpOnly_", MONTH)], MONTH),
        ([("", HOUR), ("", MONTH)], MONTH),
        ([("#HttpOnly_", None), ("", MONTH)], MONTH),
        ([("#HttpOnly_", None)], None),
    ],
    ids=["the first login", "no robot check", "without marks", "session cookie", "session cookies only"],
)
def test_when_a_login_expires(cookies, expected):
    """A login expires with its first lasting cookie that scripts cannot read, if the file shows which are."""
    lines = [
        f"{prefix}.example.com\tTRUE\t/\tTRUE\t{(NOW + lasting).timestamp():.0f}\tN\tv"
        if lasting
        else f"{prefix}.example.com\tTRUE\t/\tTRUE\t0\tN\tv"
        for prefix, lasting in cookies
    ]
    expiry = login_expiry(parse("\n".join(lines)), NOW)
    assert expiry == (NOW + expected if expected else None)
