"""FetcherService over gRPC: proto in, one call, proto out."""

from __future__ import annotations

from typing import Any

from grpc import aio

from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul_fetcher.convert import answer_of, page_of, question_of, sites_answer
from reelhaul_fetcher.service.probing import Probing
from reelhaul_fetcher.service.sites import Sites


class FetcherServicer(fetcher_service_pb2_grpc.FetcherServiceServicer):
    """What this build serves of FetcherService; the door answers METHOD_UNSUPPORTED for the rest."""

    def __init__(self, probing: Probing, sites: Sites) -> None:
        self._probing, self._sites = probing, sites

    async def ProbeMedia(
        self,
        request: fetcher_service_pb2.ProbeMediaRequest,
        context: aio.ServicerContext[Any, Any],
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        """Metadata of a URL, and what a job would take."""
        probe = await self._probing.ask(question_of(request), fresh=request.bypass_cache)
        return answer_of(probe, request)

    async def ListExtractors(
        self,
        request: fetcher_service_pb2.ListExtractorsRequest,
        context: aio.ServicerContext[Any, Any],
    ) -> fetcher_service_pb2.ListExtractorsResponse:
        """Sites that the engine reads, by name."""
        page = page_of(request)
        return sites_answer(page, await self._sites.page(page))

    async def GetExtractor(
        self,
        request: fetcher_service_pb2.GetExtractorRequest,
        context: aio.ServicerContext[Any, Any],
    ) -> Extractor:
        """One of them."""
        return await self._sites.get(request.name)
