"""Fetches without a queue, over gRPC: a worker whose world is in memory, as its callers see it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from grpc import aio
from tests.fetcher.worker_harness import JOB, WorkerHarness

from reelhaul.fetcher.v1 import fetcher_service_pb2 as pb
from reelhaul.fetcher.v1.fetch_pb2 import Fetch
from reelhaul.fetcher.v1.fetcher_service_pb2_grpc import (
    FetcherServiceStub,
    add_FetcherServiceServicer_to_server,
)
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, Progress
from reelhaul.work.v1 import lease_pb2
from reelhaul_fetcher.api.fetcher import FetcherServicer
from reelhaul_fetcher.service.direct_fetch import DirectFetches
from reelhaul_fetcher.service.extractors import ExtractorCatalog
from reelhaul_fetcher.service.fetches import FetchRegistry
from reelhaul_fetcher.service.probe_cache import ProbeCache
from reelhaul_runtime.errors import NotFound, ReelhaulError, Unavailable, from_status
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.rpc.channels import error_from_rpc, open_channel
from reelhaul_runtime.rpc.server import serving

URL = "https://example.com/"
SERVICE = pb.DESCRIPTOR.services_by_name["FetcherService"]


class Front(WorkerHarness):
    """A harness, and the worker's RPCs as the suite calls them; ``stranger`` has no credential."""

    stub: FetcherServiceStub
    stranger: FetcherServiceStub

    async def execute(self, url: str = URL, request_id: str = "") -> AsyncIterator[pb.ExecuteFetchResponse]:
        """The messages of ExecuteFetch."""
        async for message in self.stub.ExecuteFetch(asking(url, request_id)):
            yield message

    async def begun(self, url: str = URL, request_id: str = "") -> Fetch:
        """A fetch that was just begun, and whose caller hung up."""
        call = self.stub.ExecuteFetch(asking(url, request_id))
        first = await anext(aiter(call))
        call.cancel()
        return first.snapshot

    async def told(self, name: str) -> list[pb.WatchFetchResponse]:
        """All that WatchFetch tells of *name*."""
        async with asyncio.timeout(5):
            return [message async for message in self.stub.WatchFetch(pb.WatchFetchRequest(name=name))]

    async def listed(self, **fields: int | str) -> pb.ListFetchesResponse:
        """A page of the worker's fetches."""
        return await self.stub.ListFetches(pb.ListFetchesRequest(**fields))  # type: ignore[arg-type]

    async def cancelled(self, name: str) -> Fetch:
        """CancelFetch's answer."""
        return await self.stub.CancelFetch(pb.CancelFetchRequest(name=name))


def asking(url: str = URL, request_id: str = "") -> pb.ExecuteFetchRequest:
    """A request for *url*, as someone's."""
    return pb.ExecuteFetchRequest(fetch=Fetch(url=url, tenant="acme"), request_id=request_id)


@pytest_asyncio.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Front]:
    """A harness with one slot, its worker idle."""
    harness = Front(tmp_path)
    probing = ProbeCache(harness.engine, harness.access, lambda: datetime.now(UTC))
    unqueued = DirectFetches(harness.worker, harness.context)
    servicer = FetcherServicer(
        probing, ExtractorCatalog(harness.engine), unqueued, harness.worker, PageTokens("secret")
    )
    served = (add_FetcherServiceServicer_to_server, servicer, SERVICE.full_name)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(harness.running())
        port = await stack.enter_async_context(
            serving("127.0.0.1:0", [served], authenticator=NoAuthentication("secret"), drain_seconds=1)
        )
        address = f"127.0.0.1:{port}"
        ours = await stack.enter_async_context(open_channel(address, [SERVICE], suite_token="secret"))
        harness.stub = FetcherServiceStub(ours)
        harness.stranger = FetcherServiceStub(
            await stack.enter_async_context(open_channel(address, [SERVICE]))
        )
        yield harness


