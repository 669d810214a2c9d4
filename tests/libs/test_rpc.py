"""The door and the channels: two real servers on loopback, and what passes between them."""

from __future__ import annotations

import asyncio
import json
import logging
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
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.rpc.server import serving

TOKEN = "the suite's own"
JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
LEASES = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    """Does what the job's name says."""

    def __init__(self, next_door: Any = None) -> None:
        self.calls = 0
        self.seen: dict[str, Any] = {}
        self.next_door = next_door

    async def GetJob(self, request, context):
        self.calls += 1
        self.seen = {
            "request_id": logs.request_id.get(),
            "traceparent": logs.traceparent.get(),
            "seconds": context.time_remaining(),
            "caller": identity.caller(),
        }
        if self.next_door is not None:
            with channels.status_as_errors("next door"):
                return await self.next_door.GetJob(request)
        if request.name == "jobs/missing":
            raise errors.NotFound(request.name)
        if request.name == "jobs/bug":
            raise RuntimeError("the password is hunter2")
        if request.name == "jobs/slow":
            await asyncio.sleep(60)
        if request.name == "jobs/away":
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
async def served(jobs: Jobs, **options: Any) -> AsyncIterator[str]:
    """The address of a server with *jobs* and leases behind the suite's door."""
    servicers = [
        (job_service_pb2_grpc.add_JobServiceServicer_to_server, jobs, JOBS.full_name),
        (lease_service_pb2_grpc.add_LeaseServiceServicer_to_server, Leases(), LEASES.full_name),
    ]
    door = NoAuthentication(TOKEN)
    async with serving("127.0.0.1:0", servicers, authenticator=door, drain_seconds=1, **options) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
async def jobs():
    return Jobs()


@pytest.fixture
async def address(jobs: Jobs) -> AsyncIterator[str]:
    async with served(jobs) as place:
        yield place


@pytest.fixture
async def stub(address: str) -> AsyncIterator[Any]:
    """A stub as a stranger has it: a bare channel."""
    async with aio.insecure_channel(address) as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel)


def status_of(error: aio.AioRpcError) -> status_pb2.Status:
    """The google.rpc.Status that came with *error*."""
    found = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(found, bytes)
    return status_pb2.Status.FromString(found)


