"""FetcherService over gRPC: converts each request, calls one use case and converts its result."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc import aio

from reelhaul.fetcher.v1 import fetch_pb2, fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul_fetcher.api import convert
from reelhaul_fetcher.service.direct_fetch import DirectFetches
from reelhaul_fetcher.service.extractors import ExtractorCatalog
from reelhaul_fetcher.service.probe_cache import ProbeCache
from reelhaul_fetcher.service.worker import Worker
from reelhaul_runtime import identity
from reelhaul_runtime.auth.site_rules import SiteRules, check_site, rules_of_caller
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size

Context = aio.ServicerContext[Any, Any]


class FetcherServicer(fetcher_service_pb2_grpc.FetcherServiceServicer):
    """All RPCs of FetcherService; fetcher_service.proto documents them."""

    def __init__(
        self,
        probes: ProbeCache,
        extractors: ExtractorCatalog,
        direct_fetches: DirectFetches,
        worker: Worker,
        page_tokens: PageTokens,
        site_rules: Sequence[SiteRules] = (),
    ) -> None:
        """*site_rules* apply to all probes and direct fetches, beside those of the caller."""
        self._site_rules = site_rules
        self._probes, self._extractors, self._page_tokens = probes, extractors, page_tokens
        self._direct_fetches, self._fetches, self._worker = direct_fetches, direct_fetches.fetches, worker

    async def ProbeMedia(
        self, request: fetcher_service_pb2.ProbeMediaRequest, context: Context
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        query, tenant = convert.to_probe_query(request), convert.probe_tenant(request)
        check_site(query.url, "url", [*self._site_rules, *rules_of_caller(identity.caller())])
        probe = await self._probes.probe(query, tenant, bypass_cache=request.bypass_cache)
        estimate = await self._probes.estimate(probe.media, request.format)
        return convert.to_probe_response(probe, estimate)

    async def ExecuteFetch(
        self, request: fetcher_service_pb2.ExecuteFetchRequest, context: Context
    ) -> AsyncIterator[fetcher_service_pb2.ExecuteFetchResponse]:
        spec, request_id = convert.to_fetch_spec(request), convert.check_request_id(request.request_id)
        check_site(spec.url, "fetch.url", self._site_rules)
        fetch = self._direct_fetches.execute(spec, request_id)
        async for event in convert.to_fetch_events(fetch, fetcher_service_pb2.ExecuteFetchResponse):
            yield event

    async def WatchFetch(
        self, request: fetcher_service_pb2.WatchFetchRequest, context: Context
    ) -> AsyncIterator[fetcher_service_pb2.WatchFetchResponse]:
        fetch = self._fetches.get(convert.check_fetch_name(request.name))
        async for event in convert.to_fetch_events(fetch, fetcher_service_pb2.WatchFetchResponse):
            yield event

    async def GetFetch(
        self, request: fetcher_service_pb2.GetFetchRequest, context: Context
    ) -> fetch_pb2.Fetch:
        return self._fetches.get(convert.check_fetch_name(request.name)).snapshot()

    async def ListFetches(
        self, request: fetcher_service_pb2.ListFetchesRequest, context: Context
    ) -> fetcher_service_pb2.ListFetchesResponse:
        page_size = limit_page_size(request.page_size)
        page, next_page_token = self._fetches.list_page(page_size, request.page_token)
        return fetcher_service_pb2.ListFetchesResponse(
            fetches=[fetch.snapshot() for fetch in page], next_page_token=next_page_token
        )

    async def CancelFetch(
        self, request: fetcher_service_pb2.CancelFetchRequest, context: Context
    ) -> fetch_pb2.Fetch:
        return await self._direct_fetches.cancel(convert.check_fetch_name(request.name))

    async def DrainFetcher(
        self, request: fetcher_service_pb2.DrainFetcherRequest, context: Context
    ) -> AsyncIterator[fetcher_service_pb2.DrainFetcherResponse]:
        # In the background: the drain goes on if the caller hangs up.
        self._worker.start_drain(convert.to_grace_seconds(request))
        async for count in self._worker.remaining():
            yield fetcher_service_pb2.DrainFetcherResponse(active_count=count)

    async def ListExtractors(
        self, request: fetcher_service_pb2.ListExtractorsRequest, context: Context
    ) -> fetcher_service_pb2.ListExtractorsResponse:
        query = convert.to_extractor_query(request, self._page_tokens)
        extractors = await self._extractors.list(query)
        return convert.to_extractors_response(query, extractors, self._page_tokens)

    async def GetExtractor(
        self, request: fetcher_service_pb2.GetExtractorRequest, context: Context
    ) -> Extractor:
        return await self._extractors.get(convert.check_extractor_name(request.name))
