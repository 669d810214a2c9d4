"""Several ways out: which one a fetch takes, and what a refusal or a day's budget means for the next."""

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
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_least_busy_first(clock: Clock) -> None:
    """What runs counts first, what was carried today second."""
    egresses = Egresses(("a", "b", "c"), now=clock)
    egresses.begin("a")
    egresses.add_bytes("b", 5)
    assert egresses.candidates() == ["c", "b", "a"]
    egresses.end("a")
    assert egresses.candidates() == ["a", "c", "b"]


def test_blocked_egress_rests_at_that_site(clock: Clock) -> None:
    """A bot check sends the next fetch of the site another way, and no other site's."""
    egresses = Egresses(("a", "b"), now=clock)
    egresses.record_result(SITE, "a", BLOCKED)
    assert egresses.choose(SITE) == "b"
    assert egresses.choose("b.example") == "a"
    clock.now += timedelta(seconds=31)
    assert egresses.choose(SITE) == "a"


def test_rests_double_and_end(clock: Clock) -> None:
    """Each rest is twice the last one, half an hour at most; a welcome ends it; else it says nothing."""
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


def test_the_site_names_the_wait(clock: Clock) -> None:
    """Retry-After is honoured where it is longer."""
    egresses = Egresses(("a", "b"), now=clock)
    slow = ReelhaulError(ErrorReason.UPSTREAM_THROTTLED, "slow", retry_delay=timedelta(hours=1))
    egresses.record_result(SITE, "a", slow)
    clock.now += timedelta(minutes=59)
    assert egresses.choose(SITE) == "b"


def test_all_rest(clock: Clock) -> None:
    """Where a site lets none in, the one that rests the shortest asks."""
    egresses = Egresses(("a", "b"), now=clock)
    egresses.record_result(SITE, "b", BLOCKED)
    clock.now += timedelta(seconds=5)
    egresses.record_result(SITE, "a", BLOCKED)
    assert egresses.choose(SITE) == "b"


def test_broken_egress_rests_everywhere(clock: Clock) -> None:
    """A proxy that is away, or does not know us, is offered to no job while another works."""
    egresses = Egresses(("a", "b"), now=clock)
    away = ReelhaulError(ErrorReason.UPSTREAM_UNAVAILABLE, "away", metadata={"host": SITE, "cause": "egress"})
    egresses.record_result(SITE, "a", away)
    assert egresses.candidates() == ["b"]
    assert egresses.choose("b.example") == "b"
    egresses.record_result(SITE, "b", away)
    assert egresses.candidates() == ["a", "b"]


def test_day_of_bytes(clock: Clock) -> None:
    """An egress over its budget is chosen by nobody until midnight; none left is a failure that may pass."""
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


def test_budget_outlives_the_process(tmp_path: Path, clock: Clock) -> None:
    """What was carried today is known after a restart; yesterday is not."""
    day = clock.now.date()
    EgressUsageLog(tmp_path).read(day)
    EgressUsageLog(tmp_path).add(day, "a", 5)
    EgressUsageLog(tmp_path).add(day, "", 7)
    EgressUsageLog(tmp_path).add(day, "a", 5)
    assert EgressUsageLog(tmp_path).read(day) == {"a": 10, "": 7}
    assert EgressUsageLog(tmp_path).read(day + timedelta(days=1)) == {}
    assert list(tmp_path.iterdir()) == []


async def test_bytes_are_counted_for_their_egress(tmp_path: Path, clock: Clock) -> None:
    """Bytes in both directions count, once, while the fetch runs and when it has ended."""
    inner, egresses, spending = FakeGuard(), Egresses(("a", "b"), 1000, clock), EgressUsageLog(tmp_path)
    guard = MeteredGuard(inner, egresses, spending.add)
    await guard.open("x", 0, "b")
    assert egresses.candidates() == ["a", "b"]
    for used in (Usage(300, 100), Usage(600, 150)):
        inner.reported_usage = used
        await guard.usage("x")
    inner.reported_usage = Usage(800, 200)
    await guard.close("x")
    assert inner.egresses == ["b"]
    assert egresses.bytes_today("b") == 1000
    assert egresses.candidates() == ["a"]
    assert spending.read(clock.now.date()) == {"b": 1000}


async def test_no_work_is_taken_without_an_egress(clock: Clock) -> None:
    """While all egresses are spent, work stays in the queue, for another fetcher or for tomorrow."""
    egresses = Egresses(("a",), 10, clock, carried={"a": 10})
    inner = FakeQueue([])
    inner.put(work_pb2.WorkItem(job="jobs/1", attempt=1))
    asked = asyncio.create_task(BudgetedQueue(inner, egresses, check_seconds=0.01).next())
    await asyncio.wait({asked}, timeout=0.1)
    assert not asked.done()
    clock.now += timedelta(days=1)
    assert (await asyncio.wait_for(asked, 5)).item.job == "jobs/1"


async def test_work_that_comes_when_all_is_spent(clock: Clock) -> None:
    """An item that was waited for while there were bytes left goes back when there are none any more."""
    egresses, inner = Egresses(("a",), 10, clock), FakeQueue([])
    asked = asyncio.create_task(BudgetedQueue(inner, egresses, check_seconds=0.01).next())
    await asyncio.wait({asked}, timeout=0.05)
    egresses.add_bytes("a", 10)
    inner.put(work_pb2.WorkItem(job="jobs/1", attempt=1))
    await asyncio.wait({asked}, timeout=0.1)
    assert not asked.done()
    assert inner.log == ["nak 5"]
    clock.now += timedelta(days=1)
    inner.put(work_pb2.WorkItem(job="jobs/1", attempt=1))
    assert (await asyncio.wait_for(asked, 5)).item.job == "jobs/1"


