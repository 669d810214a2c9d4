"""FetcherService over gRPC: direct fetches, the list of fetches, and draining, on a worker with fakes."""

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


class ServiceHarness(WorkerHarness):
    """A worker and its gRPC service; ``anonymous_stub`` has no credential."""

    stub: FetcherServiceStub
    anonymous_stub: FetcherServiceStub

    async def execute(self, url: str = URL, request_id: str = "") -> AsyncIterator[pb.ExecuteFetchResponse]:
        """Yield the messages of ExecuteFetch."""
        async for message in self.stub.ExecuteFetch(execute_request(url, request_id)):
            yield message

    async def start(self, url: str = URL, request_id: str = "") -> Fetch:
        """Start a fetch and hang up; return its first snapshot."""
        call = self.stub.ExecuteFetch(execute_request(url, request_id))
        first = await anext(aiter(call))
        call.cancel()
        return first.snapshot

    async def watch(self, name: str) -> list[pb.WatchFetchResponse]:
        """Return all messages of WatchFetch."""
        async with asyncio.timeout(5):
            return [message async for message in self.stub.WatchFetch(pb.WatchFetchRequest(name=name))]

    async def list_fetches(self, **fields: int | str) -> pb.ListFetchesResponse:
        """Return a page of ListFetches."""
        return await self.stub.ListFetches(pb.ListFetchesRequest(**fields))  # type: ignore[arg-type]

    async def cancel(self, name: str) -> Fetch:
        """Return the answer of CancelFetch."""
        return await self.stub.CancelFetch(pb.CancelFetchRequest(name=name))


def execute_request(url: str = URL, request_id: str = "") -> pb.ExecuteFetchRequest:
    """Return a request to fetch *url* for a tenant."""
    return pb.ExecuteFetchRequest(fetch=Fetch(url=url, tenant="acme"), request_id=request_id)


@pytest_asyncio.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ServiceHarness]:
    """A harness with one slot and a running worker."""
    harness = ServiceHarness(tmp_path)
    probes = ProbeCache(harness.engine, harness.access, lambda: datetime.now(UTC))
    direct_fetches = DirectFetches(harness.worker, harness.context, 2)
    servicer = FetcherServicer(
        probes, ExtractorCatalog(harness.engine), direct_fetches, harness.worker, PageTokens("secret")
    )
    service = (add_FetcherServiceServicer_to_server, servicer, SERVICE.full_name)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(harness.running())
        port = await stack.enter_async_context(
            serving("127.0.0.1:0", [service], authenticator=NoAuthentication("secret"), drain_seconds=1)
        )
        address = f"127.0.0.1:{port}"
        suite_channel = await stack.enter_async_context(
            open_channel(address, [SERVICE], suite_token="secret")
        )
        harness.stub = FetcherServiceStub(suite_channel)
        harness.anonymous_stub = FetcherServiceStub(
            await stack.enter_async_context(open_channel(address, [SERVICE]))
        )
        yield harness


async def test_execute_fetch_streams_until_end(harness: ServiceHarness) -> None:
    """ExecuteFetch yields a snapshot, progress, and a last snapshot with an artifact of no job."""
    async with asyncio.timeout(5):
        messages = [message async for message in harness.execute()]
    assert [message.sequence for message in messages] == list(range(1, len(messages) + 1))
    first, last = messages[0].snapshot, messages[-1].snapshot
    assert (first.state, last.state) == (Fetch.RUNNING, Fetch.SUCCEEDED)
    assert {"progress"} >= {message.WhichOneof("event") for message in messages[1:-1]}
    assert last.progress.percent == 100
    (artifact,) = last.artifacts
    content, metadata = harness.artifacts.stored[artifact.name]
    assert (content, metadata.job, metadata.epoch, metadata.tenant) == (b"a video", "", 0, "acme")
    assert metadata.ttl.total_seconds() > 12 * 3600
    assert harness.work_dirs == []
    assert not harness.guard.open_sessions
    # Neither jobs nor the broker is involved.
    assert harness.log == []
    assert harness.queue.published == []


async def test_default_tenant_and_format(harness: ServiceHarness) -> None:
    """Without a tenant the fetch belongs to its caller's; defaults of the format are filled in."""
    call = harness.stub.ExecuteFetch(pb.ExecuteFetchRequest(fetch=Fetch(url=URL)))
    fetch = [message async for message in call][-1].snapshot
    assert fetch.tenant == "local"
    assert fetch.format.media_kind == FormatSpec.VIDEO


