"""FetcherService over gRPC: proto in, one call, proto out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from grpc import aio

from reelhaul.fetcher.v1 import fetch_pb2, fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul_fetcher import convert
from reelhaul_fetcher.convert import answer_of, question_of
from reelhaul_fetcher.service.fetches import Fetches, Tracked
from reelhaul_fetcher.service.probing import Probing
from reelhaul_fetcher.service.unqueued import Unqueued
from reelhaul_fetcher.service.worker import Worker

Context = aio.ServicerContext[Any, Any]
Told = TypeVar("Told", fetcher_service_pb2.ExecuteFetchResponse, fetcher_service_pb2.WatchFetchResponse)


class FetcherServicer(fetcher_service_pb2_grpc.FetcherServiceServicer):
    """What this build serves of FetcherService; the door answers METHOD_UNSUPPORTED for the rest."""

    def __init__(self, probing: Probing, fetches: Fetches, unqueued: Unqueued, worker: Worker) -> None:
        self._probing, self._fetches = probing, fetches
        self._unqueued, self._worker = unqueued, worker

    async def ProbeMedia(
        self,
        request: fetcher_service_pb2.ProbeMediaRequest,
        context: aio.ServicerContext[Any, Any],
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        """Metadata of a URL, and what a job would take."""
        probe = await self._probing.ask(question_of(request), fresh=request.bypass_cache)
        return answer_of(probe, request)

    async def ExecuteFetch(
        self, request: fetcher_service_pb2.ExecuteFetchRequest, context: Context
    ) -> AsyncIterator[fetcher_service_pb2.ExecuteFetchResponse]:
        """Begin a fetch, or join it; it does not end with the call."""
        spec, request_id = convert.work_of(request), convert.request_id_of(request)
        fetch = self._unqueued.execute(spec, request_id)
        async for message in _told(fetch, fetcher_service_pb2.ExecuteFetchResponse):
            yield message

    async def WatchFetch(
        self, request: fetcher_service_pb2.WatchFetchRequest, context: Context
    ) -> AsyncIterator[fetcher_service_pb2.WatchFetchResponse]:
        """Join a fetch."""
        fetch = self._fetches.get(convert.fetch_name(request.name))
        async for message in _told(fetch, fetcher_service_pb2.WatchFetchResponse):
            yield message

    async def GetFetch(
        self, request: fetcher_service_pb2.GetFetchRequest, context: Context
    ) -> fetch_pb2.Fetch:
        """One fetch."""
        return self._fetches.get(convert.fetch_name(request.name)).snapshot()

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
        return await self._unqueued.cancel(convert.fetch_name(request.name))

    async def DrainFetcher(
        self, request: fetcher_service_pb2.DrainFetcherRequest, context: Context
    ) -> AsyncIterator[fetcher_service_pb2.DrainFetcherResponse]:
        """Take no more work; tell what is left of it. It goes on where the caller hangs up."""
        self._worker.begin_drain(convert.grace_of(request))
        async for left in self._worker.left():
            yield fetcher_service_pb2.DrainFetcherResponse(active_count=left)


async def _told(fetch: Tracked, message: type[Told]) -> AsyncIterator[Told]:
    """The events of *fetch* as numbered messages."""
    number = 0
    async for event in fetch.events():
        number += 1
        if isinstance(event, fetch_pb2.Fetch):
            yield message(sequence=number, snapshot=event)
        else:
            yield message(sequence=number, progress=event)
