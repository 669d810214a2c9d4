"""Exchange: many claims and finishes in one call, each answered as if it were alone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from tests.jobs.conftest import SERVICES, TOKEN, run_service
from tests.jobs.fake_worker import claim_request, succeeded
from tests.servers import free_port

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import CreateJobRequest, GetJobRequest
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2, work_pb2
from reelhaul.work.v1.lease_service_pb2 import ExchangeRequest, FinishRequest
from reelhaul_fetcher.clients.jobs import BatchingLeaseClient
from reelhaul_jobs.api.leases.servicer import LeaseServicer
from reelhaul_runtime.errors import ReelhaulError, Unavailable, from_status
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.tracing import spans

Call = ExchangeRequest.Call


async def create_items(service, count: int) -> list[work_pb2.WorkItem]:
    """Create *count* jobs and return their work items."""
    requests = [CreateJobRequest(job=Job(url=f"https://s{n}.example/watch?v={n}")) for n in range(count)]
    jobs = [await service.jobs.CreateJob(request) for request in requests]
    return [work_pb2.WorkItem(job=job.name, attempt=1) for job in jobs]


def finish(item: work_pb2.WorkItem, epoch: int, *, files: int = 1) -> FinishRequest:
    artifacts = [media_pb2.ArtifactInfo(name=f"artifacts/{uuid.uuid4()}") for _ in range(files)]
    return FinishRequest(job=item.job, epoch=epoch, succeeded=succeeded(*artifacts))


async def state(service, item: work_pb2.WorkItem) -> Job.State.ValueType:
    return (await service.jobs.GetJob(GetJobRequest(name=item.job))).state


async def test_each_call_gets_its_own_answer(service):
    """A lease, a stale finish, an invalid finish and an unknown job each get their own answer."""
    first, second, third = await create_items(service, 3)
    calls = [Call(claim=claim_request(item, "w1")) for item in (first, second)]
    leased = (await service.leases.Exchange(ExchangeRequest(calls=calls))).answers
    assert [answer.claim.lease.epoch for answer in leased] == [1, 1]

    unknown = work_pb2.WorkItem(job=f"jobs/{uuid.uuid4()}", attempt=1)
    calls = [
        Call(finish=finish(first, 1)),
        Call(finish=finish(second, 7)),
        Call(finish=finish(second, 1, files=0)),
        Call(claim=claim_request(third, "w2")),
        Call(claim=claim_request(unknown, "w2")),
    ]
    good, stale, empty, taken, lost = (await service.leases.Exchange(ExchangeRequest(calls=calls))).answers
    assert good.finish.HasField("receipt")
    assert stale.finish.refusal.reason == lease_pb2.Refusal.LOST
    assert from_status(empty.error).reason == ErrorReason.FIELD_INVALID
    assert taken.claim.lease.epoch == 1
    assert lost.claim.refusal.reason == lease_pb2.Refusal.UNKNOWN
    assert [await state(service, item) for item in (first, second, third)] == [
        Job.SUCCEEDED,
        Job.RUNNING,
        Job.RUNNING,
    ]


async def test_empty_exchanges_are_rejected(service):
    """An exchange without calls, or with an empty one, is rejected."""
    for calls in ([], [Call()]):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await service.leases.Exchange(ExchangeRequest(calls=calls))
        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@asynccontextmanager
async def lease_client(port: int) -> AsyncIterator[BatchingLeaseClient]:
    async with open_channel(f"127.0.0.1:{port}", SERVICES, suite_token=TOKEN) as opened:
        yield BatchingLeaseClient(opened)


async def test_fetcher_batches_its_calls(settings, monkeypatch):
    """Fifty slots that claim and finish at once each get their own answer, through few calls."""
    batch_sizes, exchange = [], LeaseServicer.Exchange

    async def counting_exchange(self, request, context):
        batch_sizes.append(len(request.calls))
        return await exchange(self, request, context)

    monkeypatch.setattr(LeaseServicer, "Exchange", counting_exchange)
    async with run_service(settings) as service, lease_client(service.port) as leases:
        items = await create_items(service, 50)
        answers = await asyncio.gather(*(leases.claim(claim_request(item, "w1")) for item in items))
        finishes = [leases.finish(finish(item, 1, files=n % 2)) for n, item in enumerate(items)]
        receipts = await asyncio.gather(*finishes, return_exceptions=True)
    assert [a.lease.spec.url for a in answers] == [f"https://s{n}.example/watch?v={n}" for n in range(50)]
    assert [isinstance(each, ReelhaulError) for each in receipts] == [n % 2 == 0 for n in range(50)]
    assert sum(batch_sizes) == 100
    assert len(batch_sizes) <= 8


async def test_batch_is_in_the_first_recorded_trace(settings):
    """A call with the claims of several traces is a span of the first of them that is recorded."""
    traces = [
        f"00-{number:032x}-00f067aa0ba902b7-{flag}" for number, flag in enumerate(("00", "01", "01"), 1)
    ]
    recorded: list[spans.RecordedSpan] = []
    try:
        async with run_service(settings) as service, lease_client(service.port) as leases:
            items = await create_items(service, 4)
            spans.configure(recorded.append)
            # It is under way while the others are batched.
            first = asyncio.create_task(leases.claim(claim_request(items[0], "w1")))
            await asyncio.sleep(0)
            claims = []
            for item, trace in zip(items[1:], traces, strict=True):
                with spans.continuing(trace):
                    claims.append(asyncio.create_task(leases.claim(claim_request(item, "w1"))))
            await asyncio.gather(first, *claims)
    finally:
        spans.configure(None)
    calls = [span for span in recorded if span.name.endswith("LeaseService/Exchange")]
    assert {(span.kind.name, span.trace_id) for span in calls} == {
        ("CLIENT", traces[1][3:35]),
        ("SERVER", traces[1][3:35]),
    }


async def test_jobs_unavailable_fails_each_call(service):
    """While jobs is unavailable, each waiting call fails."""
    (item, other) = await create_items(service, 2)
    async with lease_client(free_port()) as leases:
        calls = [leases.claim(claim_request(each, "w1")) for each in (item, other)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in results] == [Unavailable, Unavailable]


async def test_closing_the_channel_ends_waiting_calls(service, monkeypatch):
    """Claims in progress, and those that wait for them, end when the channel is closed."""
    items = await create_items(service, 3)
    async with lease_client(service.port) as leases:
        claiming = asyncio.Event()

        async def never(*_: object) -> None:
            claiming.set()
            await asyncio.Event().wait()

        monkeypatch.setattr("reelhaul_jobs.service.leases.Leases.claim", never)
        calls = [asyncio.create_task(leases.claim(claim_request(items[0], "w1")))]
        await claiming.wait()
        calls += [asyncio.create_task(leases.claim(claim_request(item, "w1"))) for item in items[1:]]
    async with asyncio.timeout(5):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError | ReelhaulError) for each in results)