async def test_a_fetch_is_streamed_to_its_end(harness: Front) -> None:
    """A snapshot, progress, a last snapshot with what is stored: the tenant's, of no job, to expire."""
    async with asyncio.timeout(5):
        messages = [message async for message in harness.execute()]
    assert [message.sequence for message in messages] == list(range(1, len(messages) + 1))
    first, last = messages[0].snapshot, messages[-1].snapshot
    assert (first.state, last.state) == (Fetch.RUNNING, Fetch.SUCCEEDED)
    assert {"progress"} >= {message.WhichOneof("event") for message in messages[1:-1]}
    assert last.progress.percent == 100
    (artifact,) = last.artifacts
    content, stamp = harness.artifacts.stored[artifact.name]
    assert (content, stamp.job, stamp.epoch, stamp.tenant) == (b"a video", "", 0, "acme")
    assert stamp.ttl.total_seconds() > 12 * 3600
    assert harness.work_dirs == []
    assert not harness.guard.open_passes
    # Nobody else in the suite hears of it.
    assert harness.log == []
    assert harness.queue.published == []


async def test_the_tenant_of_who_says_none(harness: Front) -> None:
    """A fetch is its caller's own where it names no tenant; its defaults are filled in."""
    call = harness.stub.ExecuteFetch(pb.ExecuteFetchRequest(fetch=Fetch(url=URL)))
    fetch = [message async for message in call][-1].snapshot
    assert fetch.tenant == "local"
    assert fetch.format.media_kind == FormatSpec.VIDEO


async def test_hanging_up_stops_nothing(harness: Front) -> None:
    """A fetch goes on without its caller; who joins it sees its end, one that has ended gives that only."""
    harness.engine.go.clear()
    fetch = await harness.begun()
    await harness.engine.started.wait()
    joined = asyncio.create_task(harness.told(fetch.name))
    harness.engine.go.set()
    messages = await joined
    assert messages[0].snapshot.name == messages[-1].snapshot.name == fetch.name
    assert messages[-1].snapshot.state == Fetch.SUCCEEDED
    (only,) = await harness.told(fetch.name)
    assert only.snapshot == messages[-1].snapshot
    assert only.snapshot == await harness.stub.GetFetch(pb.GetFetchRequest(name=fetch.name))


async def test_cancel(harness: Front) -> None:
    """Cancelled, it is stopped and its files are gone when the answer comes; its slot is free again."""
    harness.engine.go.clear()
    fetch = await harness.begun()
    await harness.engine.started.wait()
    watching = asyncio.create_task(harness.told(fetch.name))
    answer = await harness.cancelled(fetch.name)
    assert answer.state == Fetch.CANCELLED
    assert harness.engine.stopped
    assert harness.work_dirs == []
    assert harness.artifacts.stored == {}
    assert (await watching)[-1].snapshot == answer
    harness.engine.go.set()
    assert [message async for message in harness.execute()][-1].snapshot.state == Fetch.SUCCEEDED


async def test_cancelling_what_has_ended(harness: Front) -> None:
    """One that has ended is answered as it is, and keeps what it stored."""
    name = [message async for message in harness.execute()][-1].snapshot.name
    assert (await harness.cancelled(name)).state == Fetch.SUCCEEDED
    assert len(harness.artifacts.stored) == 1


async def test_a_failure_ends_the_stream_well(harness: Front) -> None:
    """What the site says is told in the fetch; the stream itself ends with OK."""
    harness.engine.failure = ReelhaulError(ErrorReason.MEDIA_NOT_FOUND, "it is gone")
    last = [message async for message in harness.execute()][-1].snapshot
    assert last.state == Fetch.FAILED
    assert from_status(last.error).reason == ErrorReason.MEDIA_NOT_FOUND
    assert harness.work_dirs == []


async def test_the_same_request_is_one_fetch(harness: Front) -> None:
    """Asked for again by its id it is joined, also when it has ended; another fetch by that id is refused."""
    harness.engine.go.clear()
    request_id = str(uuid.uuid4())
    fetch = await harness.begun(request_id=request_id)
    again = await harness.begun(request_id=request_id.upper())
    assert again.name == fetch.name
    harness.engine.go.set()
    await harness.told(fetch.name)
    (only,) = [message async for message in harness.execute(request_id=request_id)]
    assert only.snapshot.state == Fetch.SUCCEEDED
    assert len(harness.engine.requests) == 1
    with pytest.raises(aio.AioRpcError) as refused:
        await harness.begun(f"{URL}other", request_id)
    assert error_from_rpc(refused.value, "").reason == ErrorReason.REQUEST_ID_REUSED


async def test_no_free_slot(harness: Front) -> None:
    """Where all slots are busy it is refused at once, to be asked again later; nothing is begun."""
    harness.engine.go.clear()
    fetch = await harness.begun()
    with pytest.raises(aio.AioRpcError) as refused:
        await harness.begun()
    failure = error_from_rpc(refused.value, "")
    assert failure.reason == ErrorReason.OVERLOADED
    assert failure.retry_delay is not None
    assert [one.name for one in (await harness.listed()).fetches] == [fetch.name]


