"""Egresses: which one a fetch uses, after failures, with daily budgets, and through the guard."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError
from tests.fetcher.fakes import FakeEngine, FakeGuard, FakeQueue
from tests.fetcher.guard_harness import PUBLIC, in_process_guard, proxy_client, running_site

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import work_pb2
from reelhaul.work.v1.work_pb2 import WorkerNotice
from reelhaul_fetcher.disk.egress_usage_log import EgressUsageLog
from reelhaul_fetcher.disk.workdir import WorkDirs
from reelhaul_fetcher.guard.supervisor import GuardConfig, running_guard
from reelhaul_fetcher.model.disk_limits import DiskThresholds
from reelhaul_fetcher.model.egresses import Egresses, egress_name
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.service.disk_space import DiskMonitor
from reelhaul_fetcher.service.egress_metering import BudgetedQueue, MeteredGuard
from reelhaul_fetcher.service.probe_cache import ProbeCache, ProbeQuery
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_fetcher.service.worker import WorkerHeartbeat
from reelhaul_fetcher.settings import Settings
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.tasks import cancel_and_wait

BLOCKED = ReelhaulError(ErrorReason.UPSTREAM_BLOCKED, "are you a robot?")
GONE = ReelhaulError(ErrorReason.MEDIA_NOT_FOUND, "gone")
SITE = "a.example"


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_least_loaded_first(clock: Clock) -> None:
    """Running fetches count first, bytes carried today second."""
    egresses = Egresses(("a", "b", "c"), now=clock)
    egresses.begin("a")
    egresses.add_bytes("b", 5)
    assert egresses.candidates() == ["c", "b", "a"]
    egresses.end("a")
    assert egresses.candidates() == ["a", "c", "b"]


def test_cooldown_is_per_site(clock: Clock) -> None:
    """A bot check makes the next fetch of that site, and of no other, use another egress."""
    egresses = Egresses(("a", "b"), now=clock)
    egresses.record_result(SITE, "a", BLOCKED)
    assert egresses.choose(SITE) == "b"
    assert egresses.choose("b.example") == "a"
    clock.now += timedelta(seconds=31)
    assert egresses.choose(SITE) == "a"


def test_cooldown_doubles_and_ends(clock: Clock) -> None:
    """Each cool-down is twice the last one, half an hour at most; only a success ends it early."""
    egresses = Egresses(("a", "b"), now=clock)
    for seconds in (30, 60, 120, 240, 480, 960, 1800, 1800):
        egresses.record_result(SITE, "a", BLOCKED)
        egresses.record_result(SITE, "a", BLOCKED)
        clock.now += timedelta(seconds=seconds - 1)
        egresses.record_result(SITE, "a", GONE)
        assert egresses.choose(SITE) == "b"
        clock.now += timedelta(seconds=1)
        assert egresses.choose(SITE) == "a"
    egresses.record_result(SITE, "a", BLOCKED)
    egresses.record_result(SITE, "a", None)
    assert egresses.choose(SITE) == "a"


def test_retry_after(clock: Clock) -> None:
    """Retry-After is honoured if it is longer."""
    egresses = Egresses(("a", "b"), now=clock)
    slow = ReelhaulError(ErrorReason.UPSTREAM_THROTTLED, "slow", retry_delay=timedelta(hours=1))
    egresses.record_result(SITE, "a", slow)
    clock.now += timedelta(minutes=59)
    assert egresses.choose(SITE) == "b"


def test_all_in_cooldown(clock: Clock) -> None:
    """If all egresses are in cool-down, the one whose cool-down ends first is used."""
    egresses = Egresses(("a", "b"), now=clock)
    egresses.record_result(SITE, "b", BLOCKED)
    clock.now += timedelta(seconds=5)
    egresses.record_result(SITE, "a", BLOCKED)
    assert egresses.choose(SITE) == "b"


def test_broken_egress_is_avoided_at_every_site(clock: Clock) -> None:
    """A proxy that is down or rejects our credentials is offered to no job while another works."""
    egresses = Egresses(("a", "b"), now=clock)
    away = ReelhaulError(ErrorReason.UPSTREAM_UNAVAILABLE, "away", metadata={"host": SITE, "cause": "egress"})
    egresses.record_result(SITE, "a", away)
    assert egresses.candidates() == ["b"]
    assert egresses.choose("b.example") == "b"
    egresses.record_result(SITE, "b", away)
    assert egresses.candidates() == ["a", "b"]


def test_daily_budget(clock: Clock) -> None:
    """An egress over its budget is not chosen until midnight; with none left a fetch fails as retryable."""
    clock.now = clock.now.replace(hour=23)
    egresses = Egresses(("a", "b"), 100, clock, carried={"a": 100})
    assert egresses.candidates() == ["b"]
    assert egresses.choose(SITE) == "b"
    egresses.add_bytes("b", 100)
    assert egresses.exhausted
    with pytest.raises(ReelhaulError) as failure:
        egresses.choose(SITE)
    assert failure.value.reason == ErrorReason.UPSTREAM_UNAVAILABLE
    assert failure.value.metadata["cause"] == "egress"
    assert egresses.candidates() == ["a", "b"]
    clock.now += timedelta(hours=1)
    assert not egresses.exhausted
    assert egresses.bytes_today("a") == 0


def test_budget_survives_restart(tmp_path: Path, clock: Clock) -> None:
    """The bytes of today are known after a restart; those of yesterday are deleted."""
    day = clock.now.date()
    EgressUsageLog(tmp_path).read(day)
    EgressUsageLog(tmp_path).add(day, "a", 5)
    EgressUsageLog(tmp_path).add(day, "", 7)
    EgressUsageLog(tmp_path).add(day, "a", 5)
    assert EgressUsageLog(tmp_path).read(day) == {"a": 10, "": 7}
    assert EgressUsageLog(tmp_path).read(day + timedelta(days=1)) == {}
    assert list(tmp_path.iterdir()) == []


async def test_metered_guard(tmp_path: Path, clock: Clock) -> None:
    """Bytes in both directions are charged once, while the fetch runs and at its end."""
    inner, egresses, usage_log = FakeGuard(), Egresses(("a", "b"), 1000, clock), EgressUsageLog(tmp_path)
    guard = MeteredGuard(inner, egresses, usage_log.add)
    await guard.open("x", 0, "b")
    assert egresses.candidates() == ["a", "b"]
    for usage in (Usage(300, 100), Usage(600, 150)):
        inner.reported_usage = usage
        await guard.usage("x")
    inner.reported_usage = Usage(800, 200)
    await guard.close("x")
    assert inner.egresses == ["b"]
    assert egresses.bytes_today("b") == 1000
    assert egresses.candidates() == ["a"]
    assert usage_log.read(clock.now.date()) == {"b": 1000}


async def test_no_work_without_budget(clock: Clock) -> None:
    """While all egresses are exhausted, work stays in the queue."""
    egresses = Egresses(("a",), 10, clock, carried={"a": 10})
    inner = FakeQueue([])
    inner.put(work_pb2.WorkItem(job="jobs/1", attempt=1))
    delivery = asyncio.create_task(BudgetedQueue(inner, egresses, check_seconds=0.01).next())
    await asyncio.wait({delivery}, timeout=0.1)
    assert not delivery.done()
    clock.now += timedelta(days=1)
    assert (await asyncio.wait_for(delivery, 5)).item.job == "jobs/1"


async def test_budget_used_up_while_waiting(clock: Clock) -> None:
    """An item that arrives after the last of the budget was used is handed back."""
    egresses, inner = Egresses(("a",), 10, clock), FakeQueue([])
    delivery = asyncio.create_task(BudgetedQueue(inner, egresses, check_seconds=0.01).next())
    await inner.waiting.wait()
    egresses.add_bytes("a", 10)
    inner.put(work_pb2.WorkItem(job="jobs/1", attempt=1))
    await asyncio.wait({delivery}, timeout=0.1)
    assert not delivery.done()
    assert inner.log == ["nak 5"]
    clock.now += timedelta(days=1)
    inner.put(work_pb2.WorkItem(job="jobs/1", attempt=1))
    assert (await asyncio.wait_for(delivery, 5)).item.job == "jobs/1"


async def test_heartbeat_reports_exhausted_egresses(tmp_path: Path, clock: Clock) -> None:
    """The heartbeat reports exhausted egresses until midnight, and at the end that the worker leaves."""
    disk, queue = DiskMonitor(WorkDirs(tmp_path), DiskThresholds(0, 0)), FakeQueue([])
    egresses = Egresses(("a",), 10, clock)
    heartbeat = WorkerHeartbeat("w", lambda: 3, disk, egresses, clock)
    assert heartbeat.notice() == WorkerNotice(worker="w", slot_count=3)
    egresses.add_bytes("a", 10)
    running = asyncio.create_task(heartbeat.run(queue))
    notice = await asyncio.wait_for(queue.worker_notices.get(), 5)
    assert (notice.shortage, notice.until.ToDatetime(UTC)) == (
        WorkerNotice.EGRESS,
        datetime(2026, 11, 23, tzinfo=UTC),
    )
    clock.now += timedelta(days=1)
    assert heartbeat.notice().shortage == WorkerNotice.SHORTAGE_UNSPECIFIED
    await cancel_and_wait(running)
    assert queue.worker_notices.get_nowait() == WorkerNotice(worker="w")


async def test_probe_after_bot_check(clock: Clock) -> None:
    """A probe that meets a bot check makes the next one use another egress."""
    engine, guard = FakeEngine(), FakeGuard()
    engine.failure = BLOCKED
    probes = ProbeCache(engine, SiteAccess(guard, Egresses(("a", "b"), now=clock)), clock)
    with pytest.raises(ReelhaulError):
        await probes.probe(ProbeQuery("https://www.a.example/1"))
    engine.failure = None
    await probes.probe(ProbeQuery("https://a.example/2"))
    assert guard.egresses == ["a", "b"]


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_session_uses_one_egress(method: str) -> None:
    """All traffic of a session uses its own proxy, and none uses another."""
    addresses = {"far.test": [PUBLIC]}
    async with running_site() as site, in_process_guard(addresses) as one, in_process_guard(addresses) as two:
        egresses = {
            name: f"http://x:secret@127.0.0.1:{proxy.port}" for name, proxy in (("1", one), ("2", two))
        }
        async with running_guard(GuardConfig(egresses=egresses, extra_ports=(site.port,))) as guard:
            for egress, used, idle in (("1", one, two), ("2", two, one)):
                before = replace(idle.session.usage)
                proxy_url = await guard.open(f"by-{egress}", egress=egress)
                credentials = proxy_url.removeprefix("http://").partition("@")[0]
                host = f"far.test:{site.port}"
                async with proxy_client(urlsplit(proxy_url).port) as client:
                    target = host if method == "CONNECT" else f"http://{host}/"
                    assert (await client.request(method, target, credentials=credentials)).status == 200
                    if method == "CONNECT":
                        await client.send(b"GET / HTTP/1.1\r\nHost: far.test\r\n\r\n")
                        assert (await client.read_response()).status == 200
                assert used.session.usage.ingress_bytes > 0
                assert idle.session.usage == before
            with pytest.raises(ValueError, match="no egress"):
                await guard.open("straight")


async def test_session_keeps_egress_after_guard_restart() -> None:
    """The restarted guard sends the same session through the same proxy."""
    async with running_site() as site, in_process_guard({"far.test": [PUBLIC]}) as proxy:
        egresses = {"": "http://127.0.0.1:1", "1": f"http://x:secret@127.0.0.1:{proxy.port}"}
        async with running_guard(GuardConfig(egresses=egresses, extra_ports=(site.port,))) as guard:
            proxy_url = await guard.open("x", egress="1")
            os.kill(guard.pid, signal.SIGKILL)
            credentials = proxy_url.removeprefix("http://").partition("@")[0]
            async with proxy_client(urlsplit(proxy_url).port) as client:
                target = f"http://far.test:{site.port}/"
                assert (await client.request("GET", target, credentials=credentials)).status == 200


def test_egress_names() -> None:
    """A name does not depend on the password, and differs by user, host and port."""
    urls = ["http://u:p@h:1", "http://v:p@h:1", "http://u:p@g:1", "http://u:p@h:2", "http://h:1"]
    assert len({egress_name(url) for url in urls}) == len(urls)
    assert egress_name("http://u:other@H:1") == egress_name(urls[0])
    assert len(egress_name(urls[0])) <= 64


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The single proxy is one of the pool, and so is ``direct``; without any there is a direct connection."""
    assert Settings(data_dir=tmp_path).egresses == {"": ""}
    one, two = "http://u:secret@proxy.example:3128", "http://other.example:3128"
    monkeypatch.setenv("REELHAUL_FETCHER_UPSTREAM_PROXY", one)
    monkeypatch.setenv("REELHAUL_FETCHER_UPSTREAM_PROXIES", f"direct, {two},")
    settings = Settings(data_dir=tmp_path)
    assert settings.egresses == {egress_name(one): one, "direct": "", egress_name(two): two}
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("proxies", ["socks5://u:hidden@h:1", "http://u:hidden@h:1,http://u:hidden2@h:1"])
def test_invalid_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxies: str) -> None:
    """An invalid or repeated proxy is rejected; the message contains no password."""
    monkeypatch.setenv("REELHAUL_FETCHER_UPSTREAM_PROXIES", proxies)
    with pytest.raises(ValidationError) as failure:
        Settings(data_dir=tmp_path)
    assert "hidden" not in str(failure.value.errors(include_input=False, include_context=False))
