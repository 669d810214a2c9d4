"""gRPC servers, the interceptor and channels, over real servers on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_runtime import errors, identity, logs
from reelhaul_runtime.auth.peers import FORWARDED_KEY, SUITE_TOKEN_KEY
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.listeners import AddressUnavailable
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.rpc.experiments import GRPC_EXPERIMENTS
from reelhaul_runtime.rpc.server import serving

TOKEN = "the suite token"
JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
LEASES = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    """Behaves as the job's name says; forwards GetJob to *upstream* if there is one."""

    def __init__(self, upstream: Any = None) -> None:
        self.calls = 0
        self.last_call: dict[str, Any] = {}
        self.upstream = upstream

    async def GetJob(self, request, context):
        self.calls += 1
        self.last_call = {
            "request_id": logs.request_id.get(),
            "traceparent": logs.traceparent.get(),
            "seconds": context.time_remaining(),
            "caller": identity.caller(),
        }
        if self.upstream is not None:
            with channels.status_as_errors("upstream"):
                return await self.upstream.GetJob(request)
        if request.name == "jobs/missing":
            raise errors.NotFound(request.name)
        if request.name == "jobs/bug":
            raise RuntimeError("the password is hunter2")
        if request.name == "jobs/slow":
            await asyncio.sleep(60)
        if request.name == "jobs/unavailable":
            raise errors.Unavailable("database", "the database does not answer")
        if request.name == "jobs/throttled":
            raise errors.ReelhaulError(ErrorReason.UPSTREAM_THROTTLED, "the site asks to slow down")
        return job_pb2.Job(name=request.name)

    async def CreateJob(self, request, context):
        self.calls += 1
        raise errors.Unavailable("database", "the database does not answer")

    async def WatchJob(self, request, context):
        yield job_service_pb2.WatchJobResponse()
        if request.name == "jobs/missing":
            raise errors.NotFound(request.name)
        if request.name == "jobs/slow":
            await asyncio.sleep(60)


class Leases(lease_service_pb2_grpc.LeaseServiceServicer):
    async def Claim(self, request, context):
        return lease_service_pb2.ClaimResponse()


@asynccontextmanager
async def serve(jobs: Jobs, **options: Any) -> AsyncIterator[str]:
    """Serve *jobs* and leases with the suite's authentication; yields the address."""
    servicers = [
        (job_service_pb2_grpc.add_JobServiceServicer_to_server, jobs, JOBS.full_name),
        (lease_service_pb2_grpc.add_LeaseServiceServicer_to_server, Leases(), LEASES.full_name),
    ]
    async with serving(
        "127.0.0.1:0", servicers, authenticator=NoAuthentication(TOKEN), drain_seconds=1, **options
    ) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
async def jobs():
    return Jobs()


@pytest.fixture
async def address(jobs: Jobs) -> AsyncIterator[str]:
    async with serve(jobs) as address:
        yield address


@pytest.fixture
async def stub(address: str) -> AsyncIterator[Any]:
    """A stub of an external caller: a plain channel."""
    async with aio.insecure_channel(address) as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel)


def status_of(error: aio.AioRpcError) -> status_pb2.Status:
    """Return the google.rpc.Status in the trailing metadata of *error*."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    return status_pb2.Status.FromString(details)


def reason_of(error: aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status_of(error).details[0].Unpack(info)
    return info.reason


async def test_error_of_a_call(stub: Any):
    """An expected error reaches the caller with its code, its text and its details."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/missing"))
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND
    assert failure.value.details() == "jobs/missing does not exist"
    assert reason_of(failure.value) == "RESOURCE_NOT_FOUND"


async def test_error_of_a_stream(stub: Any):
    """A stream that fails after its first message ends with the same details."""
    call = stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/missing"))
    assert isinstance(await call.read(), job_service_pb2.WatchJobResponse)
    with pytest.raises(aio.AioRpcError) as failure:
        await call.read()
    assert reason_of(failure.value) == "RESOURCE_NOT_FOUND"


async def test_unexpected_error_is_hidden(stub: Any, caplog: pytest.LogCaptureFixture):
    """The text of a bug stays in the log; the caller gets the request id under which it is logged."""
    metadata = [("x-request-id", "req-7")]
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/bug"), metadata=metadata)
    assert failure.value.code() == grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(status_of(failure.value)) + str(failure.value.details())
    assert errors.from_status(status_of(failure.value)).metadata == {"requestId": "req-7"}
    assert "hunter2" in caplog.text


