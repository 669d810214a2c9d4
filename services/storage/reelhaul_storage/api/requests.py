"""Converts requests from protobuf to the model and validates their fields."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.message import Message

from reelhaul import file_names
from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1 import media_pb2
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.identity import Caller
from reelhaul_storage.api.queries import query_from_proto
from reelhaul_storage.local_links import parse_network
from reelhaul_storage.model import (
    Chunk,
    ExpectedChecksums,
    Network,
    NewArtifact,
    Query,
    SentPart,
    Upload,
)
from reelhaul_storage.service.archives import MAX_MEMBERS
from reelhaul_storage.service.artifacts import ArtifactChanges

_MAX_CONTENT = 1 << 20
_MAX_ETAG = 128
_MAX_TTL = timedelta(days=3650)
_JOB = re.compile(r"jobs/[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w.+!#$&^-]{0,62}/[A-Za-z0-9][\w.+!#$&^-]{0,62}")
_LANGUAGE = re.compile(r"[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8}){0,4}")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_MUTABLE = ("file_name", "labels", "expire_time", "ttl")


def parse_name(name: str, collection: str, field: str = "name") -> str:
    """Return the id of a resource name ``<collection>/<uuid>``. Raises FIELD_INVALID."""
    name_collection, _, id_ = name.partition("/")
    try:
        canonical = str(UUID(id_)) == id_
    except ValueError:
        canonical = False
    if name_collection != collection or not canonical:
        raise FieldInvalid(field, f"must be {collection}/ followed by an id")
    return id_


def upload_from_proto(request: pb.CreateUploadRequest, now: datetime, default_ttl: timedelta) -> Upload:
    """Return the upload that CreateUpload asks for; its id and times are set by the use case."""
    if not request.upload.HasField("artifact"):
        raise FieldInvalid("upload.artifact", "is required")
    if request.upload.total_size < 0:
        raise FieldInvalid("upload.total_size", "must not be negative")
    return Upload(
        id="",
        draft=new_artifact_from_proto(request.upload.artifact, "upload.artifact", now, default_ttl),
        create_time=now,
        expire_time=now,
        total_size=request.upload.total_size,
        expected_sha256=_parse_sha256(request.expected_checksums, "expected_checksums", required=False),
        direct=request.upload.direct,
        request_id=_parse_request_id(request.request_id),
        request_digest=_hash_request(request),
    )


def new_artifact_from_proto(
    artifact: artifact_pb2.Artifact, field: str, now: datetime, default_ttl: timedelta
) -> NewArtifact:
    """Return the new artifact described by *artifact*, which is the request's field *field*."""
    _check_pattern(_JOB, artifact.job, f"{field}.job", "must be jobs/ followed by an id")
    _check_pattern(
        _MEDIA_TYPE, artifact.media_type, f"{field}.media_type", "must be a media type like video/mp4"
    )
    _check_pattern(
        _LANGUAGE, artifact.language_code, f"{field}.language_code", "must be a BCP-47 language tag"
    )
    if artifact.epoch < 0:
        raise FieldInvalid(f"{field}.epoch", "must not be negative")
    if len(artifact.tenant) > 128 or not artifact.tenant.isprintable():
        raise FieldInvalid(f"{field}.tenant", "must have at most 128 printable characters")
    return NewArtifact(
        tenant=artifact.tenant,
        expire_time=_parse_expire_time(artifact, field, now) or now + default_ttl,
        file_name=file_names.sanitize(artifact.file_name),
        media_type=artifact.media_type,
        job=artifact.job,
        epoch=artifact.epoch,
        kind=artifact.kind,
        language_code=artifact.language_code,
        labels=_check_labels(artifact.labels, f"{field}.labels"),
    )