def reason_of(error: aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status_of(error).details[0].Unpack(info)
    return info.reason


async def test_failure_of_a_call_is_told(stub: Any):
    """A named failure reaches the caller with its code, its words and its details."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/missing"))
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND
    assert failure.value.details() == "jobs/missing does not exist"
    assert reason_of(failure.value) == "RESOURCE_NOT_FOUND"


async def test_failure_of_a_stream_is_told(stub: Any):
    """A stream that fails after its first message ends with the same details."""
    call = stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/missing"))
    assert isinstance(await call.read(), job_service_pb2.WatchJobResponse)
    with pytest.raises(aio.AioRpcError) as failure:
        await call.read()
    assert reason_of(failure.value) == "RESOURCE_NOT_FOUND"


async def test_unnamed_failure_is_hidden(stub: Any, caplog: pytest.LogCaptureFixture):
    """A bug's words stay here: the caller gets a request id, the log has the rest under it."""
    metadata = [("x-request-id", "req-7")]
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/bug"), metadata=metadata)
    assert failure.value.code() == grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(status_of(failure.value)) + str(failure.value.details())
    assert errors.from_status(status_of(failure.value)).metadata == {"requestId": "req-7"}
    assert "hunter2" in caplog.text


async def test_method_that_is_left_out(stub: Any):
    """An RPC without code answers UNIMPLEMENTED and names itself."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ListJobs(job_service_pb2.ListJobsRequest())
    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
    told = errors.from_status(status_of(failure.value))
    assert told.reason == ErrorReason.METHOD_UNSUPPORTED
    assert told.metadata == {"method": "reelhaul.jobs.v1.JobService/ListJobs"}


async def test_stream_that_is_left_out(stub: Any):
    """A streaming RPC without code answers UNIMPLEMENTED too."""
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.WatchJobs(job_service_pb2.WatchJobsRequest()).read()
    assert reason_of(failure.value) == "METHOD_UNSUPPORTED"


async def test_clients_deadline_holds(stub: Any):
    """A call ends at the client's deadline where that is the shorter one."""
    begun = time.monotonic()
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/slow"), timeout=0.2)
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 5


async def test_policys_deadline_holds(stub: Any, monkeypatch: pytest.MonkeyPatch):
    """A call without a deadline, or with a longer one, ends at its policy's."""
    monkeypatch.setattr("reelhaul_runtime.rpc.interceptor.max_deadline_of", lambda path: 0.1)
    for timeout in (None, 60):
        with pytest.raises(aio.AioRpcError) as failure:
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/slow"), timeout=timeout)
        assert reason_of(failure.value) == "REQUEST_TIMED_OUT"
    call = stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/slow"))
    await call.read()
    with pytest.raises(aio.AioRpcError) as failure:
        await call.read()
    assert reason_of(failure.value) == "REQUEST_TIMED_OUT"


async def test_internal_calls_need_the_suites_credential(address: str):
    """Claim is refused to a stranger and to a wrong token, and served to the suite."""
    for token, served_ in (("", False), ("wrong", False), (TOKEN, True)):
        async with channels.open_channel(address, [LEASES], suite_token=token) as channel:
            stub = lease_service_pb2_grpc.LeaseServiceStub(channel)
            if served_:
                await stub.Claim(lease_service_pb2.ClaimRequest())
                continue
            with pytest.raises(aio.AioRpcError) as failure:
                await stub.Claim(lease_service_pb2.ClaimRequest())
            assert failure.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert reason_of(failure.value) == "PERMISSION_INSUFFICIENT"


async def test_without_a_token_nothing_is_internal_to_strangers():
    """The suite is known by its token; an empty one in the request is no proof where one is set."""
    door = NoAuthentication(TOKEN)
    assert (await door.identify({})).suite is False
    assert (await door.identify({identity.SUITE_TOKEN_KEY: ""})).suite is False
    assert (await door.identify({identity.SUITE_TOKEN_KEY: TOKEN.encode()})).suite is True


async def test_caller_is_known_to_the_servicer(stub: Any, jobs: Jobs):
    """With authentication off every caller is the local tenant, and none is the suite."""
    await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    assert (jobs.seen["caller"].tenant, jobs.seen["caller"].suite) == ("local", False)


async def test_request_id_and_trace_go_along():
    """What a caller sends as request id and trace reaches the service behind the first."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    behind = Jobs()
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(served(behind))
        between = await stack.enter_async_context(channels.open_channel(place, [JOBS], suite_token=TOKEN))
        front = Jobs(job_service_pb2_grpc.JobServiceStub(between))
        door = await stack.enter_async_context(served(front))
        outside = await stack.enter_async_context(aio.insecure_channel(door))
        await job_service_pb2_grpc.JobServiceStub(outside).GetJob(
            job_service_pb2.GetJobRequest(name="jobs/1"),
            metadata=[("x-request-id", "req-1"), ("traceparent", trace)],
        )
    assert behind.seen["request_id"] == "req-1"
    assert behind.seen["traceparent"] == trace
    assert behind.seen["caller"].suite is True


async def test_request_without_an_id_gets_one(stub: Any, jobs: Jobs):
    """Each request has an id, made at the door where the caller sent none; two are never one."""
    await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    first = jobs.seen["request_id"]
    await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    assert first
    assert first != jobs.seen["request_id"]


@pytest.mark.parametrize("sent", ["x" * 5000, "two words", ""])
async def test_odd_request_ids_are_not_taken_over(stub: Any, jobs: Jobs, sent: str):
    """A request id that would swell or break the log is replaced by one of ours."""
    await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), metadata=[("x-request-id", sent)])
    assert jobs.seen["request_id"] != sent
    assert 0 < len(jobs.seen["request_id"]) <= 128


async def test_failure_behind_is_the_same_in_front():
    """A failure of the service behind is raised in front as what it was."""
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(served(Jobs()))
        channel = await stack.enter_async_context(channels.open_channel(place, [JOBS]))
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(errors.ReelhaulError) as failure, channels.status_as_errors("jobs"):
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/missing"))
    assert failure.value.reason == ErrorReason.RESOURCE_NOT_FOUND
    assert failure.value.metadata == {"resource": "jobs/missing"}


async def test_service_that_is_away_is_named():
    """Where nobody listens the failure says which service does not answer."""
    async with channels.open_channel("127.0.0.1:1", [JOBS]) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(errors.ReelhaulError) as failure, channels.status_as_errors("jobs"):
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    assert failure.value.reason == ErrorReason.SERVICE_UNAVAILABLE
    assert failure.value.metadata == {"service": "jobs"}


def test_internal_error_of_grpc():
    """INTERNAL says that the peer died while it was sent to, unless the service itself tells its details."""
    said = aio.AioRpcError(
        grpc.StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(), "Internal error from Core"
    )
    assert channels.error_from_rpc(said, "storage").reason == ErrorReason.SERVICE_UNAVAILABLE
    own = errors.to_status(errors.ReelhaulError(ErrorReason.INTERNAL_ERROR, "a bug")).SerializeToString()
    told = aio.AioRpcError(
        grpc.StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(("grpc-status-details-bin", own)), "a bug"
    )
    assert channels.error_from_rpc(told, "storage").reason == ErrorReason.INTERNAL_ERROR


def test_cancelled_by_a_server_that_leaves():
    """What gRPC cancels because the server is stopped has not been answered by the service."""
    said = aio.AioRpcError(grpc.StatusCode.CANCELLED, aio.Metadata(), aio.Metadata(), "CANCELLED")
    assert channels.error_from_rpc(said, "jobs").reason == ErrorReason.SERVICE_UNAVAILABLE


async def test_only_safe_methods_are_tried_again(address: str, jobs: Jobs):
    """GetJob is sent up to four times while the answer is UNAVAILABLE; CreateJob once."""
    async with channels.open_channel(address, [JOBS]) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(aio.AioRpcError):
            await stub.CreateJob(job_service_pb2.CreateJobRequest())
        assert jobs.calls == 1
        with pytest.raises(aio.AioRpcError):
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/away"))
    assert jobs.calls == 1 + 4


async def test_what_a_site_says_is_not_asked_again(address: str, jobs: Jobs):
    """A site that asks to slow down is not asked four times: only our own services are tried again."""
    async with channels.open_channel(address, [JOBS]) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as failure:
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/throttled"))
    assert channels.error_from_rpc(failure.value, "jobs").reason == ErrorReason.UPSTREAM_THROTTLED
    assert jobs.calls == 1


async def test_calls_without_a_timeout_take_their_policys(address: str, jobs: Jobs):
    """Through our channel a call without a timeout has its policy's deadline; its own where given."""
    async with channels.open_channel(address, [JOBS]) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
        # grpc rounds deadlines up on the wire.
        assert 8 < jobs.seen["seconds"] < 11
        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), timeout=2)
        assert jobs.seen["seconds"] <= 2.5


