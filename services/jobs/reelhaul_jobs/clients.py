"""The neighbours, seen from here: storage keeps artifacts, the fetcher probes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from google.protobuf import field_mask_pb2
from grpc import aio

from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2, storage_service_pb2_grpc
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import identity
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import status_as_errors

STORAGE_SERVICE = storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"]
FETCHER_SERVICE = fetcher_service_pb2.DESCRIPTOR.services_by_name["FetcherService"]

_SECONDS = 10
_PROBE_SECONDS = 50
_MOST_LISTED = 1000
_GONE = frozenset({ErrorReason.RESOURCE_NOT_FOUND, ErrorReason.ARTIFACT_EXPIRED})


class RemoteStorage:
    """The Storage of ports, over gRPC."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = storage_service_pb2_grpc.StorageServiceStub(channel)

    async def set_expire_time(self, artifact: str, expire_time: datetime) -> None:
        """See Storage.keep_until."""
        kept = artifact_pb2.Artifact(name=artifact)
        kept.expire_time.FromDatetime(expire_time)
        mask = field_mask_pb2.FieldMask(paths=["expire_time"])
        request = storage_service_pb2.UpdateArtifactRequest(artifact=kept, update_mask=mask)
        try:
            with status_as_errors("storage"):
                await self._stub.UpdateArtifact(request, timeout=_SECONDS)
        except ReelhaulError as error:
            if error.reason not in _GONE:
                raise

    async def delete_artifacts(self, artifacts: Sequence[str]) -> None:
        """See Storage.delete."""
        for artifact in artifacts:
            request = storage_service_pb2.DeleteArtifactRequest(name=artifact, allow_missing=True)
            with status_as_errors("storage"):
                await self._stub.DeleteArtifact(request, timeout=_SECONDS)


class RemoteProbe:
    """The Probe of ports, over gRPC."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = fetcher_service_pb2_grpc.FetcherServiceStub(channel)

    async def estimate(
        self, url: str, format_spec: media_pb2.FormatSpec, listed: int = 0
    ) -> tuple[media_pb2.MediaInfo, media_pb2.Estimate]:
        """See Probe.look."""
        asked = fetcher_service_pb2.ProbeMediaRequest(url=url, format=format_spec)
        if listed:
            # One more than wanted tells whether there are more; a site that counts needs no list.
            asked.playlist, asked.max_entries = True, min(listed + 1, _MOST_LISTED)
        answer = await self.probe(asked)
        if listed and answer.estimate.job_count > listed:
            answer.estimate.job_count = listed
            text = f"the list has more than the {listed} entries that are taken"
            answer.estimate.warnings.add(reason=media_pb2.Warning.ENTRIES_TRUNCATED, message=text)
        return answer.media, answer.estimate

    async def probe(
        self, request: fetcher_service_pb2.ProbeMediaRequest
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        """What the site says to the caller's tenant, as the fetcher tells it."""
        request.tenant = identity.caller().tenant
        with status_as_errors("fetcher"):
            answer: fetcher_service_pb2.ProbeMediaResponse = await self._stub.ProbeMedia(
                request, timeout=_PROBE_SECONDS
            )
        return answer