async def test_fetch_outlives_its_call(harness: ServiceHarness) -> None:
    """A fetch goes on without its caller; watchers see its end, and an ended one gives one snapshot."""
    harness.engine.go.clear()
    fetch = await harness.start()
    await harness.engine.started.wait()
    watching = asyncio.create_task(harness.watch(fetch.name))
    harness.engine.go.set()
    messages = await watching
    assert messages[0].snapshot.name == messages[-1].snapshot.name == fetch.name
    assert messages[-1].snapshot.state == Fetch.SUCCEEDED
    (message,) = await harness.watch(fetch.name)
    assert message.snapshot == messages[-1].snapshot
    assert message.snapshot == await harness.stub.GetFetch(pb.GetFetchRequest(name=fetch.name))


async def test_cancel(harness: ServiceHarness) -> None:
    """CancelFetch answers once the files are gone; the slot is free again."""
    harness.engine.go.clear()
    fetch = await harness.start()
    await harness.engine.started.wait()
    watching = asyncio.create_task(harness.watch(fetch.name))
    answer = await harness.cancel(fetch.name)
    assert answer.state == Fetch.CANCELLED
    assert harness.engine.stopped
    assert harness.work_dirs == []
    assert harness.artifacts.stored == {}
    assert (await watching)[-1].snapshot == answer
    harness.engine.go.set()
    assert [message async for message in harness.execute()][-1].snapshot.state == Fetch.SUCCEEDED


async def test_cancel_ended_fetch(harness: ServiceHarness) -> None:
    """An ended fetch is answered as it is and keeps its artifacts."""
    name = [message async for message in harness.execute()][-1].snapshot.name
    assert (await harness.cancel(name)).state == Fetch.SUCCEEDED
    assert len(harness.artifacts.stored) == 1


async def test_failure_ends_stream_with_ok(harness: ServiceHarness) -> None:
    """The site's failure is in the fetch; the stream ends with OK."""
    harness.engine.failure = ReelhaulError(ErrorReason.MEDIA_NOT_FOUND, "it is gone")
    last = [message async for message in harness.execute()][-1].snapshot
    assert last.state == Fetch.FAILED
    assert from_status(last.error).reason == ErrorReason.MEDIA_NOT_FOUND
    assert harness.work_dirs == []


async def test_request_id(harness: ServiceHarness) -> None:
    """A repeated request_id joins its fetch, also after its end; another request with that id is rejected."""
    harness.engine.go.clear()
    request_id = str(uuid.uuid4())
    fetch = await harness.start(request_id=request_id)
    again = await harness.start(request_id=request_id.upper())
    assert again.name == fetch.name
    harness.engine.go.set()
    await harness.watch(fetch.name)
    (message,) = [message async for message in harness.execute(request_id=request_id)]
    assert message.snapshot.state == Fetch.SUCCEEDED
    assert len(harness.engine.requests) == 1
    with pytest.raises(aio.AioRpcError) as error:
        await harness.start(f"{URL}other", request_id)
    assert error_from_rpc(error.value, "").reason == ErrorReason.REQUEST_ID_REUSED


async def test_no_free_slot(harness: ServiceHarness) -> None:
    """With all slots busy a fetch is rejected with a retry delay, and nothing is started."""
    harness.engine.go.clear()
    fetch = await harness.start()
    with pytest.raises(aio.AioRpcError) as error:
        await harness.start()
    failure = error_from_rpc(error.value, "")
    assert failure.reason == ErrorReason.OVERLOADED
    assert failure.retry_delay is not None
    assert [fetch.name for fetch in (await harness.list_fetches()).fetches] == [fetch.name]


async def test_job_waits_for_slot_of_direct_fetch(harness: ServiceHarness) -> None:
    """A work item that arrives while a direct fetch has the slot is handed back; the next one is taken."""
    harness.engine.go.clear()
    fetch = await harness.start()
    harness.enqueue()
    await harness.wait_logged("nak 0")
    assert "claim" not in harness.log
    harness.engine.go.set()
    await harness.watch(fetch.name)
    harness.enqueue()
    await harness.wait_logged("ack")


async def test_short_of_disk_space(harness: ServiceHarness) -> None:
    """On a full disk nothing is started; a fetch that needs more than there is fails (WORKER_DISK_FULL)."""
    harness.free_bytes = 10
    await harness.disk.measure()
    with pytest.raises(aio.AioRpcError) as error:
        await harness.start()
    assert error_from_rpc(error.value, "").reason == ErrorReason.OVERLOADED
    harness.free_bytes = 1 << 40
    await harness.disk.measure()
    harness.engine.go.clear()
    harness.engine.total_bytes = 1 << 41
    fetch = await harness.start()
    last = (await harness.watch(fetch.name))[-1].snapshot
    assert from_status(last.error).reason == ErrorReason.WORKER_DISK_FULL
    assert harness.work_dirs == []