async def test_a_job_waits_for_the_slot(harness: Front) -> None:
    """An item that comes while a fetch has the slot goes back to the queue; the next is taken after it."""
    harness.engine.go.clear()
    fetch = await harness.begun()
    harness.enqueue()
    await harness.wait_logged("nak 0")
    assert "claim" not in harness.log
    harness.engine.go.set()
    await harness.told(fetch.name)
    harness.enqueue()
    await harness.wait_logged("ack")


async def test_short_of_space(harness: Front) -> None:
    """On a full disk nothing is begun; one that finds too little while it runs leaves, and says so."""
    harness.free_bytes = 10
    await harness.disk.measure()
    with pytest.raises(aio.AioRpcError) as refused:
        await harness.begun()
    assert error_from_rpc(refused.value, "").reason == ErrorReason.OVERLOADED
    harness.free_bytes = 1 << 40
    await harness.disk.measure()
    harness.engine.go.clear()
    harness.engine.total_bytes = 1 << 41
    fetch = await harness.begun()
    last = (await harness.told(fetch.name))[-1].snapshot
    assert from_status(last.error).reason == ErrorReason.WORKER_DISK_FULL
    assert harness.work_dirs == []


async def test_a_recording_leaves_its_slot(harness: Front) -> None:
    """What is on air is recorded beside the slots; drained, the worker keeps what there is of it."""
    harness.engine.live = True
    recorded = await harness.begun()
    await harness.engine.started.wait()
    harness.engine.live = False
    assert [message async for message in harness.execute()][-1].snapshot.state == Fetch.SUCCEEDED
    drain = harness.stub.DrainFetcher(pb.DrainFetcherRequest())
    assert [left.active_count async for left in drain] == [1, 0]
    last = (await harness.told(recorded.name))[-1].snapshot
    assert (last.state, len(last.artifacts)) == (Fetch.SUCCEEDED, 1)


@pytest.mark.parametrize(
    ("fetch", "field", "reason"),
    [
        (Fetch(), "fetch.url", "FIELD_INVALID"),
        (Fetch(url="ftp://example.com/"), "fetch.url", "URL_INVALID"),
        (Fetch(url="http://169.254.169.254/"), "fetch.url", "URL_FORBIDDEN"),
        (Fetch(url=URL, attempt=f"{JOB}/attempts/1"), "fetch.attempt", "FIELD_INVALID"),
        (Fetch(url=URL, format=FormatSpec(max_height=7)), "fetch.format.max_height", "FIELD_INVALID"),
        (Fetch(url=URL, format=FormatSpec(container=99)), "fetch.format.container", "FIELD_INVALID"),  # type: ignore[arg-type]
        (
            Fetch(url=URL, format=FormatSpec(selector="best[url~=a]")),
            "fetch.format.selector",
            "FIELD_INVALID",
        ),
        (
            Fetch(url=URL, format=FormatSpec(live=FormatSpec.Live(mode=FormatSpec.Live.WAIT))),
            "fetch.format.live.mode",
            "FIELD_INVALID",
        ),
        (Fetch(url=URL, tenant="a" * 129), "fetch.tenant", "FIELD_INVALID"),
    ],
)
async def test_bad_input(harness: Front, fetch: Fetch, field: str, reason: str) -> None:
    """What is wrong is told by its field, and nothing is begun."""
    with pytest.raises(aio.AioRpcError) as refused:
        await anext(aiter(harness.stub.ExecuteFetch(pb.ExecuteFetchRequest(fetch=fetch))))
    failure = error_from_rpc(refused.value, "")
    assert ErrorReason.Name(failure.reason) == reason
    assert [violation.field for violation in failure.violations] == [field]
    assert not (await harness.listed()).fetches
    assert harness.work_dirs == []


async def test_names_and_ids(harness: Front) -> None:
    """A name that is none, an id that is none, and a fetch that is not there are told apart."""
    for call, field in [
        (harness.stub.GetFetch(pb.GetFetchRequest(name="fetches/1")), "name"),
        (harness.stub.CancelFetch(pb.CancelFetchRequest(name=JOB)), "name"),
        (harness.stub.ListFetches(pb.ListFetchesRequest(page_size=-1)), "page_size"),
        (anext(harness.execute(request_id="mine")), "request_id"),
    ]:
        with pytest.raises(aio.AioRpcError) as refused:
            await call
        assert error_from_rpc(refused.value, "").metadata["field"] == field
    with pytest.raises(aio.AioRpcError) as missing:
        await harness.told(f"fetches/{uuid.uuid4()}")
    assert error_from_rpc(missing.value, "").reason == ErrorReason.RESOURCE_NOT_FOUND


