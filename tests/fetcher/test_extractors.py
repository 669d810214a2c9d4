"""ListExtractors and GetExtractor: every extractor of the engine, in pages, by search and by name."""

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


async def test_concurrent_requests_list_once() -> None:
    """Concurrent requests wait for one listing of the engine, and later ones use it."""
    engine = FakeEngine()
    engine.extractors = [Extractor(name=f"extractors/{name}") for name in ("b", "A", "c")]
    catalog = ExtractorCatalog(engine)
    pages = await asyncio.gather(*(catalog.list(ExtractorQuery(2)) for _ in range(5)))
    assert {tuple(extractor.name for extractor in page) for page in pages} == {
        ("extractors/A", "extractors/b", "extractors/c")
    }
    assert (await catalog.get("extractors/B")).name == "extractors/b"
    with pytest.raises(NotFound):
        await catalog.get("extractors/d")
    assert engine.listings == 1


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stub(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FetcherServiceStub]:
    """A client of a complete fetcher."""
    folder: Path = tmp_path_factory.mktemp("fetcher")
    settings = Settings(data_dir=folder, fetcher_address="127.0.0.1:0", nats_url=nats_url)
    async with running(settings) as port, open_channel(f"127.0.0.1:{port}", []) as channel:
        stub = FetcherServiceStub(channel)
        async with asyncio.timeout(120):
            while not await _is_listed(stub):
                pass
        yield stub


async def _is_listed(stub: FetcherServiceStub) -> bool:
    """Return whether the listing is done; on a busy machine the first call may miss its deadline."""
    try:
        await stub.GetExtractor(GetExtractorRequest(name="extractors/generic"))
    except aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        return False
    return True


async def test_pages(stub: FetcherServiceStub) -> None:
    """The pages have every extractor once, sorted by name, with a description."""
    found: list[Extractor] = []
    token, pages = "", 0
    while pages == 0 or token:
        page = await stub.ListExtractors(ListExtractorsRequest(page_size=700, page_token=token))
        found += page.extractors
        token, pages = page.next_page_token, pages + 1
    names = [extractor.name for extractor in found]
    assert len(names) > 1500
    assert pages == -(-len(names) // 700)
    assert names == sorted(set(names), key=str.casefold)
    assert all(extractor.display_name for extractor in found)
    assert any(extractor.broken for extractor in found)
    assert not all(extractor.broken for extractor in found)


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
    """A part of a name or description finds the extractor, ignoring case."""
    page = await stub.ListExtractors(ListExtractorsRequest(search=search, page_size=1000))
    assert f"extractors/{name}" in [extractor.name for extractor in page.extractors]
    assert len(page.extractors) < 300


async def test_get_extractor(stub: FetcherServiceStub) -> None:
    """An extractor is read by its name, as in MediaInfo.extractor, ignoring case; others are NOT_FOUND."""
    youtube = await stub.GetExtractor(GetExtractorRequest(name="extractors/YouTube"))
    assert (youtube.name, youtube.display_name) == ("extractors/youtube", "YouTube")
    generic = await stub.GetExtractor(GetExtractorRequest(name="extractors/generic"))
    assert generic.name == "extractors/generic"
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.GetExtractor(GetExtractorRequest(name="extractors/no-such-site"))
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", ["", "extractors/", "x" * 101])
async def test_get_extractor_without_a_name(stub: FetcherServiceStub, name: str) -> None:
    """Without a name, the error says which form it has; the id alone is accepted."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.GetExtractor(GetExtractorRequest(name=name))
    error = error_from_rpc(failure.value, "fetcher")
    assert (error.reason, "extractors/" in str(error)) == (ErrorReason.FIELD_INVALID, True)
    assert (await stub.GetExtractor(GetExtractorRequest(name="youtube"))).name == "extractors/youtube"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (ListExtractorsRequest(page_size=-1), ErrorReason.FIELD_INVALID),
        (ListExtractorsRequest(search="x" * 101), ErrorReason.FIELD_INVALID),
        (ListExtractorsRequest(page_token="nonsense"), ErrorReason.PAGE_TOKEN_INVALID),
        (ListExtractorsRequest(page_token="ü"), ErrorReason.PAGE_TOKEN_INVALID),
    ],
)
async def test_invalid_requests(
    stub: FetcherServiceStub, request_: ListExtractorsRequest, reason: ErrorReason.ValueType
) -> None:
    """Invalid fields have their reasons."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ListExtractors(request_)
    assert error_from_rpc(failure.value, "fetcher").reason == reason


async def test_page_token_of_another_search(stub: FetcherServiceStub) -> None:
    """A page token is valid for its own search only, ignoring case."""
    page = await stub.ListExtractors(ListExtractorsRequest(search="tv", page_size=2))
    more = await stub.ListExtractors(ListExtractorsRequest(search="TV", page_token=page.next_page_token))
    assert more.extractors[0].name.casefold() > page.extractors[-1].name.casefold()
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ListExtractors(ListExtractorsRequest(page_token=page.next_page_token))
    assert error_from_rpc(failure.value, "fetcher").reason == ErrorReason.PAGE_TOKEN_INVALID
