"""Probes: one question to the site for all who ask, answered with what a job would take."""

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
from reelhaul_fetcher.app import running
from reelhaul_fetcher.service.probe_cache import ProbeCache, ProbeQuery
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_fetcher.settings import Settings
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import error_from_rpc, open_channel

pytestmark = pytest.mark.asyncio(loop_scope="module")

Request = fetcher_service_pb2.ProbeMediaRequest
PAGE = ProbeQuery("https://example.com/")


async def test_equal_questions_are_one() -> None:
    """Ten who ask at once, one question; later ones take the kept answer, until it is old."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    engine = FakeEngine()
    probing = ProbeCache(engine, SiteAccess(FakeGuard()), lambda: now)
    answers = await asyncio.gather(*(probing.probe(PAGE) for _ in range(10)))
    assert {"A video"} == {answer.media.title for answer in answers}
    await probing.probe(PAGE)
    assert engine.probes == 1
    await probing.probe(PAGE, bypass_cache=True)
    now += timedelta(minutes=10)
    await probing.probe(PAGE)
    assert engine.probes == 3


async def test_failures_are_not_kept() -> None:
    """A site that failed is asked again; its pass is given back."""
    engine, guard = FakeEngine(), FakeGuard()
    probing = ProbeCache(engine, SiteAccess(guard), lambda: datetime.now(UTC))
    engine.failure = ReelhaulError(ErrorReason.UPSTREAM_UNAVAILABLE, "503")
    with pytest.raises(ReelhaulError):
        await probing.probe(PAGE)
    engine.failure = None
    assert (await probing.probe(PAGE)).media.title == "A video"
    assert not guard.open_sessions


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stub(
    nats_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[fetcher_service_pb2_grpc.FetcherServiceStub]:
    """A whole fetcher, over gRPC."""
    folder: Path = tmp_path_factory.mktemp("fetcher")
    settings = Settings(
        data_dir=folder,
        fetcher_address="127.0.0.1:0",
        nats_url=nats_url,
        fetcher_allow_networks="127.0.0.2/32",  # type: ignore[arg-type]
    )
    async with running(settings) as port, open_channel(f"127.0.0.1:{port}", []) as opened:
        yield fetcher_service_pb2_grpc.FetcherServiceStub(opened)


async def test_probe_over_grpc(stub: fetcher_service_pb2_grpc.FetcherServiceStub, site: Site) -> None:
    """A probe tells title, streams and subtitles, and which streams a job would take."""
    answer = await stub.ProbeMedia(
        Request(url=site.url("/hls/master.m3u8"), format=FormatSpec(max_height=720))
    )
    assert {360, 720, 1080} == {f.height for f in answer.media.formats if f.height}
    assert {"en", "de"} == {track.language_code for track in answer.media.subtitle_tracks}
    assert [f.height for f in answer.estimate.formats] == [720, 0]
    assert answer.estimate.job_count == 1


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
async def test_failures_over_grpc(
    stub: fetcher_service_pb2_grpc.FetcherServiceStub, url: str, reason: ErrorReason.ValueType
) -> None:
    """What may not be asked, or does not answer, is told by its reason."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ProbeMedia(Request(url=url))
    assert ErrorReason.Name(reason) == ErrorReason.Name(error_from_rpc(failure.value, "fetcher").reason)