async def test_a_worker_says_that_its_egresses_are_spent(tmp_path: Path, clock: Clock) -> None:
    """It says so once they are, until midnight; that it works again the next day; and that it goes."""
    room, queue = DiskMonitor(WorkDirs(tmp_path), DiskThresholds(0, 0)), FakeQueue([])
    egresses = Egresses(("a",), 10, clock)
    presence = WorkerHeartbeat("w", lambda: 3, room, egresses, clock)
    assert presence.notice() == WorkerNotice(worker="w", slot_count=3)
    egresses.add_bytes("a", 10)
    saying = asyncio.create_task(presence.run(queue))
    said = await asyncio.wait_for(queue.worker_notices.get(), 5)
    assert (said.shortage, said.until.ToDatetime(UTC)) == (
        WorkerNotice.EGRESS,
        datetime(2026, 11, 23, tzinfo=UTC),
    )
    clock.now += timedelta(days=1)
    assert presence.notice().shortage == WorkerNotice.SHORTAGE_UNSPECIFIED
    await cancel_and_wait(saying)
    assert queue.worker_notices.get_nowait() == WorkerNotice(worker="w")


async def test_probes_go_another_way(clock: Clock) -> None:
    """A probe that meets a bot check makes the next one go out by another egress."""
    engine, guard = FakeEngine(), FakeGuard()
    engine.failure = BLOCKED
    probing = ProbeCache(engine, SiteAccess(guard, Egresses(("a", "b"), now=clock)), clock)
    with pytest.raises(ReelhaulError):
        await probing.probe(ProbeQuery("https://www.a.example/1"))
    engine.failure = None
    await probing.probe(ProbeQuery("https://a.example/2"))
    assert guard.egresses == ["a", "b"]


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_all_of_a_pass_goes_one_way(method: str) -> None:
    """Each pass leaves by its own proxy only: the other never hears of it, nor does the site see us."""
    beyond = {"far.test": [PUBLIC]}
    async with running_site() as site, in_process_guard(beyond) as one, in_process_guard(beyond) as two:
        egresses = {name: f"http://x:secret@127.0.0.1:{door.port}" for name, door in (("1", one), ("2", two))}
        async with running_guard(GuardConfig(egresses=egresses, extra_ports=(site.port,))) as guard:
            for egress, used, idle in (("1", one, two), ("2", two, one)):
                before = replace(idle.session.usage)
                way = await guard.open(f"by-{egress}", egress=egress)
                credentials = way.removeprefix("http://").partition("@")[0]
                place = f"far.test:{site.port}"
                async with proxy_client(urlsplit(way).port) as client:
                    target = place if method == "CONNECT" else f"http://{place}/"
                    assert (await client.request(method, target, credentials=credentials)).status == 200
                    if method == "CONNECT":
                        await client.send(b"GET / HTTP/1.1\r\nHost: far.test\r\n\r\n")
                        assert (await client.read_response()).status == 200
                assert used.session.usage.ingress_bytes > 0
                assert idle.session.usage == before
            with pytest.raises(ValueError, match="no egress"):
                await guard.open("straight")


async def test_a_pass_keeps_its_way_when_the_guard_dies() -> None:
    """The next guard sends the same pass out by the same proxy."""
    async with running_site() as site, in_process_guard({"far.test": [PUBLIC]}) as beyond:
        egresses = {"": "http://127.0.0.1:1", "1": f"http://x:secret@127.0.0.1:{beyond.port}"}
        async with running_guard(GuardConfig(egresses=egresses, extra_ports=(site.port,))) as guard:
            way = await guard.open("x", egress="1")
            os.kill(guard.pid, signal.SIGKILL)
            credentials = way.removeprefix("http://").partition("@")[0]
            async with proxy_client(urlsplit(way).port) as client:
                target = f"http://far.test:{site.port}/"
                assert (await client.request("GET", target, credentials=credentials)).status == 200


def test_names_hold_no_secret() -> None:
    """A name stays the same when the password changes, and differs by user, host and port."""
    urls = ["http://u:p@h:1", "http://v:p@h:1", "http://u:p@g:1", "http://u:p@h:2", "http://h:1"]
    assert len({egress_name(url) for url in urls}) == len(urls)
    assert egress_name("http://u:other@H:1") == egress_name(urls[0])
    assert len(egress_name(urls[0])) <= 64


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The single proxy is one of the pool; ``direct`` is one as well; without any, we go straight."""
    assert Settings(data_dir=tmp_path).egresses == {"": ""}
    one, two = "http://u:secret@proxy.example:3128", "http://other.example:3128"
    monkeypatch.setenv("REELHAUL_FETCHER_UPSTREAM_PROXY", one)
    monkeypatch.setenv("REELHAUL_FETCHER_UPSTREAM_PROXIES", f"direct, {two},")
    settings = Settings(data_dir=tmp_path)
    assert settings.egresses == {egress_name(one): one, "direct": "", egress_name(two): two}
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("proxies", ["socks5://u:hidden@h:1", "http://u:hidden@h:1,http://u:hidden2@h:1"])
def test_settings_that_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxies: str) -> None:
    """What is no proxy, or the same one twice, stops the start; the words for it hold no password."""
    monkeypatch.setenv("REELHAUL_FETCHER_UPSTREAM_PROXIES", proxies)
    with pytest.raises(ValidationError) as failure:
        Settings(data_dir=tmp_path)
    assert "hidden" not in str(failure.value.errors(include_input=False, include_context=False))