def changes_from_proto(request: pb.UpdateArtifactRequest, now: datetime) -> ArtifactChanges:
    """Return the changes of UpdateArtifact: the fields in the mask, or without a mask all that are set."""
    artifact = request.artifact
    if request.HasField("update_mask"):
        paths = set(request.update_mask.paths)
        paths = set(_MUTABLE) if paths == {"*"} else paths
        unknown = sorted(paths.difference(_MUTABLE))
        if unknown:
            raise FieldInvalid("update_mask", f"{unknown[0][:64]} cannot be updated")
    else:
        paths = {name for name in _MUTABLE if _is_set(artifact, name)}
    sets_expiry = not paths.isdisjoint(("expire_time", "ttl"))
    return ArtifactChanges(
        file_name=file_names.sanitize(artifact.file_name) if "file_name" in paths else None,
        labels=_check_labels(artifact.labels, "artifact.labels") if "labels" in paths else None,
        expire_time=_parse_expire_time(artifact, "artifact", now) if sets_expiry else None,
    )


def link_from_proto(request: pb.SignArtifactUrlRequest) -> tuple[timedelta | None, Network | None, bool]:
    """Return the ttl of SignArtifactUrl, its network, and whether it is inline; None: not set."""
    try:
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else None
    except (ValueError, OverflowError):
        raise FieldInvalid("ttl", "is out of range") from None
    network = parse_network(request.ip_cidr, "ip_cidr") if request.ip_cidr else None
    return ttl, network, is_inline(request.disposition)


def is_inline(disposition: str) -> bool:
    """Return whether the field *disposition* asks for a file that a browser shows."""
    if disposition not in ("", "attachment", "inline"):
        raise FieldInvalid("disposition", "must be attachment or inline")
    return disposition == "inline"


def range_from_proto(request: pb.ReadArtifactRequest | pb.ArchiveArtifactsRequest) -> tuple[int, int]:
    """Return the offset and limit (0: no limit) of a read."""
    for field in ("read_offset", "read_limit"):
        if getattr(request, field) < 0:
            raise FieldInvalid(field, "must not be negative")
    return request.read_offset, request.read_limit


def archive_from_proto(
    request: pb.ArchiveArtifactsRequest | pb.DescribeArchiveRequest, caller: Caller
) -> Query | list[str]:
    """Return the query or the ids that choose the artifacts of an archive."""
    if bool(request.filter.strip()) == bool(request.names):
        raise FieldInvalid("filter", "must be set, or names, but not both")
    if request.names:
        return parse_names(request.names)
    listing = pb.ListArtifactsRequest(filter=request.filter, order_by="create_time")
    return query_from_proto(listing, MAX_MEMBERS + 1, caller)


def parse_names(names: Sequence[str]) -> list[str]:
    """Return the ids of the artifacts *names*, which are the request's field ``names``."""
    if not 1 <= len(names) <= 1000:
        raise FieldInvalid("names", "must contain 1 to 1000 names")
    return [parse_name(name, "artifacts", f"names[{index}]") for index, name in enumerate(names)]


def checksums_from_proto(checksums: media_pb2.Checksums, *, required: bool = True) -> ExpectedChecksums:
    """Return the checksums stated in ``total_checksums``, whose sha256 may be *required*."""
    crc32c = checksums.crc32c if checksums.HasField("crc32c") else None
    return ExpectedChecksums(_parse_sha256(checksums, "total_checksums", required=required), crc32c)


def parts_from_proto(request: pb.FinishUploadRequest) -> list[SentPart]:
    """Return the parts of FinishUpload, which must be numbered from 1 on, by number."""
    parts = sorted((SentPart(part.number, part.etag) for part in request.parts), key=lambda part: part.number)
    if [part.number for part in parts] != list(range(1, len(parts) + 1)):
        raise FieldInvalid("parts", "must have the numbers from 1 on, each once")
    for part in parts:
        if not 0 < len(part.etag) <= _MAX_ETAG or not part.etag.isprintable():
            raise FieldInvalid("parts.etag", f"must have 1 to {_MAX_ETAG} printable characters")
    if parts and not request.total_checksums.HasField("crc32c"):
        raise FieldInvalid("total_checksums.crc32c", "is required with parts")
    return parts


