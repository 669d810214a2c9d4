"""StorageService: protobuf in, one call, protobuf out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

from google.api import httpbody_pb2
from google.protobuf import empty_pb2

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2_grpc, upload_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_storage.api import queries, requests, responses
from reelhaul_storage.digests import crc32c
from reelhaul_storage.model import Artifact
from reelhaul_storage.service.artifacts import Artifacts
from reelhaul_storage.service.uploads import Uploads

_UPLOADS = "uploads"
_ARTIFACTS = "artifacts"


class StorageServicer(storage_service_pb2_grpc.StorageServiceServicer):
    """Artifacts and uploads over gRPC."""

    def __init__(
        self,
        uploads: Uploads,
        artifacts: Artifacts,
        page_tokens: PageTokens,
        now: Callable[[], datetime],
        *,
        backend: str,
        default_ttl: timedelta,
    ) -> None:
        self._uploads = uploads
        self._artifacts = artifacts
        self._page_tokens = page_tokens
        self._now = now
        self._backend = backend
        self._default_ttl = default_ttl

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Any) -> upload_pb2.Upload:
        """Begin a write."""
        upload = requests.upload_of(request, self._now(), self._default_ttl)
        return responses.upload_to_proto(await self._uploads.begin(upload, request.adopt_path))

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> upload_pb2.Upload:
        """How far a write has come."""
        standing = await self._uploads.get(requests.id_of(request.name, _UPLOADS))
        return responses.upload_to_proto(standing)

    async def ListUploads(self, request: pb.ListUploadsRequest, context: Any) -> pb.ListUploadsResponse:
        """Unfinished writes."""
        limit = queries.page_size(request.page_size)
        after = self._page_tokens.read(_UPLOADS, request.page_token)
        page = await self._uploads.page(after, limit + 1)
        told = pb.ListUploadsResponse(uploads=map(responses.upload_to_proto, page[:limit]))
        if len(page) > limit:
            last = page[limit - 1].upload
            told.next_page_token = self._page_tokens.create(_UPLOADS, last.create_time, last.id)
        return told

    async def DeleteUpload(self, request: pb.DeleteUploadRequest, context: Any) -> empty_pb2.Empty:
        """Drop a write."""
        await self._uploads.drop(requests.id_of(request.name, _UPLOADS))
        return empty_pb2.Empty()

    async def FinishUpload(self, request: pb.FinishUploadRequest, context: Any) -> artifact_pb2.Artifact:
        """Make the artifact."""
        id_ = requests.id_of(request.name, _UPLOADS)
        expected = requests.expected_of(request.total_checksums, required=not request.adopt_path)
        return self._told(await self._uploads.finish(id_, expected, request.adopt_path))

    async def WriteArtifact(
        self, request_iterator: AsyncIterator[pb.WriteArtifactRequest], context: Any
    ) -> pb.WriteArtifactResponse:
        """Take bytes."""
        first = await anext(request_iterator, pb.WriteArtifactRequest())
        chunks = requests.chunks_of(first, request_iterator)
        if first.WhichOneof("target") == "upload":
            written = await self._uploads.write(requests.id_of(first.upload, _UPLOADS, "upload"), chunks)
        elif first.WhichOneof("target") == "artifact":
            draft = requests.draft_of(first.artifact, "artifact", self._now(), self._default_ttl)
            written = await self._uploads.write_once(draft, chunks)
        else:
            raise FieldInvalid("target", "is required on the first message")
        return responses.written_to_proto(written, self._backend)

    async def ReadArtifact(
        self, request: pb.ReadArtifactRequest, context: Any
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        """Give bytes."""
        id_, at, limit = requests.range_of(request)
        artifact, pieces = await self._artifacts.read(id_, at, limit, request.etag)
        told = pb.ReadArtifactResponse(artifact=self._told(artifact), offset=at, crc32c=crc32c(b""))
        async for piece in pieces:
            told.content, told.crc32c = piece, crc32c(piece)
            yield told
            at += len(piece)
            told = pb.ReadArtifactResponse(offset=at)
        if told.HasField("artifact"):
            yield told

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        """Give bytes as they are."""
        if request.disposition not in ("", "attachment", "inline"):
            raise FieldInvalid("disposition", "must be attachment or inline")
        artifact, pieces = await self._artifacts.read(requests.id_of(request.name, _ARTIFACTS))
        yield httpbody_pb2.HttpBody(content_type=artifact.media_type)
        async for piece in pieces:
            yield httpbody_pb2.HttpBody(data=piece)

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Any) -> artifact_pb2.Artifact:
        """What is known of an artifact."""
        return self._told(await self._artifacts.get(requests.id_of(request.name, _ARTIFACTS)))

    async def ListArtifacts(self, request: pb.ListArtifactsRequest, context: Any) -> pb.ListArtifactsResponse:
        """Artifacts, by filter."""
        limit, arguments = queries.page_size(request.page_size), f"{request.filter}\0{request.order_by}"
        query = queries.query_of(request, limit + 1)
        page = await self._artifacts.page(query, self._page_tokens.read(arguments, request.page_token))
        told = pb.ListArtifactsResponse(artifacts=map(self._told, page[:limit]))
        if len(page) > limit:
            told.next_page_token = self._page_tokens.create(arguments, *query.place_of(page[limit - 1]))
        return told

    async def UpdateArtifact(self, request: pb.UpdateArtifactRequest, context: Any) -> artifact_pb2.Artifact:
        """Change an artifact."""
        id_ = requests.id_of(request.artifact.name, _ARTIFACTS, "artifact.name")
        changes = requests.changes_of(request, self._now())
        return self._told(await self._artifacts.change(id_, request.artifact.etag, changes))

    async def DeleteArtifact(self, request: pb.DeleteArtifactRequest, context: Any) -> empty_pb2.Empty:
        """Remove an artifact."""
        id_ = requests.id_of(request.name, _ARTIFACTS)
        await self._artifacts.remove([id_], request.etag, allow_missing=request.allow_missing)
        return empty_pb2.Empty()

    async def BatchDeleteArtifacts(
        self, request: pb.BatchDeleteArtifactsRequest, context: Any
    ) -> empty_pb2.Empty:
        """Remove artifacts, all or none."""
        await self._artifacts.remove(requests.ids_of(request))
        return empty_pb2.Empty()

    async def FindArtifacts(self, request: pb.FindArtifactsRequest, context: Any) -> pb.FindArtifactsResponse:
        """Which digests are stored already."""
        found = await self._artifacts.find(request.tenant, requests.digests_of(request))
        return pb.FindArtifactsResponse(artifacts=found)

    def _told(self, artifact: Artifact) -> artifact_pb2.Artifact:
        return responses.artifact_to_proto(artifact, self._backend)
