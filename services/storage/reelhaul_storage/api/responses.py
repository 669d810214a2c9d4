"""Converts the model to protobuf responses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from reelhaul.storage.v1 import artifact_pb2, upload_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1 import media_pb2
from reelhaul_storage.model import Artifact, TenantUsage
from reelhaul_storage.service.backend_health import BackendStatus
from reelhaul_storage.service.uploads import UploadStatus

_MAX_TENANTS = 1000


def artifact_to_proto(artifact: Artifact, backend: str) -> artifact_pb2.Artifact:
    """Convert *artifact*, whose bytes *backend* stores."""
    content = artifact.content
    return artifact_pb2.Artifact(
        name=artifact.name,
        file_name=artifact.file_name,
        media_type=artifact.media_type,
        size_bytes=content.size,
        checksums=media_pb2.Checksums(crc32c=content.crc32c, sha256=bytes.fromhex(content.sha256)),
        job=artifact.job,
        kind=artifact.kind,
        labels=artifact.labels,
        expire_time=_timestamp(artifact.expire_time),
        backend=backend,
        tenant=artifact.tenant,
        epoch=artifact.epoch,
        language_code=artifact.language_code,
        verify_time=None if artifact.verify_time is None else _timestamp(artifact.verify_time),
        damage_time=None if artifact.damage_time is None else _timestamp(artifact.damage_time),
        create_time=_timestamp(artifact.create_time),
        update_time=_timestamp(artifact.update_time),
        etag=artifact.etag,
    )


def upload_to_proto(status: UploadStatus) -> upload_pb2.Upload:
    """Convert an upload and its progress."""
    upload, draft = status.upload, status.upload.draft
    return upload_pb2.Upload(
        name=upload.name,
        artifact=artifact_pb2.Artifact(
            name=f"artifacts/{upload.artifact_id}" if upload.artifact_id else "",
            file_name=draft.file_name,
            media_type=draft.media_type,
            job=draft.job,
            kind=draft.kind,
            labels=draft.labels,
            expire_time=_timestamp(draft.expire_time),
            tenant=draft.tenant,
            epoch=draft.epoch,
            language_code=draft.language_code,
        ),
        total_size=upload.total_size,
        persisted_size=status.persisted_size,
        content_exists=status.content_exists,
        expire_time=_timestamp(upload.expire_time),
        direct=upload.direct,
        part_urls=status.part_urls.urls if status.part_urls else (),
        part_size=status.part_urls.part_size if status.part_urls else 0,
        adoptable=status.adoptable,
    )


def write_result_to_proto(result: Artifact | int, backend: str) -> pb.WriteArtifactResponse:
    """Convert the result of a write: the artifact, or the number of durable bytes."""
    if isinstance(result, Artifact):
        return pb.WriteArtifactResponse(artifact=artifact_to_proto(result, backend))
    return pb.WriteArtifactResponse(persisted_size=result)


def link_to_proto(url: str, expire_time: datetime) -> pb.SignArtifactUrlResponse:
    """Convert a signed link."""
    return pb.SignArtifactUrlResponse(url=url, expire_time=_timestamp(expire_time))


def summary_to_proto(usages: Sequence[TenantUsage]) -> pb.SummarizeArtifactsResponse:
    """Convert what each tenant uses; the totals cover all tenants, the list the largest ones."""
    return pb.SummarizeArtifactsResponse(
        artifact_count=sum(usage.artifacts for usage in usages),
        size_bytes=sum(usage.size for usage in usages),
        tenants=[
            pb.SummarizeArtifactsResponse.TenantUsage(
                tenant=usage.tenant, artifact_count=usage.artifacts, size_bytes=usage.size
            )
            for usage in usages[:_MAX_TENANTS]
        ],
    )


def status_to_proto(status: BackendStatus, max_artifact_bytes: int) -> pb.StorageStatus:
    """Convert the state of the backend."""
    response = pb.StorageStatus(
        backend=status.backend,
        damaged_count=status.blobs.damaged,
        problem=status.problem,
        max_artifact_bytes=max_artifact_bytes,
    )
    if status.latency is not None:
        response.latency.FromTimedelta(timedelta(seconds=status.latency))
    if status.space is not None:
        response.free_bytes, response.total_bytes = status.space.free, status.space.total
    if status.blobs.oldest_verify_time is not None:
        response.oldest_verify_time.FromDatetime(status.blobs.oldest_verify_time)
    return response


def _timestamp(when: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(when)
    return timestamp
