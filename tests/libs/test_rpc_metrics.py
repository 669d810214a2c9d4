"""Metrics of RPCs: they equal what clients did, and callers cannot add labels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY
from tests.libs.test_rpc import JOBS, TOKEN, Jobs, serve

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul_runtime import errors
from reelhaul_runtime.rpc import channels

Series = dict[tuple[str, tuple[str, ...]], float]


def read() -> Series:
    """Return the values of this process's metrics, by name and values of labels."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }


class Changes:
    """What changed in the metrics since this was created, as other tests run in this process too."""

    def __init__(self) -> None:
        self._before = read()

    def of(self, name: str, *labels: str) -> float:
        """Return by how much a series has grown."""
        return read().get((name, labels), 0) - self._before.get((name, labels), 0)

    def new(self) -> set[tuple[str, tuple[str, ...]]]:
        """Return the series that are new."""
        return read().keys() - self._before.keys()


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with serve(Jobs()) as address:
        yield address


@pytest.fixture
async def stub(address: str) -> AsyncIterator[Any]:
    async with aio.insecure_channel(address) as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel)


METHOD = ("reelhaul.jobs.v1.JobService", "GetJob", "unary")
WATCH = ("reelhaul.jobs.v1.JobService", "WatchJob", "server_stream")


def get(name: str = "jobs/1") -> Any:
    return job_service_pb2.GetJobRequest(name=name)


async def test_calls_are_counted_by_their_code(stub: Any):
    """N calls are N started, N handled by code, N durations; each error has its reason."""
    changes = Changes()
    await asyncio.gather(*(stub.GetJob(get()) for _ in range(20)))
    for name, code in (("jobs/missing", "NOT_FOUND"), ("jobs/bug", "INTERNAL"), ("jobs/slow", "")):
        with pytest.raises(aio.AioRpcError):
            await stub.GetJob(get(name), timeout=None if code else 0.05)
    assert changes.of("grpc_server_started_total", *METHOD) == 23
    assert changes.of("grpc_server_handled_total", *METHOD, "OK") == 20
    assert changes.of("grpc_server_handled_total", *METHOD, "NOT_FOUND") == 1
    assert changes.of("grpc_server_handled_total", *METHOD, "INTERNAL") == 1
    assert changes.of("reelhaul_errors_total", "RESOURCE_NOT_FOUND") == 1
    assert changes.of("reelhaul_errors_total", "INTERNAL_ERROR") == 1


async def test_durations_are_observed(stub: Any):
    """The duration of a unary call is in the bucket of its seconds, and in no lower one."""
    changes = Changes()
    await stub.GetJob(get())
    assert changes.of("grpc_server_handling_seconds_count", *METHOD) == 1
    assert 0 < changes.of("grpc_server_handling_seconds_sum", *METHOD) < 30
    assert changes.of("grpc_server_handling_seconds_bucket", *METHOD, "30.0") == 1


async def test_streams_are_counted_while_they_are_open(stub: Any):
    """A stream counts as open until it ends; one that its client cancels ends as CANCELLED."""
    changes = Changes()
    stream = stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/slow"))
    await stream.read()
    assert changes.of("grpc_server_streams", *WATCH[:2]) == 1
    stream.cancel()
    async with asyncio.timeout(10):
        while not changes.of("grpc_server_handled_total", *WATCH, "CANCELLED"):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)
    assert changes.of("grpc_server_streams", *WATCH[:2]) == 0
    assert changes.of("grpc_server_started_total", *WATCH) == 1
    assert read().get(("grpc_server_handling_seconds_count", WATCH)) is None


async def test_refused_callers_are_counted(address: str):
    """A call without its credential counts as an error of its method, with the reason."""
    changes = Changes()
    async with aio.insecure_channel(address) as channel:
        with pytest.raises(aio.AioRpcError):
            await channel.unary_unary("/reelhaul.work.v1.LeaseService/Claim")(b"")
    claim = ("reelhaul.work.v1.LeaseService", "Claim", "unary")
    assert changes.of("grpc_server_started_total", *claim) == 1
    handled = {labels[-1] for name, labels in changes.new() if name == "grpc_server_handled_total"}
    assert handled <= {"UNAUTHENTICATED", "PERMISSION_DENIED"}


async def test_services_that_are_not_ours(address: str):
    """Health checks count as well, with the code that their servicer aborts with."""
    changes = Changes()
    async with aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        with pytest.raises(aio.AioRpcError):
            await health.Check(health_pb2.HealthCheckRequest(service="none-such"))
    check = ("grpc.health.v1.Health", "Check", "unary")
    assert changes.of("grpc_server_handled_total", *check, "OK") == 1
    assert changes.of("grpc_server_handled_total", *check, "NOT_FOUND") == 1


async def test_unknown_methods_have_no_labels(address: str):
    """Methods that do not exist add no series, however many are called."""
    async with aio.insecure_channel(address) as channel:
        await job_service_pb2_grpc.JobServiceStub(channel).GetJob(get())
        changes = Changes()
        for number in range(200):
            path = f"/reelhaul.jobs.v1.JobService/Get{number}" if number % 2 else f"/x{number}/y"
            with pytest.raises(aio.AioRpcError) as failure:
                await channel.unary_unary(path)(b"")
            assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert changes.new() == set()


async def test_calls_to_other_services_are_counted(address: str):
    """A client counts its calls by the code that they ended with, streams too."""
    changes = Changes()
    async with channels.open_channel(address, [JOBS], suite_token=TOKEN) as channel:
        stub: Any = job_service_pb2_grpc.JobServiceStub(channel)
        await stub.GetJob(get())
        with pytest.raises(errors.ReelhaulError), channels.status_as_errors("jobs"):
            await stub.GetJob(get("jobs/missing"))
        async for _ in stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/1")):
            pass
    assert changes.of("grpc_client_handled_total", *METHOD, "OK") == 1
    assert changes.of("grpc_client_handled_total", *METHOD, "NOT_FOUND") == 1
    assert changes.of("grpc_client_handled_total", *WATCH, "OK") == 1
