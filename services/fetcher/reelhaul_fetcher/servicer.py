"""FetcherService over gRPC: proto in, one call, proto out."""

from __future__ import annotations

from typing import Any

from grpc import aio

from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul_fetcher.convert import answer_of, question_of
from reelhaul_fetcher.service.probing import Probing


class FetcherServicer(fetcher_service_pb2_grpc.FetcherServiceServicer):
    """What this build serves of FetcherService; the door answers METHOD_UNSUPPORTED for the rest."""

    def __init__(self, probing: Probing) -> None:
        self._probing = probing

    async def ProbeMedia(
        self,
        request: fetcher_service_pb2.ProbeMediaRequest,
        context: aio.ServicerContext[Any, Any],
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        """Metadata of a URL, and what a job would take."""
        probe = await self._probing.ask(question_of(request), fresh=request.bypass_cache)
        return answer_of(probe, request)
