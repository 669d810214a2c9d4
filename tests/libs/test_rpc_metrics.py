"""Metrics of RPCs: they equal what clients did, and callers cannot add labels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.libs.test_rpc import JOBS, TOKEN, Jobs, serve
from tests.metric_values import MetricChanges

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul_runtime import errors
from reelhaul_runtime.rpc import channels


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with serve(Jobs()) as address:
        yield address


@pytest.fixture
async def stub(address: str) -> AsyncIterator[Any]:
    async with aio.insecure_channel(address) as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel)


METHOD = {"grpc_service": "reelhaul.jobs.v1.JobService", "grpc_method": "GetJob", "grpc_type": "unary"}
WATCH = {
    "grpc_service": "reelhaul.jobs.v1.JobService",
    "grpc_method": "WatchJob",
    "grpc_type": "server_stream",
}


def get(name: str = "jobs/1") -> Any:
    return job_service_pb2.GetJobRequest(name=name)


async def test_calls_are_counted_by_their_code(stub: Any):
    """N calls are N started, N handled by code, N durations; each error has its reason."""
    changes = MetricChanges()
    await asyncio.gather(*(stub.GetJob(get()) for _ in range(20)))
    for name, code in (("jobs/missing", "NOT_FOUND"), ("jobs/bug", "INTERNAL"), ("jobs/slow", "")):
        with pytest.raises(aio.AioRpcError):
            await stub.GetJob(get(name), timeout=None if code else 0.05)
    assert changes.total("grpc_server_started_total", **METHOD) == 23
    assert changes.total("grpc_server_handled_total", **METHOD, grpc_code="OK") == 20
    assert changes.total("grpc_server_handled_total", **METHOD, grpc_code="NOT_FOUND") == 1
    assert changes.total("grpc_server_handled_total", **METHOD, grpc_code="INTERNAL") == 1
    assert changes.total("reelhaul_errors_total", reason="RESOURCE_NOT_FOUND") == 1
    assert changes.total("reelhaul_errors_total", reason="INTERNAL_ERROR") == 1


async def test_durations_are_observed(stub: Any):
    """The duration of a unary call is in the bucket of its seconds, and in no lower one."""
    changes = MetricChanges()
    await stub.GetJob(get())
    assert changes.total("grpc_server_handling_seconds_count", **METHOD) == 1
    assert 0 < changes.total("grpc_server_handling_seconds_sum", **METHOD) < 30
    assert changes.total("grpc_server_handling_seconds_bucket", **METHOD, le="30.0") == 1


async def test_streams_are_counted_while_they_are_open(stub: Any):
    """A stream counts as open until it ends; one that its client cancels ends as CANCELLED."""
    changes = MetricChanges()
    stream = stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/slow"))
    await stream.read()
    assert changes.total("grpc_server_streams", grpc_method="WatchJob") == 1
    stream.cancel()
    async with asyncio.timeout(10):
        while not changes.total("grpc_server_handled_total", **WATCH, grpc_code="CANCELLED"):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)
    assert changes.total("grpc_server_streams", grpc_method="WatchJob") == 0
    assert changes.total("grpc_server_started_total", **WATCH) == 1
    assert changes.total("grpc_server_handling_seconds_count", grpc_method="WatchJob") == 0


async def test_refused_callers_are_counted(address: str):
    """A call without its credential counts as an error of its method, with the reason."""
    changes = MetricChanges()
    async with aio.insecure_channel(address) as channel:
        with pytest.raises(aio.AioRpcError):
            await channel.unary_unary("/reelhaul.work.v1.LeaseService/Claim")(b"")
    claim = {"grpc_service": "reelhaul.work.v1.LeaseService", "grpc_method": "Claim"}
    assert changes.total("grpc_server_started_total", **claim) == 1
    handled = {
        dict(labels)["grpc_code"] for name, labels in changes.new() if name == "grpc_server_handled_total"
    }
    assert handled <= {"UNAUTHENTICATED", "PERMISSION_DENIED"}


async def test_services_that_are_not_ours(address: str):
    """Health checks count as well, with the code that their servicer aborts with."""
    changes = MetricChanges()
    async with aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        with pytest.raises(aio.AioRpcError):
            await health.Check(health_pb2.HealthCheckRequest(service="none-such"))
    check = {"grpc_service": "grpc.health.v1.Health", "grpc_method": "Check"}
    assert changes.total("grpc_server_handled_total", **check, grpc_code="OK") == 1
    assert changes.total("grpc_server_handled_total", **check, grpc_code="NOT_FOUND") == 1


async def test_unknown_methods_have_no_labels(address: str):
    """Methods that do not exist add no series, however many are called."""
    async with aio.insecure_channel(address) as channel:
        await job_service_pb2_grpc.JobServiceStub(channel).GetJob(get())
        changes = MetricChanges()
        for number in range(200):
            path = f"/reelhaul.jobs.v1.JobService/Get{number}" if number % 2 else f"/x{number}/y"
            with pytest.raises(aio.AioRpcError) as failure:
                await channel.unary_unary(path)(b"")
            assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert changes.new() == set()


async def test_calls_to_other_services_are_counted(address: str):
    """A client counts its calls by the code that they ended with, streams too."""
    changes = MetricChanges()
    async with channels.open_channel(address, [JOBS], suite_token=TOKEN) as channel:
        stub: Any = job_service_pb2_grpc.JobServiceStub(channel)
        await stub.GetJob(get())
        with pytest.raises(errors.ReelhaulError), channels.status_as_errors("jobs"):
            await stub.GetJob(get("jobs/missing"))
        async for _ in stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/1")):
            pass
    assert changes.total("grpc_client_handled_total", **METHOD, grpc_code="OK") == 1
    assert changes.total("grpc_client_handled_total", **METHOD, grpc_code="NOT_FOUND") == 1
    assert changes.total("grpc_client_handled_total", **WATCH, grpc_code="OK") == 1