async def test_health_and_reflection_pass_untouched(address: str):
    """Health answers Check and Watch, reflection lists the services, both without a credential."""
    async with aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        alive = await health.Check(health_pb2.HealthCheckRequest())
        assert alive.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        mirror = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        listed = {each.name for each in (await mirror.read()).list_services_response.service}
        assert {JOBS.full_name, LEASES.full_name, "grpc.health.v1.Health"} <= listed


async def test_readiness_follows_the_checks():
    """A check that fails turns its component and the services NOT_SERVING; liveness stays."""
    broken = asyncio.Event()

    async def database() -> None:
        if broken.is_set():
            raise ConnectionError("gone")

    async def fine() -> None:
        return

    async with AsyncExitStack() as stack:
        checks = {"jobs.database": database, "jobs.nats": fine}
        address = await stack.enter_async_context(served(Jobs(), checks=checks))
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
            told = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert told.status == expected, name
        watch.cancel()


async def test_a_remark_leaves_readiness_alone():
    """A remark that fails turns its own name NOT_SERVING and no other."""

    async def short() -> None:
        raise OSError("no space")

    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(served(Jobs(), remarks={"jobs.disk": short}))
        channel = await stack.enter_async_context(aio.insecure_channel(address))
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="jobs.disk"))
        while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            pass
        watch.cancel()
        told = await health.Check(health_pb2.HealthCheckRequest(service=JOBS.full_name))
        assert told.status == health_pb2.HealthCheckResponse.SERVING


async def test_taken_port_is_refused(address: str):
    """A second server at the same address is refused, not silently given half of the calls."""
    with pytest.raises(RuntimeError):
        async with serving(address, [], authenticator=NoAuthentication("")):
            pass


async def test_leaving_lets_calls_end():
    """A call in hand when the server leaves is answered; a new one is not taken."""
    jobs = Jobs()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        entered.set()
        await go_on.wait()
        return job_pb2.Job(name="jobs/answered")

    jobs.GetJob = slow  # type: ignore[method-assign]

    async def end_of_streams() -> None:
        go_on.set()

    async with AsyncExitStack() as stack:
        async with served(jobs, draining=end_of_streams) as address:
            channel = await stack.enter_async_context(aio.insecure_channel(address))
            stub = job_service_pb2_grpc.JobServiceStub(channel)
            call = stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
            await entered.wait()
        assert (await call).name == "jobs/answered"


def test_every_call_is_noted_in_the_log(caplog: pytest.LogCaptureFixture):
    """At DEBUG each call is one line with its outcome and its time."""

    async def one_call() -> None:
        async with served(Jobs()) as address, aio.insecure_channel(address) as channel:
            with pytest.raises(aio.AioRpcError):
                await job_service_pb2_grpc.JobServiceStub(channel).GetJob(
                    job_service_pb2.GetJobRequest(name="jobs/missing")
                )

    with caplog.at_level(logging.DEBUG, logger="reelhaul_runtime.rpc.interceptor"):
        asyncio.run(one_call())
    (line,) = [record for record in caplog.records if record.getMessage() == "rpc"]
    assert vars(line)["rpc"] == "/reelhaul.jobs.v1.JobService/GetJob"
    assert vars(line)["outcome"] == "RESOURCE_NOT_FOUND"


def test_service_config_is_json():
    """The retry policy that gRPC is given names exactly the methods that may be repeated."""
    config = json.loads(json.dumps(channels.service_config([JOBS])))
    methods = {each["method"] for each in config["methodConfig"][0]["name"]}
    assert "GetJob" in methods
    assert "CreateJob" not in methods
