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
from reelhaul_runtime.page_tokens import Pages
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
        pages: Pages,
        now: Callable[[], datetime],
        *,
        backend: str,
        default_ttl: timedelta,
    ) -> None:
        self._uploads = uploads
        self._artifacts = artifacts
        self._pages = pages
        self._now = now
        self._backend = backend
        self._default_ttl = default_ttl

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Any) -> upload_pb2.Upload:
        """Begin a write."""
        upload = requests.upload_from_proto(request, self._now(), self._default_ttl)
        return responses.upload_to_proto(await self._uploads.create(upload, request.adopt_path))

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> upload_pb2.Upload:
        """How far a write has come."""
        standing = await self._uploads.get(requests.parse_name(request.name, _UPLOADS))
        return responses.upload_to_proto(standing)

    async def ListUploads(self, request: pb.ListUploadsRequest, context: Any) -> pb.ListUploadsResponse:
        """Unfinished writes."""
        limit, after = (
            queries.page_size_from_proto(request.page_size),
            self._pages.place(request.page_token, _UPLOADS),
        )
        page = await self._uploads.list_unfinished(after, limit + 1)  # type: ignore[arg-type]
        told = pb.ListUploadsResponse(uploads=map(responses.upload_to_proto, page[:limit]))
        if len(page) > limit:
            last = page[limit - 1].upload
            told.next_page_token = self._pages.token((last.create_time, last.id), _UPLOADS)
        return told

    async def DeleteUpload(self, request: pb.DeleteUploadRequest, context: Any) -> empty_pb2.Empty:
        """Drop a write."""
        await self._uploads.delete(requests.parse_name(request.name, _UPLOADS))
        return empty_pb2.Empty()

    async def FinishUpload(self, request: pb.FinishUploadRequest, context: Any) -> artifact_pb2.Artifact:
        """Make the artifact."""
        id_ = requests.parse_name(request.name, _UPLOADS)
        expected = requests.checksums_from_proto(request.total_checksums, required=not request.adopt_path)
        return self._told(await self._uploads.finish(id_, expected, request.adopt_path))

    async def WriteArtifact(
        self, request_iterator: AsyncIterator[pb.WriteArtifactRequest], context: Any
    ) -> pb.WriteArtifactResponse:
        """Take bytes."""
        first = await anext(request_iterator, pb.WriteArtifactRequest())
        chunks = requests.chunks_from_proto(first, request_iterator)
        if first.WhichOneof("target") == "upload":
            written = await self._uploads.write(requests.parse_name(first.upload, _UPLOADS, "upload"), chunks)
        elif first.WhichOneof("target") == "artifact":
            draft = requests.new_artifact_from_proto(
                first.artifact, "artifact", self._now(), self._default_ttl
            )
            written = await self._uploads.write_artifact(draft, chunks)
        else:
            raise FieldInvalid("target", "is required on the first message")
        return responses.write_result_to_proto(written, self._backend)

    async def ReadArtifact(
        self, request: pb.ReadArtifactRequest, context: Any
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        """Give bytes."""
        id_, at, limit = requests.range_from_proto(request)
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
        artifact, pieces = await self._artifacts.read(requests.parse_name(request.name, _ARTIFACTS))
        yield httpbody_pb2.HttpBody(content_type=artifact.media_type)
        async for piece in pieces:
            yield httpbody_pb2.HttpBody(data=piece)

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Any) -> artifact_pb2.Artifact:
        """What is known of an artifact."""
        return self._told(await self._artifacts.get(requests.parse_name(request.name, _ARTIFACTS)))

    async def ListArtifacts(self, request: pb.ListArtifactsRequest, context: Any) -> pb.ListArtifactsResponse:
        """Artifacts, by filter."""
        limit, arguments = (
            queries.page_size_from_proto(request.page_size),
            f"{request.filter}\0{request.order_by}",
        )
        query = queries.query_from_proto(request, limit + 1)
        page = await self._artifacts.list_artifacts(query, self._pages.place(request.page_token, arguments))
        told = pb.ListArtifactsResponse(artifacts=map(self._told, page[:limit]))
        if len(page) > limit:
            told.next_page_token = self._pages.token(query.cursor(page[limit - 1]), arguments)
        return told

    async def UpdateArtifact(self, request: pb.UpdateArtifactRequest, context: Any) -> artifact_pb2.Artifact:
        """Change an artifact."""
        id_ = requests.parse_name(request.artifact.name, _ARTIFACTS, "artifact.name")
        changes = requests.changes_from_proto(request, self._now())
        return self._told(await self._artifacts.update(id_, request.artifact.etag, changes))

    async def DeleteArtifact(self, request: pb.DeleteArtifactRequest, context: Any) -> empty_pb2.Empty:
        """Remove an artifact."""
        id_ = requests.parse_name(request.name, _ARTIFACTS)
        await self._artifacts.delete([id_], request.etag, allow_missing=request.allow_missing)
        return empty_pb2.Empty()

    async def BatchDeleteArtifacts(
        self, request: pb.BatchDeleteArtifactsRequest, context: Any
    ) -> empty_pb2.Empty:
        """Remove artifacts, all or none."""
        await self._artifacts.delete(requests.ids_from_proto(request))
        return empty_pb2.Empty()

    async def FindArtifacts(self, request: pb.FindArtifactsRequest, context: Any) -> pb.FindArtifactsResponse:
        """Which digests are stored already."""
        found = await self._artifacts.find(request.tenant, requests.sha256_from_proto(request))
        return pb.FindArtifactsResponse(artifacts=found)

    def _told(self, artifact: Artifact) -> artifact_pb2.Artifact:
        return responses.artifact_to_proto(artifact, self._backend)
