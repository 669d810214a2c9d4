"""Clients: the other services, seen from the gateway."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2, storage_service_pb2_grpc, upload_pb2
from reelhaul.system.v1.system_service_pb2 import ServingStatus
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway import model
from reelhaul_runtime.errors import ReelhaulError, Unavailable
from reelhaul_runtime.rpc import channels

_CHECK_SECONDS = 2.0
_CANARY_SECONDS = 10.0
#: Whose artifact the canary writes: a tenant that no key belongs to.
_CANARY_TENANT = "system"
_MAX_MESSAGE = 32 << 20


@asynccontextmanager
async def raw_channel(address: str, services: list[ServiceDescriptor]) -> AsyncIterator[aio.Channel]:
    """A channel that passes callers' requests on: without interceptors, which cost, and without our token."""
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(channels.service_config(services))),
        ("grpc.max_receive_message_length", _MAX_MESSAGE),
        ("grpc.initial_reconnect_backoff_ms", 50),
        # Readiness waits for the last of them: at start and after a restart.
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.enable_http_proxy", 0),
    ]
    async with aio.insecure_channel(address, options) as opened:
        yield opened


class GrpcCheckup:
    """Health by grpc.health.v1, over one channel to each service."""

    def __init__(self, opened: Mapping[str, aio.Channel]) -> None:
        self._stubs = {owner: health_pb2_grpc.HealthStub(channel) for owner, channel in opened.items()}

    async def status(self, owner: str, health_name: str) -> ServingStatus.ValueType:
        """See Checkup.status."""
        request = health_pb2.HealthCheckRequest(service=health_name)
        try:
            answer = await self._stubs[owner].Check(request, timeout=_CHECK_SECONDS)
        except aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return model.UNKNOWN
            raise Unavailable(owner, f"{owner} does not answer") from error
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return model.SERVING if serving else model.NOT_SERVING


class StorageHealthProbe:
    """A small artifact that goes the way of all artifacts."""

    def __init__(self, channel: aio.Channel) -> None:
        # The channel carries the suite's token: uploads are for the suite alone.
        self._storage = storage_service_pb2_grpc.StorageServiceStub(channel)

    async def probe(self) -> None:
        """See Canary.sing."""
        content = secrets.token_bytes(64)
        with channels.status_as_errors("storage"):
            artifact = await self._written(content)
            try:
                same = content == await self._read(artifact.name)
            finally:
                request = storage_service_pb2.DeleteArtifactRequest(name=artifact.name, allow_missing=True)
                await self._storage.DeleteArtifact(request, timeout=_CANARY_SECONDS)
        if not same:
            raise ReelhaulError(
                ErrorReason.ARTIFACT_CORRUPT,
                "storage gave other bytes back than it was given",
                metadata={"resource": artifact.name},
            )

    async def _written(self, content: bytes) -> artifact_pb2.Artifact:
        asked = artifact_pb2.Artifact(
            file_name="health-check.bin", tenant=_CANARY_TENANT, ttl=duration_pb2.Duration(seconds=60)
        )
        checksums = media_pb2.Checksums(sha256=hashlib.sha256(content).digest())
        upload = await self._storage.CreateUpload(
            storage_service_pb2.CreateUploadRequest(
                upload=upload_pb2.Upload(artifact=asked, total_size=len(content)),
                expected_checksums=checksums,
            ),
            timeout=_CANARY_SECONDS,
        )
        chunk = storage_service_pb2.WriteArtifactRequest(upload=upload.name, content=content)
        await self._storage.WriteArtifact(iter([chunk]), timeout=_CANARY_SECONDS)
        finish = storage_service_pb2.FinishUploadRequest(name=upload.name, total_checksums=checksums)
        artifact: artifact_pb2.Artifact = await self._storage.FinishUpload(finish, timeout=_CANARY_SECONDS)
        return artifact

    async def _read(self, name: str) -> bytes:
        request = storage_service_pb2.ReadArtifactRequest(name=name)
        chunks = self._storage.ReadArtifact(request, timeout=_CANARY_SECONDS)
        return b"".join([chunk.content async for chunk in chunks])
