"""Checks of the suite's health over gRPC: what the services report, and a test of storage."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping

import grpc
from google.protobuf import duration_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2, storage_service_pb2_grpc, upload_pb2
from reelhaul.system.v1.system_service_pb2 import ServingStatus
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import errors
from reelhaul_runtime.identity import SYSTEM_TENANT
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.system.health import NOT_SERVING, SERVING, UNKNOWN

_CHECK_SECONDS = 2.0
_PROBE_SECONDS = 10.0


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
            file_name="health-check.bin", tenant=SYSTEM_TENANT, ttl=duration_pb2.Duration(seconds=60)
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