async def test_recording_frees_its_slot(harness: ServiceHarness) -> None:
    """A recording frees its slot for another fetch; a drain ends it with what it has."""
    harness.engine.live = True
    recorded = await harness.start()
    await harness.engine.started.wait()
    harness.engine.live = False
    assert [message async for message in harness.execute()][-1].snapshot.state == Fetch.SUCCEEDED
    drain = harness.stub.DrainFetcher(pb.DrainFetcherRequest())
    assert [message.active_count async for message in drain] == [1, 0]
    last = (await harness.watch(recorded.name))[-1].snapshot
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
async def test_invalid_requests(harness: ServiceHarness, fetch: Fetch, field: str, reason: str) -> None:
    """An invalid field is named, and nothing is started."""
    with pytest.raises(aio.AioRpcError) as error:
        await anext(aiter(harness.stub.ExecuteFetch(pb.ExecuteFetchRequest(fetch=fetch))))
    failure = error_from_rpc(error.value, "")
    assert ErrorReason.Name(failure.reason) == reason
    assert [violation.field for violation in failure.violations] == [field]
    assert not (await harness.list_fetches()).fetches
    assert harness.work_dirs == []


async def test_invalid_names_and_ids(harness: ServiceHarness) -> None:
    """An invalid name, an invalid id and an unknown fetch are distinguished."""
    for call, field in [
        (harness.stub.GetFetch(pb.GetFetchRequest(name="fetches/1")), "name"),
        (harness.stub.CancelFetch(pb.CancelFetchRequest(name=JOB)), "name"),
        (harness.stub.ListFetches(pb.ListFetchesRequest(page_size=-1)), "page_size"),
        (anext(harness.execute(request_id="mine")), "request_id"),
    ]:
        with pytest.raises(aio.AioRpcError) as error:
            await call
        assert error_from_rpc(error.value, "").metadata["field"] == field
    with pytest.raises(aio.AioRpcError) as error:
        await harness.watch(f"fetches/{uuid.uuid4()}")
    assert error_from_rpc(error.value, "").reason == ErrorReason.RESOURCE_NOT_FOUND


async def test_requires_suite_credential(harness: ServiceHarness) -> None:
    """Without the suite's credential no RPC of fetches is served."""
    name = f"fetches/{uuid.uuid4()}"
    for call in (
        harness.anonymous_stub.GetFetch(pb.GetFetchRequest(name=name)),
        harness.anonymous_stub.ListFetches(pb.ListFetchesRequest()),
        harness.anonymous_stub.CancelFetch(pb.CancelFetchRequest(name=name)),
        anext(aiter(harness.anonymous_stub.ExecuteFetch(execute_request()))),
        anext(aiter(harness.anonymous_stub.WatchFetch(pb.WatchFetchRequest(name=name)))),
        anext(aiter(harness.anonymous_stub.DrainFetcher(pb.DrainFetcherRequest()))),
    ):
        with pytest.raises(aio.AioRpcError) as error:
            await call
        assert error_from_rpc(error.value, "").reason == ErrorReason.PERMISSION_INSUFFICIENT


async def test_fetches_of_jobs_are_listed(harness: ServiceHarness) -> None:
    """The fetch of a job is listed and watched, but only its job can be cancelled."""
    harness.engine.go.clear()
    harness.enqueue()
    await harness.engine.started.wait()
    (fetch,) = (await harness.list_fetches()).fetches
    assert (fetch.attempt, fetch.state) == (f"{JOB}/attempts/1", Fetch.RUNNING)
    with pytest.raises(aio.AioRpcError) as error:
        await harness.cancel(fetch.name)
    assert error_from_rpc(error.value, "").reason == ErrorReason.STATE_CONFLICT
    watching = asyncio.create_task(harness.watch(fetch.name))
    harness.engine.go.set()
    last = (await watching)[-1].snapshot
    assert last.state == Fetch.SUCCEEDED
    assert [fetch.name for fetch in last.artifacts] == list(harness.artifacts.stored)


async def test_lost_lease_is_cancelled(harness: ServiceHarness) -> None:
    """A fetch whose lease was lost is CANCELLED once its files are gone."""
    harness.engine.go.clear()
    harness.enqueue()
    await harness.engine.started.wait()
    (fetch,) = (await harness.list_fetches()).fetches
    harness.leases.finish_response.refusal.reason = lease_pb2.Refusal.LOST
    harness.engine.go.set()
    assert (await harness.watch(fetch.name))[-1].snapshot.state == Fetch.CANCELLED
    assert harness.artifacts.stored == {}


async def test_pages(harness: ServiceHarness) -> None:
    """Pages list the newest first; an invalid page token is rejected."""
    names = [[message async for message in harness.execute()][-1].snapshot.name for _ in range(3)]
    first = await harness.list_fetches(page_size=2)
    second = await harness.list_fetches(page_size=2, page_token=first.next_page_token)
    assert [fetch.name for fetch in (*first.fetches, *second.fetches)] == names[::-1]
    assert not second.next_page_token
    for token in ("nonsense", "deadbeef-1", f"{first.next_page_token}x"):
        with pytest.raises(aio.AioRpcError) as error:
            await harness.list_fetches(page_token=token)
        assert error_from_rpc(error.value, "").reason == ErrorReason.PAGE_TOKEN_INVALID


