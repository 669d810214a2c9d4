"""Every site that the engine knows, listed in pages, searched and read one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc import aio
from tests.fetcher.fakes import FakeEngine

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.fetcher.v1.fetcher_service_pb2 import GetExtractorRequest, ListExtractorsRequest
from reelhaul.fetcher.v1.fetcher_service_pb2_grpc import FetcherServiceStub
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.app import running
from reelhaul_fetcher.service.extractors import ExtractorCatalog, ExtractorQuery
from reelhaul_fetcher.settings import Settings
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.rpc.channels import error_from_rpc, open_channel

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_sites_are_listed_once() -> None:
    """Who asks at the same time waits for one listing; the next one finds it there."""
    engine = FakeEngine()
    engine.extractors = [Extractor(name=f"extractors/{name}") for name in ("b", "A", "c")]
    sites = ExtractorCatalog(engine)
    pages = await asyncio.gather(*(sites.list(ExtractorQuery(2)) for _ in range(5)))
    assert {tuple(site.name for site in page) for page in pages} == {
        ("extractors/A", "extractors/b", "extractors/c")
    }
    assert (await sites.get("extractors/B")).name == "extractors/b"
    with pytest.raises(NotFound):
        await sites.get("extractors/d")
    assert engine.listings == 1


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stub(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FetcherServiceStub]:
    """A whole fetcher, over gRPC."""
    folder: Path = tmp_path_factory.mktemp("fetcher")
    settings = Settings(data_dir=folder, fetcher_address="127.0.0.1:0", nats_url=nats_url)
    async with running(settings) as port, open_channel(f"127.0.0.1:{port}", []) as opened:
        made = FetcherServiceStub(opened)
        async with asyncio.timeout(120):
            while not await _answered(made):
                pass
        yield made


async def _answered(stub: FetcherServiceStub) -> bool:
    """Whether the sites were listed within a call's deadline, which a busy machine may miss at first."""
    try:
        await stub.GetExtractor(GetExtractorRequest(name="extractors/generic"))
    except aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        return False
    return True


async def test_every_site_is_listed_by_name(stub: FetcherServiceStub) -> None:
    """Page after page gives every site once, in order of its name, with its hosts; none comes twice."""
    found: list[Extractor] = []
    token, pages = "", 0
    while pages == 0 or token:
        page = await stub.ListExtractors(ListExtractorsRequest(page_size=700, page_token=token))
        found += page.extractors
        token, pages = page.next_page_token, pages + 1
    names = [site.name for site in found]
    assert len(names) > 1500
    assert pages == -(-len(names) // 700)
    assert names == sorted(set(names), key=str.casefold)
    assert all(site.display_name for site in found)
    assert any(site.broken for site in found)
    assert not all(site.broken for site in found)


@pytest.mark.parametrize(
    ("search", "name"),
    [
        ("YOUTU.BE", "YoutubeYtBe"),
        ("TWITT", "twitter"),
        ("vimeo", "vimeo"),
        ("youtube tabs", "youtube:tab"),
    ],
)
async def test_search(stub: FetcherServiceStub, search: str, name: str) -> None:
    """A host, a name or a part of one finds its site, whatever the case."""
    page = await stub.ListExtractors(ListExtractorsRequest(search=search, page_size=1000))
    assert f"extractors/{name}" in [site.name for site in page.extractors]
    assert len(page.extractors) < 300


async def test_one_site(stub: FetcherServiceStub) -> None:
    """A site is read by the name that MediaInfo.extractor bears; what is none is not found."""
    youtube = await stub.GetExtractor(GetExtractorRequest(name="extractors/YouTube"))
    assert (youtube.name, youtube.display_name) == ("extractors/youtube", "YouTube")
    generic = await stub.GetExtractor(GetExtractorRequest(name="extractors/generic"))
    assert generic.name == "extractors/generic"
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.GetExtractor(GetExtractorRequest(name="extractors/no-such-site"))
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (ListExtractorsRequest(page_size=-1), ErrorReason.FIELD_INVALID),
        (ListExtractorsRequest(search="x" * 101), ErrorReason.FIELD_INVALID),
        (ListExtractorsRequest(page_token="nonsense"), ErrorReason.PAGE_TOKEN_INVALID),
        (ListExtractorsRequest(page_token="ü"), ErrorReason.PAGE_TOKEN_INVALID),
    ],
)
async def test_what_is_refused(
    stub: FetcherServiceStub, request_: ListExtractorsRequest, reason: ErrorReason.ValueType
) -> None:
    """Bounds are told by their reason."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ListExtractors(request_)
    assert error_from_rpc(failure.value, "fetcher").reason == reason


async def test_a_token_of_another_search_is_refused(stub: FetcherServiceStub) -> None:
    """A page token goes with its own search only."""
    page = await stub.ListExtractors(ListExtractorsRequest(search="tv", page_size=2))
    more = await stub.ListExtractors(ListExtractorsRequest(search="TV", page_token=page.next_page_token))
    assert more.extractors[0].name.casefold() > page.extractors[-1].name.casefold()
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ListExtractors(ListExtractorsRequest(page_token=page.next_page_token))
    assert error_from_rpc(failure.value, "fetcher").reason == ErrorReason.PAGE_TOKEN_INVALID