async def test_only_for_the_suite(harness: Front) -> None:
    """Without the suite's own credential nothing of this is served."""
    name = f"fetches/{uuid.uuid4()}"
    for call in (
        harness.stranger.GetFetch(pb.GetFetchRequest(name=name)),
        harness.stranger.ListFetches(pb.ListFetchesRequest()),
        harness.stranger.CancelFetch(pb.CancelFetchRequest(name=name)),
        anext(aiter(harness.stranger.ExecuteFetch(asking()))),
        anext(aiter(harness.stranger.WatchFetch(pb.WatchFetchRequest(name=name)))),
        anext(aiter(harness.stranger.DrainFetcher(pb.DrainFetcherRequest()))),
    ):
        with pytest.raises(aio.AioRpcError) as refused:
            await call
        assert error_from_rpc(refused.value, "").reason == ErrorReason.PERMISSION_INSUFFICIENT


async def test_fetches_of_jobs_are_shown(harness: Front) -> None:
    """What serves a lease is listed and watched as well, and is cancelled by its job only."""
    harness.engine.go.clear()
    harness.enqueue()
    await harness.engine.started.wait()
    (fetch,) = (await harness.listed()).fetches
    assert (fetch.attempt, fetch.state) == (f"{JOB}/attempts/1", Fetch.RUNNING)
    with pytest.raises(aio.AioRpcError) as refused:
        await harness.cancelled(fetch.name)
    assert error_from_rpc(refused.value, "").reason == ErrorReason.STATE_CONFLICT
    watching = asyncio.create_task(harness.told(fetch.name))
    harness.engine.go.set()
    last = (await watching)[-1].snapshot
    assert last.state == Fetch.SUCCEEDED
    assert [one.name for one in last.artifacts] == list(harness.artifacts.stored)


async def test_a_lost_lease_is_shown(harness: Front) -> None:
    """A fetch whose lease was lost is CANCELLED, when its files are gone."""
    harness.engine.go.clear()
    harness.enqueue()
    await harness.engine.started.wait()
    (fetch,) = (await harness.listed()).fetches
    harness.leases.finish_response.refusal.reason = lease_pb2.Refusal.LOST
    harness.engine.go.set()
    assert (await harness.told(fetch.name))[-1].snapshot.state == Fetch.CANCELLED
    assert harness.artifacts.stored == {}


async def test_pages(harness: Front) -> None:
    """The newest come first, page by page; a token of nowhere is refused."""
    names = [[message async for message in harness.execute()][-1].snapshot.name for _ in range(3)]
    first = await harness.listed(page_size=2)
    second = await harness.listed(page_size=2, page_token=first.next_page_token)
    assert [one.name for one in (*first.fetches, *second.fetches)] == names[::-1]
    assert not second.next_page_token
    for token in ("nonsense", "deadbeef-1", f"{first.next_page_token}x"):
        with pytest.raises(aio.AioRpcError) as refused:
            await harness.listed(page_token=token)
        assert error_from_rpc(refused.value, "").reason == ErrorReason.PAGE_TOKEN_INVALID


async def test_a_page_has_its_weight() -> None:
    """A page of what is large has fewer, but none is left out."""
    fetches = FetchRegistry()
    large = lease_pb2.FetchSpec(url=URL, format=FormatSpec(selector="a" * 400_000))
    names = [fetches.begin(large).name for _ in range(5)]
    token, pages = "", list[list[str]]()
    while token or not pages:
        page, token = fetches.list_page(1000, token)
        pages.append([fetch.name for fetch in page])
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == names[::-1]


