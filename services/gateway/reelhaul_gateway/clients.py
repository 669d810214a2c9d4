"""Clients of the other services: raw channels, upstreams with error reasons, health checks."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import code_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reelhaul.admin.v1 import api_key_service_pb2, api_key_service_pb2_grpc
from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2, storage_service_pb2_grpc, upload_pb2
from reelhaul.system.v1.system_service_pb2 import ServingStatus
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway.health import NOT_SERVING, SERVING, UNKNOWN
from reelhaul_runtime import errors
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.rpc.credentials import connecting
from reelhaul_transcoding.upstream import Call, UnaryResponse, Upstream, UpstreamError

_CHECK_SECONDS = 2.0
_PROBE_SECONDS = 10.0
#: Owns the artifact of the storage probe; no API key belongs to this tenant.
_PROBE_TENANT = "system"
_MAX_MESSAGE_BYTES = 32 << 20

# gRPC reports CANCELLED for a call that reaches a server which is shutting down. A client that
# disconnects gets no response, so CANCELLED here always means the server.
_UNAVAILABLE_CODES = (code_pb2.UNAVAILABLE, code_pb2.CANCELLED)
_MESSAGES = {
    code_pb2.DEADLINE_EXCEEDED: "the call passed its deadline",
    code_pb2.INTERNAL: "internal error",
    code_pb2.UNKNOWN: "internal error",
}


@asynccontextmanager
async def raw_channel(
    address: str, services: list[ServiceDescriptor], tls: TlsFiles | None = None
) -> AsyncIterator[aio.Channel]:
    """Open a channel for callers' requests: without interceptors, which cost, and without the suite token.

    If *address* may be of several servers, calls are distributed to those that are ready. With *tls* the
    connection uses TLS, as that of ``channels.open_channel``.
    """
    options: list[tuple[str, Any]] = [
        *channels.resolution_options(address, services),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 50),
        # Bounds how long readiness waits for a service that starts or restarts.
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.enable_http_proxy", 0),
    ]
    async with connecting(channels.to_target(address), options, tls) as channel:
        yield channel


class ReasonedUpstream:
    """An upstream whose errors all have a reason.

    Errors of the service itself have one. Errors without one come from gRPC, and their messages
    contain internal addresses.
    """

    def __init__(self, owner: str, inner: Upstream) -> None:
        self._owner, self._inner = owner, inner

    async def unary(self, call: Call) -> UnaryResponse:
        try:
            return await self._inner.unary(call)
        except UpstreamError as error:
            raise self._with_reason(error) from error

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._inner.stream(call)) as messages:
                async for message in messages:
                    yield message
        except UpstreamError as error:
            raise self._with_reason(error) from error

    def _with_reason(self, error: UpstreamError) -> UpstreamError:
        if error.status.details:
            return error
        code = error.status.code
        if code in _UNAVAILABLE_CODES:
            code = code_pb2.UNAVAILABLE
            failure: errors.ReelhaulError = errors.Unavailable(self._owner, f"{self._owner} does not answer")
        else:
            failure = errors.from_status(status_pb2.Status(code=code, message=_MESSAGES.get(code, "")))
        status = errors.to_status(failure)
        # The reason adds to gRPC's code and does not replace it.
        status.code = code
        status.message = status.message or error.status.message
        return UpstreamError(status, error.metadata, error.trailers)


class RemoteTickets:
    """TicketRedeemer that calls jobs."""

    def __init__(self, channel: aio.Channel) -> None:
        # The channel needs the suite token: only the suite may redeem tickets.
        self._jobs = api_key_service_pb2_grpc.ApiKeyServiceStub(channel)

    async def redeem(self, ticket: str) -> api_key_service_pb2.VerifyApiKeyResponse:
        request = api_key_service_pb2.RedeemTicketRequest(ticket=ticket)
        with channels.status_as_errors("jobs"):
            response: api_key_service_pb2.VerifyApiKeyResponse = await self._jobs.RedeemTicket(request)
        return response


class GrpcHealthChecker:
    """HealthChecker over grpc.health.v1, with one channel to each service."""

    def __init__(self, service_channels: Mapping[str, aio.Channel]) -> None:
        self._stubs = {
            owner: health_pb2_grpc.HealthStub(channel) for owner, channel in service_channels.items()
        }

    async def check(self, owner: str, health_name: str) -> ServingStatus.ValueType:
        request = health_pb2.HealthCheckRequest(service=health_name)
        try:
            response = await self._stubs[owner].Check(request, timeout=_CHECK_SECONDS)
        except aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return UNKNOWN
            raise errors.Unavailable(owner, f"{owner} does not answer") from error
        serving = response.status == health_pb2.HealthCheckResponse.SERVING
        return SERVING if serving else NOT_SERVING


class StorageHealthProbe:
    """StorageProbe over gRPC: a small artifact takes the path of every artifact."""

    def __init__(self, channel: aio.Channel) -> None:
        # The channel needs the suite token: only the suite may upload.
        self._storage = storage_service_pb2_grpc.StorageServiceStub(channel)

    async def probe(self) -> None:
        content = secrets.token_bytes(64)
        with channels.status_as_errors("storage"):
            artifact = await self._write(content)
            try:
                matches = content == await self._read(artifact.name)
            finally:
                request = storage_service_pb2.DeleteArtifactRequest(name=artifact.name, allow_missing=True)
                await self._storage.DeleteArtifact(request, timeout=_PROBE_SECONDS)
        if not matches:
            raise errors.ReelhaulError(
                ErrorReason.ARTIFACT_CORRUPT,
                "storage returned other bytes than were written",
                metadata={"resource": artifact.name},
            )

    async def get_status(self) -> storage_service_pb2.StorageStatus:
        request = storage_service_pb2.GetStorageStatusRequest()
        with channels.status_as_errors("storage"):
            return await self._storage.GetStorageStatus(request, timeout=_PROBE_SECONDS)

    async def _write(self, content: bytes) -> artifact_pb2.Artifact:
        draft = artifact_pb2.Artifact(
            file_name="health-check.bin", tenant=_PROBE_TENANT, ttl=duration_pb2.Duration(seconds=60)
        )
        checksums = media_pb2.Checksums(sha256=hashlib.sha256(content).digest())
        upload = await self._storage.CreateUpload(
            storage_service_pb2.CreateUploadRequest(
                upload=upload_pb2.Upload(artifact=draft, total_size=len(content)),
                expected_checksums=checksums,
            ),
            timeout=_PROBE_SECONDS,
        )
        chunk = storage_service_pb2.WriteArtifactRequest(upload=upload.name, content=content)
        await self._storage.WriteArtifact(iter([chunk]), timeout=_PROBE_SECONDS)
        finish = storage_service_pb2.FinishUploadRequest(name=upload.name, total_checksums=checksums)
        artifact: artifact_pb2.Artifact = await self._storage.FinishUpload(finish, timeout=_PROBE_SECONDS)
        return artifact

    async def _read(self, name: str) -> bytes:
        request = storage_service_pb2.ReadArtifactRequest(name=name)
        chunks = self._storage.ReadArtifact(request, timeout=_PROBE_SECONDS)
        return b"".join([chunk.content async for chunk in chunks])
