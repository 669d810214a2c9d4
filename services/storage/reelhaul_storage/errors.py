"""The failures of storage: what callers are told when bytes are not as they should be."""

from __future__ import annotations

from datetime import datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError


class Expired(ReelhaulError):
    """The bytes passed their expire_time."""

    def __init__(self, resource: str, expire_time: datetime) -> None:
        when = expire_time.isoformat(timespec="seconds")
        super().__init__(
            ErrorReason.ARTIFACT_EXPIRED,
            f"{resource} expired at {when}",
            metadata={"resource": resource, "expireTime": when},
        )


class EtagMismatch(ReelhaulError):
    """The artifact is not the one that the caller has seen: read again."""

    def __init__(self, resource: str, etag: str) -> None:
        super().__init__(
            ErrorReason.ETAG_MISMATCH,
            f"{resource} has changed; its etag is {etag}",
            metadata={"resource": resource, "etag": etag},
        )


class OffsetConflict(ReelhaulError):
    """The write does not go on where the bytes end: go on from *persisted*."""

    def __init__(self, text: str, persisted: int) -> None:
        super().__init__(ErrorReason.WRITE_OFFSET_CONFLICT, text, metadata={"persistedSize": str(persisted)})


class ChecksumMismatch(ReelhaulError):
    """The bytes are not those that the caller meant: write again from *offset*."""

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(ErrorReason.WRITE_CHECKSUM_MISMATCH, text, metadata={"offset": str(offset)})


class RangeInvalid(ReelhaulError):
    """The range starts past the end."""

    def __init__(self, size: int) -> None:
        super().__init__(
            ErrorReason.RANGE_INVALID,
            f"the range starts past the end; there are {size} bytes",
            metadata={"sizeBytes": str(size)},
        )


class Corrupt(ReelhaulError):
    """Stored bytes no longer match their digest."""

    def __init__(self, resource: str) -> None:
        super().__init__(
            ErrorReason.ARTIFACT_CORRUPT,
            f"the bytes of {resource} are damaged",
            metadata={"resource": resource},
        )


class TooLarge(ReelhaulError):
    """More bytes than one artifact may have."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            ErrorReason.MEDIA_TOO_LARGE,
            f"an artifact may have {limit} bytes at most",
            metadata={"sizeBytes": str(size), "limitBytes": str(limit)},
        )


class BackendUnavailable(ReelhaulError):
    """The disk or the object store is full or does not answer."""

    def __init__(self, backend: str, text: str) -> None:
        super().__init__(
            ErrorReason.STORAGE_UNAVAILABLE,
            text,
            metadata={"backend": backend},
            retry_delay=timedelta(seconds=2),
        )