async def test_method_without_code(stub: Any):
    """An RPC without code answers UNIMPLEMENTED and names itself."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ListJobs(job_service_pb2.ListJobsRequest())
    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
    error = errors.from_status(status_of(failure.value))
    assert error.reason == ErrorReason.METHOD_UNSUPPORTED
    assert error.metadata == {"method": "reelhaul.jobs.v1.JobService/ListJobs"}


async def test_streaming_method_without_code(stub: Any):
    """A streaming RPC without code answers UNIMPLEMENTED too."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.WatchJobs(job_service_pb2.WatchJobsRequest()).read()
    assert reason_of(failure.value) == "METHOD_UNSUPPORTED"


async def test_clients_deadline(stub: Any):
    """A call ends at the client's deadline if it is the shorter one."""
    started = time.monotonic()
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/slow"), timeout=0.2)
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 5


async def test_policys_deadline(stub: Any, monkeypatch: pytest.MonkeyPatch):
    """A call without a deadline, or with a longer one, ends at its policy's."""
    monkeypatch.setattr("reelhaul_runtime.rpc.interceptor.max_deadline_seconds", lambda path: 0.1)
    for timeout in (None, 60):
        with pytest.raises(aio.AioRpcError) as failure:
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/slow"), timeout=timeout)
        assert reason_of(failure.value) == "REQUEST_TIMED_OUT"
    call = stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/slow"))
    await call.read()
    with pytest.raises(aio.AioRpcError) as failure:
        await call.read()
    assert reason_of(failure.value) == "REQUEST_TIMED_OUT"


async def test_internal_calls_require_the_suite_token(address: str):
    """Claim is refused without the suite token and with a wrong one."""
    for token, allowed in (("", False), ("wrong", False), (TOKEN, True)):
        async with channels.open_channel(address, [LEASES], suite_token=token) as channel:
            stub = lease_service_pb2_grpc.LeaseServiceStub(channel)
            if allowed:
                await stub.Claim(lease_service_pb2.ClaimRequest())
                continue
            with pytest.raises(aio.AioRpcError) as failure:
                await stub.Claim(lease_service_pb2.ClaimRequest())
            assert failure.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert reason_of(failure.value) == "PERMISSION_INSUFFICIENT"


async def test_empty_token_is_not_the_suite_token():
    """If a suite token is configured, a request without one, or with an empty one, is external."""
    assert not await is_of_the_suite(NoAuthentication(TOKEN), {})
    assert not await is_of_the_suite(NoAuthentication(TOKEN), {SUITE_TOKEN_KEY: ""})
    assert await is_of_the_suite(NoAuthentication(TOKEN), {SUITE_TOKEN_KEY: TOKEN.encode()})


async def test_without_a_suite_token_nobody_is_of_the_suite():
    """Without a suite token no credential, not even an empty one, opens internal RPCs."""
    assert not await is_of_the_suite(NoAuthentication(""), {})
    assert not await is_of_the_suite(NoAuthentication(""), {SUITE_TOKEN_KEY: ""})


async def test_forwarded_calls_are_not_of_the_suite():
    """A call that a gateway with keys passes on is its client's, also at a service without authentication."""
    metadata: dict[str, str | bytes] = {SUITE_TOKEN_KEY: TOKEN, FORWARDED_KEY: "1"}
    assert not await is_of_the_suite(NoAuthentication(TOKEN), metadata)


async def is_of_the_suite(authenticator: NoAuthentication, metadata: dict[str, str | bytes]) -> bool:
    """Return whether *authenticator* identifies the sender of *metadata* as a service."""
    peer = authenticator.identify_peer(metadata, "ipv4:127.0.0.1:1", dict)
    return (await authenticator.identify(metadata, peer)).suite


async def test_servicer_knows_the_caller(stub: Any, jobs: Jobs):
    """With authentication off every caller is the local tenant, and none is the suite."""
    await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    assert (jobs.last_call["caller"].tenant, jobs.last_call["caller"].suite) == ("local", False)


