"""ProbeMedia: metadata, cached and shared by concurrent requests, with an estimate of the download."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from grpc import aio
from tests.fetcher.fakes import FakeEngine, FakeGuard
from tests.sites.site import Site

from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.api.convert import check_url
from reelhaul_fetcher.app import running
from reelhaul_fetcher.service.probe_cache import ProbeCache, ProbeQuery
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_fetcher.settings import Settings
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import error_from_rpc, open_channel

pytestmark = pytest.mark.asyncio(loop_scope="module")

Request = fetcher_service_pb2.ProbeMediaRequest
PAGE = ProbeQuery("https://example.com/")


async def test_cache() -> None:
    """Concurrent requests share one probe, and later ones use its result until it is old."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    engine = FakeEngine()
    cache = ProbeCache(engine, SiteAccess(FakeGuard()), lambda: now)
    results = await asyncio.gather(*(cache.probe(PAGE) for _ in range(10)))
    assert {"A video"} == {result.media.title for result in results}
    await cache.probe(PAGE)
    assert engine.probes == 1
    await cache.probe(PAGE, bypass_cache=True)
    now += timedelta(minutes=10)
    await cache.probe(PAGE)
    assert engine.probes == 3


async def test_failures_are_not_cached() -> None:
    """After a failure the site is accessed again, and no session of the guard stays open."""
    engine, guard = FakeEngine(), FakeGuard()
    cache = ProbeCache(engine, SiteAccess(guard), lambda: datetime.now(UTC))
    engine.failure = ReelhaulError(ErrorReason.UPSTREAM_UNAVAILABLE, "503")
    with pytest.raises(ReelhaulError):
        await cache.probe(PAGE)
    engine.failure = None
    assert (await cache.probe(PAGE)).media.title == "A video"
    assert not guard.open_sessions


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stub(
    nats_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[fetcher_service_pb2_grpc.FetcherServiceStub]:
    """A client of a complete fetcher."""
    folder: Path = tmp_path_factory.mktemp("fetcher")
    settings = Settings(
        data_dir=folder,
        fetcher_address="127.0.0.1:0",
        nats_url=nats_url,
        fetcher_allow_networks="127.0.0.2/32",  # type: ignore[arg-type]
    )
    async with running(settings) as port, open_channel(f"127.0.0.1:{port}", []) as channel:
        yield fetcher_service_pb2_grpc.FetcherServiceStub(channel)


async def test_probe_media(stub: fetcher_service_pb2_grpc.FetcherServiceStub, site: Site) -> None:
    """The response has formats, subtitles, and the formats that a job would download."""
    response = await stub.ProbeMedia(
        Request(url=site.url("/hls/master.m3u8"), format=FormatSpec(max_height=720))
    )
    assert {360, 720, 1080} == {f.height for f in response.media.formats if f.height}
    assert {"en", "de"} == {track.language_code for track in response.media.subtitle_tracks}
    assert [f.height for f in response.estimate.formats] == [720, 0]
    assert response.estimate.job_count == 1


@pytest.mark.parametrize(
    ("page", "max_entries", "job_count"),
    [("feed", 50, 3), ("feed", 4, 3), ("feed", 2, 4), ("several", 50, 2), ("several", 1, 2), ("demo", 50, 1)],
)
async def test_estimate_of_a_list(
    stub: fetcher_service_pb2_grpc.FetcherServiceStub, site: Site, page: str, max_entries: int, job_count: int
) -> None:
    """An entry listed twice is one job; of a list that was not read to its end, all entries count."""
    request = Request(url=site.url(f"/watch/{page}"), playlist=True, max_entries=max_entries)
    assert (await stub.ProbeMedia(request)).estimate.job_count == job_count


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", ErrorReason.URL_INVALID),
        ("http://127.0.0.1:1/", ErrorReason.URL_FORBIDDEN),
        ("http://169.254.169.254/", ErrorReason.URL_FORBIDDEN),
        ("http://localhost/", ErrorReason.URL_FORBIDDEN),
        ("http://127.0.0.2:1/", ErrorReason.UPSTREAM_UNAVAILABLE),
    ],
)
async def test_failures(
    stub: fetcher_service_pb2_grpc.FetcherServiceStub, url: str, reason: ErrorReason.ValueType
) -> None:
    """Invalid URLs, forbidden addresses and refused connections have their reasons."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ProbeMedia(Request(url=url))
    assert ErrorReason.Name(reason) == ErrorReason.Name(error_from_rpc(failure.value, "fetcher").reason)


@pytest.mark.parametrize(
    "url",
    [
        "example.com",
        "file:///etc/passwd",
        "ftp://example.com/a",
        "ytsearch5:cats",
        "data:text/plain,hi",
        "http://",
        "http://user:secret@example.com/",
        "http://example.com:99999/",
        "http://exa mple.com/",
        "https://example.com/\n",
        "https://example.com/" + "a" * 2048,
    ],
)
async def test_invalid_urls(url: str) -> None:
    """Only http and https URLs with a host and without user info are accepted; a secret is not repeated."""
    with pytest.raises(ReelhaulError) as failure:
        check_url(url)
    assert failure.value.reason == ErrorReason.URL_INVALID
    assert "secret" not in failure.value.metadata["url"]
