"""Malformed protobuf is the caller's error, whichever RPC it is sent to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tests.gateway.fake_services import SUITE_TOKEN, FakeJobs, FakeStorage

from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.storage.v1 import storage_service_pb2, storage_service_pb2_grpc
from reelhaul_runtime.auth.peers import SUITE_TOKEN_KEY
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.server import serving

#: A field of two bytes that ends after one.
MALFORMED = b"\x0a\x02x"
#: A string that is not UTF-8.
NOT_UTF8 = b"\x0a\x01\xff"
JOBS, STORAGE = "/reelhaul.jobs.v1.JobService/", "/reelhaul.storage.v1.StorageService/"
HEALTH, REFLECTION = "/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/"
METADATA = ((SUITE_TOKEN_KEY, SUITE_TOKEN),)


@pytest.fixture
async def channel() -> AsyncIterator[aio.Channel]:
    """A channel without serializers to a server with every kind of RPC."""
    servicers = [
        (job_service_pb2_grpc.add_JobServiceServicer_to_server, FakeJobs(), "reelhaul.jobs.v1.JobService"),
        (
            storage_service_pb2_grpc.add_StorageServiceServicer_to_server,
            FakeStorage(),
            "reelhaul.storage.v1.StorageService",
        ),
    ]
    async with (
        serving(
            "127.0.0.1:0", servicers, authenticator=NoAuthentication(SUITE_TOKEN), drain_seconds=0
        ) as port,
        aio.insecure_channel(f"127.0.0.1:{port}") as opened,
    ):
        yield opened


async def call(channel: aio.Channel, kind: str, path: str, message: bytes) -> bytes:
    """Send one message; return the first message of the response."""
    method = getattr(channel, kind)(path)
    request = iter([message]) if kind.startswith("stream") else message
    response = method(request, metadata=METADATA, timeout=10)
    if kind.endswith("unary"):
        return await response
    return await anext(aiter(response))


@pytest.mark.parametrize("message", [MALFORMED, NOT_UTF8, b"\xff" * 1000])
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("unary_unary", JOBS + "GetJob"),
        ("unary_stream", JOBS + "WatchJob"),
        ("stream_unary", STORAGE + "WriteArtifact"),
        ("unary_unary", HEALTH + "Check"),
        ("unary_stream", HEALTH + "Watch"),
        ("stream_stream", REFLECTION + "ServerReflectionInfo"),
    ],
)
async def test_malformed_message_is_invalid_argument(channel, caplog, kind, path, message) -> None:
    """The status is INVALID_ARGUMENT; it names no Python class, and nothing is logged as an error."""
    if path.startswith(REFLECTION) and message == NOT_UTF8:
        message = b"\x1a\x01\xff"
    with pytest.raises(aio.AioRpcError) as failure:
        await call(channel, kind, path, message)
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = failure.value.details() or ""
    assert details == "request: must be a valid protobuf message"
    status = status_pb2.Status.FromString(dict(failure.value.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert info.reason == "FIELD_INVALID"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_valid_messages_are_accepted(channel) -> None:
    """Every kind of RPC still answers valid messages, those with unknown fields included."""
    job = job_service_pb2.GetJobRequest(name="jobs/018f").SerializeToString()
    assert (
        job_pb2.Job.FromString(await call(channel, "unary_unary", JOBS + "GetJob", job)).name == "jobs/018f"
    )
    unknown_field = b"\xfa\x7f\x01x"
    watch = job_service_pb2.WatchJobRequest(name="jobs/018f").SerializeToString() + unknown_field
    await call(channel, "unary_stream", JOBS + "WatchJob", watch)
    chunk = storage_service_pb2.WriteArtifactRequest(upload="uploads/1", content=b"abc").SerializeToString()
    written = await call(channel, "stream_unary", STORAGE + "WriteArtifact", chunk)
    assert storage_service_pb2.WriteArtifactResponse.FromString(written).persisted_size == 3
    for kind, method in (("unary_unary", "Check"), ("unary_stream", "Watch")):
        health = await call(channel, kind, HEALTH + method, b"")
        assert health_pb2.HealthCheckResponse.FromString(health).status
    services = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
    assert await call(channel, "stream_stream", REFLECTION + "ServerReflectionInfo", services)