async def test_request_id_and_trace_are_forwarded():
    """A caller's request id and trace reach the service behind the first one."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    upstream = Jobs()
    async with AsyncExitStack() as stack:
        upstream_address = await stack.enter_async_context(serve(upstream))
        inner = await stack.enter_async_context(
            channels.open_channel(upstream_address, [JOBS], suite_token=TOKEN)
        )
        front = Jobs(job_service_pb2_grpc.JobServiceStub(inner))
        front_address = await stack.enter_async_context(serve(front))
        outer = await stack.enter_async_context(aio.insecure_channel(front_address))
        await job_service_pb2_grpc.JobServiceStub(outer).GetJob(
            job_service_pb2.GetJobRequest(name="jobs/1"),
            metadata=[("x-request-id", "req-1"), ("traceparent", trace)],
        )
    assert upstream.last_call["request_id"] == "req-1"
    assert upstream.last_call["traceparent"] == trace
    assert upstream.last_call["caller"].suite is True


async def test_request_without_an_id_gets_one(stub: Any, jobs: Jobs):
    """A request without an id gets a new one; no two are the same."""
    await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    first = jobs.last_call["request_id"]
    await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    assert first
    assert first != jobs.last_call["request_id"]


@pytest.mark.parametrize("sent", ["x" * 5000, "two words", ""])
async def test_invalid_request_ids_are_replaced(stub: Any, jobs: Jobs, sent: str):
    """A request id that would inflate or break the log is replaced by a new one."""
    await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), metadata=[("x-request-id", sent)])
    assert jobs.last_call["request_id"] != sent
    assert 0 < len(jobs.last_call["request_id"]) <= 128


async def test_error_of_a_peer():
    """An error of another service is raised as the same error here."""
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serve(Jobs()))
        channel = await stack.enter_async_context(channels.open_channel(address, [JOBS]))
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(errors.ReelhaulError) as failure, channels.status_as_errors("jobs"):
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/missing"))
    assert failure.value.reason == ErrorReason.RESOURCE_NOT_FOUND
    assert failure.value.metadata == {"resource": "jobs/missing"}


async def test_unavailable_peer_is_named():
    """If nobody listens, the error names the service that does not answer."""
    async with channels.open_channel("127.0.0.1:1", [JOBS]) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(errors.ReelhaulError) as failure, channels.status_as_errors("jobs"):
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    assert failure.value.reason == ErrorReason.SERVICE_UNAVAILABLE
    assert failure.value.metadata == {"service": "jobs"}


def test_internal_error_of_grpc():
    """INTERNAL without details means that the peer died during the call; with details it is the service's."""
    core = aio.AioRpcError(
        grpc.StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(), "Internal error from Core"
    )
    assert channels.error_from_rpc(core, "storage").reason == ErrorReason.SERVICE_UNAVAILABLE
    details = errors.to_status(errors.ReelhaulError(ErrorReason.INTERNAL_ERROR, "a bug")).SerializeToString()
    bug = aio.AioRpcError(
        grpc.StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(("grpc-status-details-bin", details)), "a bug"
    )
    assert channels.error_from_rpc(bug, "storage").reason == ErrorReason.INTERNAL_ERROR


def test_cancelled_by_a_stopping_server():
    """A call that gRPC cancels because the server stops counts as unavailable."""
    cancelled = aio.AioRpcError(grpc.StatusCode.CANCELLED, aio.Metadata(), aio.Metadata(), "CANCELLED")
    assert channels.error_from_rpc(cancelled, "jobs").reason == ErrorReason.SERVICE_UNAVAILABLE


async def test_only_idempotent_methods_are_retried(address: str, jobs: Jobs):
    """GetJob is sent up to four times while it fails with UNAVAILABLE; CreateJob once."""
    async with channels.open_channel(address, [JOBS]) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(aio.AioRpcError):
            await stub.CreateJob(job_service_pb2.CreateJobRequest())
        assert jobs.calls == 1
        with pytest.raises(aio.AioRpcError):
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/unavailable"))
    assert jobs.calls == 1 + 4


async def test_errors_of_sites_are_not_retried(address: str, jobs: Jobs):
    """A site that asks to slow down is not called four times: only our own services are retried."""
    async with channels.open_channel(address, [JOBS]) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as failure:
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/throttled"))
    assert channels.error_from_rpc(failure.value, "jobs").reason == ErrorReason.UPSTREAM_THROTTLED
    assert jobs.calls == 1


async def test_default_timeout(address: str, jobs: Jobs):
    """Through our channel a call without a timeout has its policy's deadline, otherwise its own."""
    async with channels.open_channel(address, [JOBS]) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
        # grpc rounds deadlines up on the wire.
        assert 8 < jobs.last_call["seconds"] < 11
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), timeout=2)
        assert jobs.last_call["seconds"] <= 2.5


async def test_health_and_reflection(address: str):
    """Health answers Check and Watch, reflection lists the services, both without a credential."""
    async with aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        liveness = await health.Check(health_pb2.HealthCheckRequest())
        assert liveness.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        assert {JOBS.full_name, LEASES.full_name, "grpc.health.v1.Health"} <= listed


async def test_readiness_follows_the_checks():
    """A failing check turns its component and the services NOT_SERVING, but not liveness."""
    broken = asyncio.Event()

    async def database() -> None:
        if broken.is_set():
            raise ConnectionError("gone")

    async def fine() -> None:
        return

    async with AsyncExitStack() as stack:
        checks = {"jobs.database": database, "jobs.nats": fine}
        address = await stack.enter_async_context(serve(Jobs(), checks=checks))
        channel = await stack.enter_async_context(aio.insecure_channel(address))
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=JOBS.full_name))
        serving_, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        while (await watch.read()).status != serving_:
            pass
        broken.set()
        assert (await watch.read()).status == not_serving
        for name, expected in (("", serving_), ("jobs.database", not_serving), ("jobs.nats", serving_)):
            response = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert response.status == expected, name
        watch.cancel()


