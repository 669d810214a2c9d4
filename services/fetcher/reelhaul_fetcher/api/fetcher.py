"""FetcherService over gRPC: proto in, one call, proto out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from grpc import aio

from reelhaul.fetcher.v1 import fetch_pb2, fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul_fetcher.api import convert
from reelhaul_fetcher.api.convert import to_extractor_query, to_extractors_response
from reelhaul_fetcher.service.direct_fetch import DirectFetches
from reelhaul_fetcher.service.extractors import ExtractorCatalog
from reelhaul_fetcher.service.fetches import TrackedFetch
from reelhaul_fetcher.service.probe_cache import ProbeCache
from reelhaul_fetcher.service.worker import Worker
from reelhaul_runtime.page_tokens import PageTokens

Context = aio.ServicerContext[Any, Any]
Told = TypeVar("Told", fetcher_service_pb2.ExecuteFetchResponse, fetcher_service_pb2.WatchFetchResponse)


class FetcherServicer(fetcher_service_pb2_grpc.FetcherServiceServicer):
    """All of FetcherService."""

    def __init__(
        self,
        probing: ProbeCache,
        sites: ExtractorCatalog,
        unqueued: DirectFetches,
        worker: Worker,
        page_tokens: PageTokens,
    ) -> None:
        self._probing, self._sites, self._page_tokens = probing, sites, page_tokens
        self._unqueued, self._fetches, self._worker = unqueued, unqueued.fetches, worker

    async def ProbeMedia(
        self,
        request: fetcher_service_pb2.ProbeMediaRequest,
        context: Context,
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        """Metadata of a URL, and what a job would take."""
        probe = await self._probing.probe(convert.to_probe_query(request), fresh=request.bypass_cache)
        estimate = await self._probing.estimate(probe.media, request.format)
        return convert.to_probe_response(probe, estimate)

    async def ExecuteFetch(
        self, request: fetcher_service_pb2.ExecuteFetchRequest, context: Context
    ) -> AsyncIterator[fetcher_service_pb2.ExecuteFetchResponse]:
        """Begin a fetch, or join it; it does not end with the call."""
        spec, request_id = convert.to_fetch_spec(request), convert.check_request_id(request)
        fetch = self._unqueued.execute(spec, request_id)
        async for message in _told(fetch, fetcher_service_pb2.ExecuteFetchResponse):
            yield message

    async def WatchFetch(
        self, request: fetcher_service_pb2.WatchFetchRequest, context: Context
    ) -> AsyncIterator[fetcher_service_pb2.WatchFetchResponse]:
        """Join a fetch."""
        fetch = self._fetches.get(convert.check_fetch_name(request.name))
        async for message in _told(fetch, fetcher_service_pb2.WatchFetchResponse):
            yield message

    async def GetFetch(
        self, request: fetcher_service_pb2.GetFetchRequest, context: Context
    ) -> fetch_pb2.Fetch:
        """One fetch."""
        return self._fetches.get(convert.check_fetch_name(request.name)).snapshot()

    async def ListFetches(
        self, request: fetcher_service_pb2.ListFetchesRequest, context: Context
    ) -> fetcher_service_pb2.ListFetchesResponse:
        """The fetches of this worker."""
        page, following = self._fetches.page(convert.page_size(request.page_size), request.page_token)
        return fetcher_service_pb2.ListFetchesResponse(
            fetches=[fetch.snapshot() for fetch in page], next_page_token=following
        )

    async def CancelFetch(
        self, request: fetcher_service_pb2.CancelFetchRequest, context: Context
    ) -> fetch_pb2.Fetch:
        """Stop a fetch; return when its files are gone."""
        return await self._unqueued.cancel(convert.check_fetch_name(request.name))

    async def DrainFetcher(
        self, request: fetcher_service_pb2.DrainFetcherRequest, context: Context
    ) -> AsyncIterator[fetcher_service_pb2.DrainFetcherResponse]:
        """Take no more work; tell what is left of it. It goes on where the caller hangs up."""
        self._worker.start_drain(convert.grace_seconds(request))
        async for left in self._worker.remaining():
            yield fetcher_service_pb2.DrainFetcherResponse(active_count=left)

    async def ListExtractors(
        self,
        request: fetcher_service_pb2.ListExtractorsRequest,
        context: Context,
    ) -> fetcher_service_pb2.ListExtractorsResponse:
        """Sites that the engine reads, by name."""
        page = to_extractor_query(request, self._page_tokens)
        return to_extractors_response(page, await self._sites.list(page), self._page_tokens)

    async def GetExtractor(
        self,
        request: fetcher_service_pb2.GetExtractorRequest,
        context: Context,
    ) -> Extractor:
        """One of them."""
        return await self._sites.get(request.name)


async def _told(fetch: TrackedFetch, message: type[Told]) -> AsyncIterator[Told]:
    """The events of *fetch* as numbered messages."""
    number = 0
    async for event in fetch.events():
        number += 1
        if isinstance(event, fetch_pb2.Fetch):
            yield message(sequence=number, snapshot=event)
        else:
            yield message(sequence=number, progress=event)
