"""Clients of the other services over gRPC: storage keeps artifacts, the fetcher probes media."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from google.protobuf import field_mask_pb2
from grpc import aio

from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.storage.v1 import (
    artifact_pb2,
    destination_service_pb2,
    destination_service_pb2_grpc,
    storage_service_pb2,
    storage_service_pb2_grpc,
)
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import identity
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import status_as_errors

STORAGE_SERVICE = storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"]
FETCHER_SERVICE = fetcher_service_pb2.DESCRIPTOR.services_by_name["FetcherService"]

_STORAGE_SECONDS = 10
_DELETION_SECONDS = 60
_PROBE_SECONDS = 50
_MAX_ENTRIES = 1000
_GONE = frozenset({ErrorReason.RESOURCE_NOT_FOUND, ErrorReason.ARTIFACT_EXPIRED})


class RemoteStorage:
    """Implements the Storage port over gRPC."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = storage_service_pb2_grpc.StorageServiceStub(channel)
        self._destinations = destination_service_pb2_grpc.DestinationServiceStub(channel)

    async def set_expire_time(self, artifact: str, expire_time: datetime) -> None:
        message = artifact_pb2.Artifact(name=artifact)
        message.expire_time.FromDatetime(expire_time)
        mask = field_mask_pb2.FieldMask(paths=["expire_time"])
        request = storage_service_pb2.UpdateArtifactRequest(artifact=message, update_mask=mask)
        try:
            with status_as_errors("storage"):
                await self._stub.UpdateArtifact(request, timeout=_STORAGE_SECONDS)
        except ReelhaulError as error:
            if error.reason not in _GONE:
                raise

    async def has_destination(self, tenant: str, destination: str) -> bool:
        request = destination_service_pb2.GetDestinationRequest(name=destination, tenant=tenant)
        try:
            with status_as_errors("storage"):
                await self._destinations.GetDestination(request, timeout=_STORAGE_SECONDS)
        except ReelhaulError as error:
            if error.reason != ErrorReason.RESOURCE_NOT_FOUND:
                raise
            return False
        return True

    async def deliver(self, artifact: str, destination: str, tenant: str, object_name: str) -> str:
        request = destination_service_pb2.DeliverArtifactRequest(
            artifact=artifact, destination=destination, tenant=tenant, object_name=object_name
        )
        with status_as_errors("storage"):
            response: destination_service_pb2.DeliverArtifactResponse = (
                await self._destinations.DeliverArtifact(request)
            )
        return response.uri

    async def delete_artifacts(self, artifacts: Sequence[str]) -> None:
        for artifact in artifacts:
            request = storage_service_pb2.DeleteArtifactRequest(name=artifact, allow_missing=True)
            with status_as_errors("storage"):
                await self._stub.DeleteArtifact(request, timeout=_STORAGE_SECONDS)

    async def owns_resources(self, tenant: str) -> bool:
        request = storage_service_pb2.DeleteTenantResourcesRequest(tenant=tenant, validate_only=True)
        return await self._delete_resources(request)

    async def delete_resources(self, tenant: str) -> bool:
        return await self._delete_resources(storage_service_pb2.DeleteTenantResourcesRequest(tenant=tenant))

    async def _delete_resources(self, request: storage_service_pb2.DeleteTenantResourcesRequest) -> bool:
        with status_as_errors("storage"):
            response: storage_service_pb2.DeleteTenantResourcesResponse = (
                await self._stub.DeleteTenantResources(request, timeout=_DELETION_SECONDS)
            )
        return response.remaining


class RemoteProbe:
    """Implements the Probe port over gRPC."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = fetcher_service_pb2_grpc.FetcherServiceStub(channel)

    async def estimate(
        self, url: str, format_spec: media_pb2.FormatSpec, max_entries: int = 0
    ) -> tuple[media_pb2.MediaInfo, media_pb2.Estimate]:
        request = fetcher_service_pb2.ProbeMediaRequest(url=url, format=format_spec)
        if max_entries:
            # One more than wanted shows whether there are more; sites that count need no list.
            request.playlist, request.max_entries = True, min(max_entries + 1, _MAX_ENTRIES)
        response = await self.probe(request)
        if max_entries and response.estimate.job_count > max_entries:
            response.estimate.job_count = max_entries
            text = f"the list has more entries than the {max_entries} that become jobs"
            response.estimate.warnings.add(reason=media_pb2.Warning.ENTRIES_TRUNCATED, message=text)
        return response.media, response.estimate

    async def probe(
        self, request: fetcher_service_pb2.ProbeMediaRequest
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        request.tenant = identity.caller().tenant
        with status_as_errors("fetcher"):
            response: fetcher_service_pb2.ProbeMediaResponse = await self._stub.ProbeMedia(
                request, timeout=_PROBE_SECONDS
            )
        return response
