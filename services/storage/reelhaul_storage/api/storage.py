"""StorageServicer: converts each request to the model, calls one use case, converts the result back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

from google.api import httpbody_pb2
from google.protobuf import empty_pb2

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2_grpc, upload_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.identity import caller
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size
from reelhaul_storage.api import queries, requests, responses
from reelhaul_storage.digests import crc32c
from reelhaul_storage.model import Artifact
from reelhaul_storage.service.archives import Archives
from reelhaul_storage.service.artifacts import Artifacts
from reelhaul_storage.service.backend_health import BackendHealth
from reelhaul_storage.service.links import Links
from reelhaul_storage.service.tenant_resources import TenantResources
from reelhaul_storage.service.uploads import Uploads

_UPLOADS = "uploads"
_ARTIFACTS = "artifacts"


class StorageServicer(storage_service_pb2_grpc.StorageServiceServicer):
    """StorageService over gRPC."""

    def __init__(
        self,
        uploads: Uploads,
        artifacts: Artifacts,
        links: Links,
        archives: Archives,
        tenant_resources: TenantResources,
        health: BackendHealth,
        page_tokens: PageTokens,
        now: Callable[[], datetime],
        *,
        backend: Callable[[], str],
        default_ttl: timedelta,
        max_artifact_bytes: int,
    ) -> None:
        self._uploads = uploads
        self._artifacts = artifacts
        self._links = links
        self._archives = archives
        self._tenant_resources = tenant_resources
        self._health = health
        self._page_tokens = page_tokens
        self._now = now
        self._backend = backend
        self._default_ttl = default_ttl
        self._max_artifact_bytes = max_artifact_bytes

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Any) -> upload_pb2.Upload:
        upload = requests.upload_from_proto(request, self._now(), self._default_ttl)
        return responses.upload_to_proto(await self._uploads.create(upload, request.adopt_path))

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> upload_pb2.Upload:
        status = await self._uploads.get(requests.parse_name(request.name, _UPLOADS))
        return responses.upload_to_proto(status)

    async def ListUploads(self, request: pb.ListUploadsRequest, context: Any) -> pb.ListUploadsResponse:
        limit = limit_page_size(request.page_size)
        after = self._page_tokens.read(_UPLOADS, request.page_token)
        statuses = await self._uploads.list_unfinished(after, limit + 1)
        response = pb.ListUploadsResponse(uploads=map(responses.upload_to_proto, statuses[:limit]))
        if len(statuses) > limit:
            last = statuses[limit - 1].upload
            response.next_page_token = self._page_tokens.create(_UPLOADS, last.create_time, last.id)
        return response

    async def DeleteUpload(self, request: pb.DeleteUploadRequest, context: Any) -> empty_pb2.Empty:
        await self._uploads.delete(requests.parse_name(request.name, _UPLOADS))
        return empty_pb2.Empty()

    async def FinishUpload(self, request: pb.FinishUploadRequest, context: Any) -> artifact_pb2.Artifact:
        id_ = requests.parse_name(request.name, _UPLOADS)
        expected = requests.checksums_from_proto(request.total_checksums, required=not request.adopt_path)
        parts = requests.parts_from_proto(request)
        if parts and request.adopt_path:
            raise FieldInvalid("parts", "must be empty with adopt_path")
        return self._to_proto(await self._uploads.finish(id_, expected, request.adopt_path, parts))

    async def WriteArtifact(
        self, request_iterator: AsyncIterator[pb.WriteArtifactRequest], context: Any
    ) -> pb.WriteArtifactResponse:
        first = await anext(request_iterator, pb.WriteArtifactRequest())
        chunks = requests.chunks_from_proto(first, request_iterator)
        result: Artifact | int
        if first.WhichOneof("target") == "upload":
            result = await self._uploads.write(requests.parse_name(first.upload, _UPLOADS, "upload"), chunks)
        elif first.WhichOneof("target") == "artifact":
            now, ttl = self._now(), self._default_ttl
            draft = requests.new_artifact_from_proto(first.artifact, "artifact", now, ttl)
            result = await self._uploads.write_artifact(draft, chunks)
        else:
            raise FieldInvalid("target", "is required on the first message")
        return responses.write_result_to_proto(result, self._backend())

    async def ReadArtifact(
        self, request: pb.ReadArtifactRequest, context: Any
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        id_ = requests.parse_name(request.name, _ARTIFACTS)
        offset, limit = requests.range_from_proto(request)
        artifact, pieces = await self._artifacts.read(id_, offset, limit, request.etag)
        response = pb.ReadArtifactResponse(
            artifact=self._to_proto(artifact), offset=offset, crc32c=crc32c(b"")
        )
        async for piece in pieces:
            response.content, response.crc32c = piece, crc32c(piece)
            yield response
            offset += len(piece)
            response = pb.ReadArtifactResponse(offset=offset)
        # An empty artifact has no pieces: its only message carries the metadata.
        if response.HasField("artifact"):
            yield response

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        requests.is_inline(request.disposition)
        artifact, pieces = await self._artifacts.read(requests.parse_name(request.name, _ARTIFACTS))
        yield httpbody_pb2.HttpBody(content_type=artifact.media_type)
        async for piece in pieces:
            yield httpbody_pb2.HttpBody(data=piece)

    async def ArchiveArtifacts(
        self, request: pb.ArchiveArtifactsRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        offset, limit = requests.range_from_proto(request)
        selection = requests.archive_from_proto(request, caller())
        pieces = await self._archives.read(selection, offset, limit, request.etag)
        yield httpbody_pb2.HttpBody(content_type="application/zip")
        async for piece in pieces:
            yield httpbody_pb2.HttpBody(data=piece)

    async def DescribeArchive(
        self, request: pb.DescribeArchiveRequest, context: Any
    ) -> pb.DescribeArchiveResponse:
        archive = await self._archives.describe(requests.archive_from_proto(request, caller()))
        return pb.DescribeArchiveResponse(
            size_bytes=archive.size, etag=archive.etag, artifact_count=len(archive.artifacts)
        )

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Any) -> artifact_pb2.Artifact:
        return self._to_proto(await self._artifacts.get(requests.parse_name(request.name, _ARTIFACTS)))

    async def ListArtifacts(self, request: pb.ListArtifactsRequest, context: Any) -> pb.ListArtifactsResponse:
        limit = limit_page_size(request.page_size)
        query = queries.query_from_proto(request, limit + 1, caller())
        arguments = f"{query.tenant}\0{request.filter}\0{request.order_by}"
        after = self._page_tokens.read(arguments, request.page_token)
        artifacts = await self._artifacts.list_artifacts(query, after)
        response = pb.ListArtifactsResponse(artifacts=map(self._to_proto, artifacts[:limit]))
        if len(artifacts) > limit:
            response.next_page_token = self._page_tokens.create(
                arguments, *query.cursor(artifacts[limit - 1])
            )
        return response

    async def SummarizeArtifacts(
        self, request: pb.SummarizeArtifactsRequest, context: Any
    ) -> pb.SummarizeArtifactsResponse:
        tenant, where = queries.parse_filter(request.filter, caller())
        return responses.summary_to_proto(await self._artifacts.summarize(tenant, where))

    async def UpdateArtifact(self, request: pb.UpdateArtifactRequest, context: Any) -> artifact_pb2.Artifact:
        id_, now = requests.parse_name(request.artifact.name, _ARTIFACTS, "artifact.name"), self._now()
        changes = requests.changes_from_proto(request, now).within(requests.retention_of(caller()), now)
        return self._to_proto(await self._artifacts.update(id_, request.artifact.etag, changes))

    async def DeleteArtifact(self, request: pb.DeleteArtifactRequest, context: Any) -> empty_pb2.Empty:
        id_ = requests.parse_name(request.name, _ARTIFACTS)
        await self._artifacts.delete([id_], request.etag, allow_missing=request.allow_missing)
        return empty_pb2.Empty()

    async def BatchDeleteArtifacts(
        self, request: pb.BatchDeleteArtifactsRequest, context: Any
    ) -> empty_pb2.Empty:
        await self._artifacts.delete(requests.parse_names(request.names))
        return empty_pb2.Empty()

    async def SignArtifactUrl(
        self, request: pb.SignArtifactUrlRequest, context: Any
    ) -> pb.SignArtifactUrlResponse:
        ttl, network, inline = requests.link_from_proto(request)
        id_ = requests.parse_name(request.name, _ARTIFACTS)
        url, expire_time = await self._links.sign(id_, ttl, network, inline=inline)
        return responses.link_to_proto(url, expire_time)

    async def RevokeArtifactUrls(
        self, request: pb.RevokeArtifactUrlsRequest, context: Any
    ) -> artifact_pb2.Artifact:
        return self._to_proto(await self._links.revoke(requests.parse_name(request.name, _ARTIFACTS)))

    async def GetStorageStatus(self, request: pb.GetStorageStatusRequest, context: Any) -> pb.StorageStatus:
        return responses.status_to_proto(await self._health.get_status(), self._max_artifact_bytes)

    async def FindArtifacts(self, request: pb.FindArtifactsRequest, context: Any) -> pb.FindArtifactsResponse:
        names = await self._artifacts.find(request.tenant, requests.sha256_from_proto(request))
        return pb.FindArtifactsResponse(artifacts=names)

    async def DeleteTenantResources(
        self, request: pb.DeleteTenantResourcesRequest, context: Any
    ) -> pb.DeleteTenantResourcesResponse:
        tenant = requests.required_tenant(request.tenant)
        resources = self._tenant_resources
        delete_or_check = resources.exist if request.validate_only else resources.delete_some
        return pb.DeleteTenantResourcesResponse(remaining=await delete_or_check(tenant))

    def _to_proto(self, artifact: Artifact) -> artifact_pb2.Artifact:
        return responses.artifact_to_proto(artifact, self._backend())