async def chunks_from_proto(
    first: pb.WriteArtifactRequest, rest: AsyncIterator[pb.WriteArtifactRequest]
) -> AsyncIterator[Chunk]:
    """Convert the messages of a WriteArtifact stream."""
    yield _chunk_from_proto(first)
    async for request in rest:
        if request.WhichOneof("target"):
            raise FieldInvalid("target", "may be set on the first message only")
        yield _chunk_from_proto(request)


def sha256_from_proto(request: pb.FindArtifactsRequest) -> list[str]:
    """Return the digests of FindArtifacts in hex."""
    if not 1 <= len(request.sha256) <= 1000:
        raise FieldInvalid("sha256", "must contain 1 to 1000 digests")
    if any(len(digest) != 32 for digest in request.sha256):
        raise FieldInvalid("sha256", "must contain digests of 32 bytes")
    required_tenant(request.tenant)
    return [digest.hex() for digest in request.sha256]


def retention_of(caller: Caller) -> timedelta | None:
    """Return how long artifacts of the caller's tenant are kept at most; None: as long as it wants."""
    tenant = caller.tenant_resource
    return tenant.retention.ToTimedelta() if tenant is not None and tenant.HasField("retention") else None


def required_tenant(tenant: str) -> str:
    """Return *tenant* if it is the id of one."""
    if not tenant or not tenant.isprintable():
        raise FieldInvalid("tenant", "is required, in printable characters")
    return tenant


def _chunk_from_proto(request: pb.WriteArtifactRequest) -> Chunk:
    if request.write_offset < 0:
        raise FieldInvalid("write_offset", "must not be negative")
    if len(request.content) > _MAX_CONTENT:
        raise FieldInvalid("content", "must have at most 1 MiB")
    return Chunk(
        offset=request.write_offset,
        content=request.content,
        crc32c=request.crc32c if request.HasField("crc32c") else None,
        finish=checksums_from_proto(request.total_checksums) if request.finish_write else None,
    )


def _parse_expire_time(artifact: artifact_pb2.Artifact, field: str, now: datetime) -> datetime | None:
    """Return the expiry that *artifact* sets as ``expire_time`` or ``ttl``; None if it sets neither."""
    source = artifact.WhichOneof("expiration")
    if source is None:
        return None
    try:
        if source == "ttl":
            expire_time = now + artifact.ttl.ToTimedelta()
        else:
            expire_time = artifact.expire_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise FieldInvalid(f"{field}.{source}", "is out of range") from None
    if not now < expire_time <= now + _MAX_TTL:
        raise FieldInvalid(f"{field}.{source}", "must be in the future, at most ten years from now")
    return expire_time


def _check_labels(labels: Mapping[str, str], field: str) -> dict[str, str]:
    if len(labels) > 64:
        raise FieldInvalid(field, "must contain at most 64 labels")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise FieldInvalid(field, f"key {key[:64]!r} must match {_LABEL_KEY.pattern}")
        if len(value) > 256:
            raise FieldInvalid(field, f"{key} must have at most 256 characters")
        if "\0" in value:
            raise FieldInvalid(field, f"{key} must not contain NUL")
    return dict(labels)


def _parse_sha256(checksums: media_pb2.Checksums, field: str, *, required: bool) -> str:
    if len(checksums.sha256) != 32 and (required or checksums.sha256):
        raise FieldInvalid(f"{field}.sha256", "must have 32 bytes")
    return checksums.sha256.hex()


def _parse_request_id(request_id: str) -> str:
    if not request_id:
        return ""
    try:
        return str(UUID(request_id))
    except ValueError:
        raise FieldInvalid("request_id", "must be a UUID") from None


def _hash_request(request: pb.CreateUploadRequest) -> str:
    """Return a digest of *request* without its request_id."""
    copy = pb.CreateUploadRequest()
    copy.CopyFrom(request)
    copy.ClearField("request_id")
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest()


def _is_set(message: Message, name: str) -> bool:
    return any(field.name == name for field, _ in message.ListFields())


def _check_pattern(pattern: re.Pattern[str], text: str, field: str, rule: str) -> None:
    if text and not pattern.fullmatch(text):
        raise FieldInvalid(field, rule)
