"""Probes end with their callers, have a wall clock, and queue within limits; honest ones beside them work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from tests.fetcher.conftest import open_harness
from tests.fetcher.fakes import FakeEngine, FakeGuard
from tests.fetcher.worker_harness import WorkerHarness
from tests.sites.site import Site

from reelhaul.fetcher.v1 import fetcher_service_pb2 as pb
from reelhaul.fetcher.v1.fetcher_service_pb2_grpc import add_FetcherServiceServicer_to_server
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_fetcher.api.fetcher import FetcherServicer
from reelhaul_fetcher.guard.supervisor import GuardConfig
from reelhaul_fetcher.media import tools
from reelhaul_fetcher.service.direct_fetch import DirectFetches
from reelhaul_fetcher.service.extractors import ExtractorCatalog
from reelhaul_fetcher.service.probe_cache import ProbeCache, ProbeQuery, ProbeResult
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_fetcher.ytdlp.process.environment import build_environment
from reelhaul_jobs.clients import RemoteProbe
from reelhaul_runtime import identity
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.identity import Caller, NoAuthentication
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.rpc.server import serving

PAGE = ProbeQuery("https://videos.example/1")
SERVICE = pb.DESCRIPTOR.services_by_name["FetcherService"]
#: Probes of one tenant that run and wait, and that run; probes of all tenants that run and wait.
PER_TENANT, RUNNING_PER_TENANT, IN_TOTAL = 32, 4, 64


class Probes:
    """A probe cache on fakes, whose site answers once ``engine.go`` is set."""

    def __init__(self) -> None:
        self.engine, self.guard = FakeEngine(), FakeGuard()
        self.engine.go.clear()
        self.cache = ProbeCache(self.engine, SiteAccess(self.guard), utc_now)

    def start(self, number: int = 1, tenant: str = "acme") -> asyncio.Task[ProbeResult]:
        """Call for the page *number* in the background."""
        query = ProbeQuery(f"https://videos.example/{tenant}/{number}")
        return asyncio.create_task(self.cache.probe(query, tenant))

    async def wait_running(self, count: int) -> None:
        """Return when *count* probes have a session of the guard."""
        await eventually(lambda: len(self.guard.open_sessions) == count)


def utc_now() -> datetime:
    return datetime.now(UTC)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - fakes send no events
            await asyncio.sleep(0.01)


async def hang_up(*calls: asyncio.Task[ProbeResult]) -> None:
    for call in calls:
        call.cancel()
    for call in calls:
        with suppress(asyncio.CancelledError):
            await call


async def test_abandoned_probe_is_cancelled() -> None:
    """When its only caller hangs up, a probe stops and its session of the guard is closed."""
    probes = Probes()
    call = probes.start()
    await probes.wait_running(1)
    await hang_up(call)
    await probes.wait_running(0)
    # A later caller gets a new probe, not the cancelled one.
    probes.engine.go.set()
    assert (await probes.start()).media.title == "A video"
    assert probes.engine.probes == 2


async def test_probe_with_another_caller_goes_on() -> None:
    """Twin: while one of two callers waits, the probe goes on and answers."""
    probes = Probes()
    first, second = probes.start(), probes.start()
    await probes.wait_running(1)
    await hang_up(first)
    probes.engine.go.set()
    assert (await second).media.title == "A video"
    assert probes.engine.probes == 1


async def test_caller_after_hang_up_gets_an_answer() -> None:
    """Twin: a caller that comes while an abandoned probe is being cancelled is not cancelled with it."""
    probes = Probes()
    first = probes.start()
    await probes.wait_running(1)
    first.cancel()
    second = probes.start()
    probes.engine.go.set()
    assert (await second).media.title == "A video"
    await hang_up(first)


async def test_queue_of_a_tenant_is_bounded() -> None:
    """Above its limit a tenant gets OVERLOADED with retry advice; another tenant is served meanwhile."""
    probes = Probes()
    calls = [probes.start(number) for number in range(PER_TENANT)]
    await probes.wait_running(RUNNING_PER_TENANT)
    with pytest.raises(ReelhaulError) as failure:
        await probes.start(PER_TENANT)
    assert failure.value.reason == ErrorReason.OVERLOADED
    assert str(PER_TENANT) in failure.value.text
    assert failure.value.retry_delay is not None
    # Joining a probe that runs takes no place.
    joined = probes.start(0)
    other = probes.start(tenant="other")
    await probes.wait_running(RUNNING_PER_TENANT + 1)
    # Those that hang up make room.
    await hang_up(calls.pop())
    calls.append(probes.start(PER_TENANT))
    probes.engine.go.set()
    results = await asyncio.gather(*calls, joined, other)
    assert {"A video"} == {result.media.title for result in results}


async def test_queue_of_all_tenants_is_bounded() -> None:
    """Above the limit of the fetcher every tenant gets OVERLOADED, and an answer once there is room."""
    probes = Probes()
    calls = [probes.start(number, tenant) for tenant in ("a", "b") for number in range(IN_TOTAL // 2)]
    await probes.wait_running(RUNNING_PER_TENANT + 1)
    with pytest.raises(ReelhaulError) as failure:
        await probes.start(tenant="c")
    assert failure.value.reason == ErrorReason.OVERLOADED
    assert failure.value.retry_delay is not None
    probes.engine.go.set()
    await asyncio.gather(*calls)
    assert (await probes.start(tenant="c")).media.title == "A video"


async def test_hang_up_reaches_the_fetcher(tmp_path: Path) -> None:
    """A caller of jobs that hangs up (GetInfo, validate_only) ends the probe at the fetcher."""
    harness = WorkerHarness(tmp_path)
    servicer = FetcherServicer(
        ProbeCache(harness.engine, harness.access, utc_now),
        ExtractorCatalog(harness.engine),
        DirectFetches(harness.worker, harness.context, 2),
        harness.worker,
        PageTokens("secret"),
    )
    service = (add_FetcherServiceServicer_to_server, servicer, SERVICE.full_name)
    identity.set_caller(Caller("acme", PermissionLevel.PERMISSION_LEVEL_READ_ONLY))
    async with (
        serving("127.0.0.1:0", [service], authenticator=NoAuthentication("secret"), drain_seconds=1) as port,
        open_channel(f"127.0.0.1:{port}", [SERVICE], suite_token="secret") as channel,
    ):
        client = RemoteProbe(channel)
        harness.engine.go.clear()
        call = asyncio.create_task(client.probe(pb.ProbeMediaRequest(url=PAGE.url)))
        await eventually(lambda: harness.guard.open_sessions)
        call.cancel()
        await eventually(lambda: not harness.guard.open_sessions)
        # Twin: a caller that waits gets the answer.
        harness.engine.go.set()
        response = await client.probe(pb.ProbeMediaRequest(url=PAGE.url))
        assert response.media.title == "A video"


class HostileSite:
    """Answers ``/drip`` with a byte now and then, and anything else with another redirect."""

    def __init__(self) -> None:
        self.origin = ""
        self.connected, self.disconnected = asyncio.Event(), asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1]
            if path == b"/drip":
                self.connected.set()
                await self._drip(writer)
            else:
                location = f"{self.origin}/{int(path[1:] or b'0') + 1}"
                writer.write(
                    f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n"
                    "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _drip(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        finally:
            self.disconnected.set()


@asynccontextmanager
async def running_hostile_site() -> AsyncIterator[HostileSite]:
    site = HostileSite()
    server = await asyncio.start_server(site.handle, "127.0.0.2", 0)
    site.origin = f"http://127.0.0.2:{server.sockets[0].getsockname()[1]}"
    try:
        yield site
    finally:
        server.close()


@pytest_asyncio.fixture
async def real_probes(tmp_path: Path) -> AsyncIterator[ProbeCache]:
    """A probe cache with a real engine and a real guard, and a wall clock of 5 s."""
    (tmp_path / "home").mkdir()
    environment = build_environment(tools.link(tmp_path / "tools"), tmp_path / "home", None)
    config = GuardConfig(allow_networks=("127.0.0.2/32",))
    async with open_harness(environment, tmp_path, config) as harness:
        yield ProbeCache(harness.engine, SiteAccess(harness.guard), utc_now, timeout_seconds=5)


async def test_hostile_sites_hold_no_place(real_probes: ProbeCache, site: Site) -> None:
    """A slow drip ends at the wall clock, endless redirects end at once; an honest site answers meanwhile."""
    async with running_hostile_site() as hostile, asyncio.timeout(60):
        drip = asyncio.create_task(real_probes.probe(ProbeQuery(f"{hostile.origin}/drip"), "acme"))
        loop = asyncio.create_task(real_probes.probe(ProbeQuery(f"{hostile.origin}/0"), "acme"))
        honest = await real_probes.probe(ProbeQuery(site.url("/watch/og")), "acme")
        assert honest.media.title
        with pytest.raises(ReelhaulError) as stalled:
            await drip
        assert stalled.value.reason == ErrorReason.UPSTREAM_STALLED
        await hostile.disconnected.wait()
        with pytest.raises(ReelhaulError):
            await loop


@pytest.mark.processes
async def test_child_of_an_abandoned_probe_ends(real_probes: ProbeCache) -> None:
    """When the caller hangs up, the connection to the site closes: the child and its session are gone."""
    async with running_hostile_site() as hostile, asyncio.timeout(60):
        call = asyncio.create_task(real_probes.probe(ProbeQuery(f"{hostile.origin}/drip"), "acme"))
        await hostile.connected.wait()
        await hang_up(call)
        async with asyncio.timeout(3):
            await hostile.disconnected.wait()