async def test_page_size_in_bytes() -> None:
    """A page of large fetches has fewer of them, and none is left out."""
    fetches = FetchRegistry()
    large = lease_pb2.FetchSpec(url=URL, format=FormatSpec(selector="a" * 400_000))
    names = [fetches.begin(large).name for _ in range(5)]
    token, pages = "", list[list[str]]()
    while token or not pages:
        page, token = fetches.list_page(1000, token)
        pages.append([fetch.name for fetch in page])
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == names[::-1]


async def test_drain(harness: ServiceHarness) -> None:
    """A draining worker takes no work, reports what is left, and health says so."""
    await harness.worker.check()
    harness.engine.go.clear()
    fetch = await harness.start()
    drain = harness.stub.DrainFetcher(pb.DrainFetcherRequest())
    counts = aiter(drain)
    assert (await anext(counts)).active_count == 1
    with pytest.raises(aio.AioRpcError) as error:
        await harness.start()
    assert error_from_rpc(error.value, "").reason == ErrorReason.OVERLOADED
    with pytest.raises(Unavailable):
        await harness.worker.check()
    assert harness.worker.slots == 0
    harness.enqueue()
    harness.engine.go.set()
    assert [message.active_count async for message in counts] == [0]
    assert (await harness.watch(fetch.name))[-1].snapshot.state == Fetch.SUCCEEDED
    assert "claim" not in harness.log
    assert [
        message.active_count async for message in harness.stub.DrainFetcher(pb.DrainFetcherRequest())
    ] == [0]


async def test_drain_hands_back_pulled_item(harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A work item that was pulled but not started is handed back at once."""
    measuring = asyncio.Event()

    async def measure() -> bool:
        measuring.set()
        return await asyncio.Future()

    monkeypatch.setattr(harness.disk, "measure", measure)
    harness.enqueue()
    await measuring.wait()
    assert [
        message.active_count async for message in harness.stub.DrainFetcher(pb.DrainFetcherRequest())
    ] == [0]
    await harness.wait_logged("nak 0")


async def test_drain_grace_ends_direct_fetch(harness: ServiceHarness) -> None:
    """After the grace period a direct fetch fails with OVERLOADED, so that its caller tries elsewhere."""
    harness.engine.go.clear()
    fetch = await harness.start()
    request = pb.DrainFetcherRequest()
    request.grace.FromMilliseconds(50)
    assert [message.active_count async for message in harness.stub.DrainFetcher(request)] == [1, 0]
    last = (await harness.watch(fetch.name))[-1].snapshot
    assert (last.state, from_status(last.error).reason) == (Fetch.FAILED, ErrorReason.OVERLOADED)
    assert harness.work_dirs == []


async def test_drain_outlives_its_call(harness: ServiceHarness) -> None:
    """A drain goes on if its caller hangs up; a job is released after the grace period."""
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


def _end_some(fetches: FetchRegistry, number: int, attempt: str = "") -> Sequence[str]:
    """Begin and end *number* fetches; return their names."""
    begun = [fetches.begin(lease_pb2.FetchSpec(url=URL), attempt) for _ in range(number)]
    for fetch in begun:
        fetches.end(fetch, None)
    return [fetch.name for fetch in begun]


async def test_ended_fetches_are_deleted() -> None:
    """An ended fetch is deleted after ten minutes, sooner if there are many; a running one never."""
    now = 0.0
    fetches = FetchRegistry(lambda: now, max_ended=3)
    running = fetches.begin(lease_pb2.FetchSpec(url=URL))
    names = _end_some(fetches, 4)
    assert [fetch.name for fetch in fetches.list_page(10, "")[0]] == [*names[:0:-1], running.name]
    with pytest.raises(NotFound):
        fetches.get(names[0])
    now = 599
    assert fetches.get(names[1]).ended
    now = 600
    assert fetches.list_page(10, "")[0] == [running]


async def test_jobs_do_not_displace_direct_fetches() -> None:
    """However many jobs a worker has run, its direct fetches are kept."""
    fetches = FetchRegistry(max_ended_attempts=2)
    (direct,) = _end_some(fetches, 1)
    names = _end_some(fetches, 5, f"{JOB}/attempts/1")
    assert [fetch.name for fetch in fetches.list_page(10, "")[0]] == [*names[:2:-1], direct]


async def test_slow_watcher_gets_newest() -> None:
    """A slow watcher gets only the newest progress."""
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