async def test_informational_check_does_not_affect_readiness():
    """A failing informational check turns its own name NOT_SERVING and no other."""

    async def disk_is_full() -> None:
        raise OSError("no space")

    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(
            serve(Jobs(), informational_checks={"jobs.disk": disk_is_full})
        )
        channel = await stack.enter_async_context(aio.insecure_channel(address))
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="jobs.disk"))
        while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            pass
        watch.cancel()
        response = await health.Check(health_pb2.HealthCheckRequest(service=JOBS.full_name))
        assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_port_in_use(address: str):
    """A second server at the same address fails to start, instead of getting half of the calls."""
    with pytest.raises(AddressUnavailable, match="used by another process"):
        async with serving(address, [], authenticator=NoAuthentication("")):
            pass


async def test_running_calls_end_before_the_server():
    """A call that runs when the server stops is answered."""
    jobs = Jobs()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        entered.set()
        await go_on.wait()
        return job_pb2.Job(name="jobs/answered")

    jobs.GetJob = slow  # type: ignore[method-assign]

    async def end_streams() -> None:
        go_on.set()

    async with AsyncExitStack() as stack:
        async with serve(jobs, on_drain=end_streams) as address:
            channel = await stack.enter_async_context(aio.insecure_channel(address))
            stub = job_service_pb2_grpc.JobServiceStub(channel)
            call = stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
            await entered.wait()
        assert (await call).name == "jobs/answered"


def test_calls_are_logged(caplog: pytest.LogCaptureFixture):
    """Each call of a client is one line with its status, its reason and its time."""

    async def one_call() -> None:
        async with serve(Jobs()) as address, aio.insecure_channel(address) as channel:
            with pytest.raises(aio.AioRpcError):
                await job_service_pb2_grpc.JobServiceStub(channel).GetJob(
                    job_service_pb2.GetJobRequest(name="jobs/missing")
                )

    with caplog.at_level(logging.INFO, logger="reelhaul_runtime.rpc.access"):
        asyncio.run(one_call())
    (line,) = [record for record in caplog.records if record.getMessage() == "rpc"]
    assert vars(line)["rpc"] == "/reelhaul.jobs.v1.JobService/GetJob"
    assert (vars(line)["code"], vars(line)["reason"]) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")
    assert vars(line)["milliseconds"] >= 0


class _CreatingJobs(Jobs):
    async def CreateJob(self, request, context):
        return job_pb2.Job(name="jobs/01a229d4-ae23-7c2d-bb11-8768a370183d")


async def test_of_calls_of_a_gateway_creations_are_logged(caplog: pytest.LogCaptureFixture):
    """The gateway's own line is about the same request, but it does not know the job that one creates."""
    metadata = ((SUITE_TOKEN_KEY, TOKEN), (FORWARDED_KEY, "1"))
    with caplog.at_level(logging.INFO, logger="reelhaul_runtime.rpc.access"):
        async with serve(_CreatingJobs()) as address, aio.insecure_channel(address) as channel:
            stub = job_service_pb2_grpc.JobServiceStub(channel)
            created = await stub.CreateJob(job_service_pb2.CreateJobRequest(), metadata=metadata)
            await stub.GetJob(job_service_pb2.GetJobRequest(name=created.name), metadata=metadata)
    lines = [record for record in caplog.records if record.getMessage() == "rpc"]
    assert [vars(line)["rpc"] for line in lines] == ["/reelhaul.jobs.v1.JobService/CreateJob"]


def test_service_config():
    """The retry policy names the idempotent methods and no other."""
    config = json.loads(json.dumps(channels.service_config([JOBS])))
    methods = {name["method"] for name in config["methodConfig"][0]["name"]}
    assert "GetJob" in methods
    assert "CreateJob" not in methods
    balanced = channels.service_config([JOBS], balance=True)
    assert balanced["loadBalancingConfig"] == [{"round_robin": {}}]
    assert balanced["healthCheckConfig"] == {"serviceName": "reelhaul.jobs.v1.JobService"}
    assert "loadBalancingConfig" not in config


def test_experiment_of_grpc_is_known():
    """gRPC still has the experiment that services turn off; it says so at the start if it has not."""

    def connect(experiments: str) -> str:
        code = "import grpc; grpc.insecure_channel('127.0.0.1:9').close()"
        environment = os.environ | {"GRPC_EXPERIMENTS": experiments}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr

    assert "event_engine" not in connect(GRPC_EXPERIMENTS)
    assert "event_engine_of_old" in connect("-event_engine_of_old")