async def test_draining(harness: Front) -> None:
    """Drained, a worker takes nothing more from anyone, tells what is left, and health says so."""
    await harness.worker.check()
    harness.engine.go.clear()
    fetch = await harness.begun()
    drain = harness.stub.DrainFetcher(pb.DrainFetcherRequest())
    counts = aiter(drain)
    assert (await anext(counts)).active_count == 1
    with pytest.raises(aio.AioRpcError) as refused:
        await harness.begun()
    assert error_from_rpc(refused.value, "").reason == ErrorReason.OVERLOADED
    with pytest.raises(Unavailable):
        await harness.worker.check()
    assert harness.worker.slots == 0
    harness.enqueue()
    harness.engine.go.set()
    assert [message.active_count async for message in counts] == [0]
    assert (await harness.told(fetch.name))[-1].snapshot.state == Fetch.SUCCEEDED
    assert "claim" not in harness.log
    assert [left.active_count async for left in harness.stub.DrainFetcher(pb.DrainFetcherRequest())] == [0]


async def test_draining_with_an_item_in_hand(harness: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that was pulled but not begun when the drain comes is another worker's at once."""
    looking = asyncio.Event()

    async def look() -> bool:
        looking.set()
        return await asyncio.Future()

    monkeypatch.setattr(harness.disk, "measure", look)
    harness.enqueue()
    await looking.wait()
    assert [left.active_count async for left in harness.stub.DrainFetcher(pb.DrainFetcherRequest())] == [0]
    await harness.wait_logged("nak 0")


async def test_draining_hands_back(harness: Front) -> None:
    """What does not end in time goes back to the queue; what no queue brought is told to go elsewhere."""
    harness.engine.go.clear()
    fetch = await harness.begun()
    request = pb.DrainFetcherRequest()
    request.grace.FromMilliseconds(50)
    assert [left.active_count async for left in harness.stub.DrainFetcher(request)] == [1, 0]
    last = (await harness.told(fetch.name))[-1].snapshot
    assert (last.state, from_status(last.error).reason) == (Fetch.FAILED, ErrorReason.OVERLOADED)
    assert harness.work_dirs == []


async def test_draining_without_a_listener(harness: Front) -> None:
    """A drain goes on where its caller hangs up; a job in work goes back when its time is over."""
    harness.engine.go.clear()
    harness.enqueue()
    await harness.engine.started.wait()
    request = pb.DrainFetcherRequest()
    request.grace.FromMilliseconds(50)
    call = harness.stub.DrainFetcher(request)
    await anext(aiter(call))
    call.cancel()
    await harness.wait_logged("ack")
    assert harness.outcome.released.reason == type(harness.outcome).Released.DRAIN


def _ended(fetches: FetchRegistry, number: int, attempt: str = "") -> Sequence[str]:
    """Names of that many fetches that were begun and have ended."""
    begun = [fetches.begin(lease_pb2.FetchSpec(url=URL), attempt) for _ in range(number)]
    for fetch in begun:
        fetches.end(fetch, None)
    return [fetch.name for fetch in begun]


async def test_ended_ones_are_forgotten() -> None:
    """Ten minutes after its end a fetch is forgotten, sooner where there are many; one that runs, never."""
    now = 0.0
    fetches = FetchRegistry(lambda: now, max_ended=3)
    running = fetches.begin(lease_pb2.FetchSpec(url=URL))
    names = _ended(fetches, 4)
    assert [fetch.name for fetch in fetches.list_page(10, "")[0]] == [*names[:0:-1], running.name]
    with pytest.raises(NotFound):
        fetches.get(names[0])
    now = 599
    assert fetches.get(names[1]).ended
    now = 600
    assert fetches.list_page(10, "")[0] == [running]


async def test_jobs_crowd_nobody_out() -> None:
    """However many jobs a worker has done, it remembers what was asked of it directly."""
    fetches = FetchRegistry(max_ended_attempts=2)
    (own,) = _ended(fetches, 1)
    names = _ended(fetches, 5, f"{JOB}/attempts/1")
    assert [fetch.name for fetch in fetches.list_page(10, "")[0]] == [*names[:2:-1], own]


async def test_a_slow_watcher_gets_the_newest() -> None:
    """Whoever is slow is told the newest progress only, and holds nothing meanwhile."""
    fetches = FetchRegistry()
    fetch = fetches.begin(lease_pb2.FetchSpec(url=URL))
    events = fetch.events()
    assert isinstance(await anext(events), Fetch)
    for number in range(1000):
        fetch.update_progress(Progress(downloaded_bytes=number))
    newest = await anext(events)
    assert isinstance(newest, Progress)
    assert newest.downloaded_bytes == 999
    fetches.end(fetch, None)
    last = await anext(events)
    assert isinstance(last, Fetch)
    assert last.state == Fetch.CANCELLED
    assert [event async for event in events] == []
