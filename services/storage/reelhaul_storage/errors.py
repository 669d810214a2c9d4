"""Errors of storage: subclasses of ReelhaulError with their reasons and metadata."""

from __future__ import annotations

from datetime import datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError


class Expired(ReelhaulError):
    """The artifact or upload is past its expire_time."""

    def __init__(self, resource: str, expire_time: datetime) -> None:
        expired_at = expire_time.isoformat(timespec="seconds")
        super().__init__(
            ErrorReason.ARTIFACT_EXPIRED,
            f"{resource} expired at {expired_at}",
            metadata={"resource": resource, "expireTime": expired_at},
        )


class EtagMismatch(ReelhaulError):
    """The artifact has changed since the caller read it; the caller must read it again."""

    def __init__(self, resource: str, etag: str) -> None:
        super().__init__(
            ErrorReason.ETAG_MISMATCH,
            f"{resource} has changed; its etag is {etag}",
            metadata={"resource": resource, "etag": etag},
        )


class OffsetConflict(ReelhaulError):
    """The write does not start at the end of the staged bytes; the caller must resume from *persisted*."""

    def __init__(self, message: str, persisted: int) -> None:
        super().__init__(
            ErrorReason.WRITE_OFFSET_CONFLICT, message, metadata={"persistedSize": str(persisted)}
        )


class ChecksumMismatch(ReelhaulError):
    """The bytes differ from the caller's checksum; the caller must write again from *offset*."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(ErrorReason.WRITE_CHECKSUM_MISMATCH, message, metadata={"offset": str(offset)})


class RangeInvalid(ReelhaulError):
    """The range starts after the last byte."""

    def __init__(self, size: int) -> None:
        super().__init__(
            ErrorReason.RANGE_INVALID,
            f"the range starts after the end of the {size} bytes",
            metadata={"sizeBytes": str(size)},
        )


class Corrupt(ReelhaulError):
    """Stored bytes are missing or no longer match their digest."""

    def __init__(self, resource: str) -> None:
        super().__init__(
            ErrorReason.ARTIFACT_CORRUPT,
            f"the bytes of {resource} are damaged",
            metadata={"resource": resource},
        )


class TooLarge(ReelhaulError):
    """The content exceeds the size limit of one artifact."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            ErrorReason.MEDIA_TOO_LARGE,
            f"an artifact may have at most {limit} bytes",
            metadata={"sizeBytes": str(size), "limitBytes": str(limit)},
        )


class BackendUnavailable(ReelhaulError):
    """The disk or the object store is full or does not respond."""

    def __init__(self, backend: str, message: str, *, cause: str = "", **metadata: str) -> None:
        """*cause* is the code of S3's answer, such as SlowDown."""
        super().__init__(
            ErrorReason.STORAGE_UNAVAILABLE,
            message,
            metadata={"backend": backend} | ({"cause": cause} if cause else {}) | metadata,
            retry_delay=timedelta(seconds=2),
        )


class InsufficientSpace(BackendUnavailable):
    """The disk has too little space for another upload of this size."""

    def __init__(self, backend: str, free: int, needed: int) -> None:
        message = f"storage has space for {free} more bytes, and the upload needs {needed}"
        super().__init__(
            backend,
            f"{message}: delete artifacts, or give storage a larger disk",
            freeBytes=str(free),
            neededBytes=str(needed),
        )


class DeletionPaused(BackendUnavailable):
    """A backup reads the blobs: none is deleted until it has ended."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend, "a backup is being created: nothing is deleted until it has ended")


class BlobsMoved(BackendUnavailable):
    """The blobs were moved to another location since the request began; a repeated request finds them."""

    def __init__(self) -> None:
        super().__init__("", "the artifacts have just been moved to another location: send the request again")


class LinkInvalid(ReelhaulError):
    """A signed link is damaged, expired or revoked."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorReason.CREDENTIAL_INVALID, message)


class LinkAddressForbidden(ReelhaulError):
    """A signed link does not work from the client's address."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorReason.ADDRESS_FORBIDDEN, message)


class Unsupported(ReelhaulError):
    """The backend does not support *method*, or not with these arguments."""

    def __init__(self, method: str, message: str) -> None:
        super().__init__(ErrorReason.METHOD_UNSUPPORTED, message, metadata={"method": method})


class DestinationUnavailable(ReelhaulError):
    """The bucket of a destination does not respond, or limits the request rate."""

    def __init__(self, destination: str, message: str) -> None:
        super().__init__(
            ErrorReason.DESTINATION_UNAVAILABLE,
            message,
            metadata={"destination": destination},
            retry_delay=timedelta(seconds=5),
        )


class DestinationRefused(ReelhaulError):
    """The bucket of a destination rejects the delivery; *cause* is the code of the S3 or STS service."""

    def __init__(self, destination: str, cause: str, message: str) -> None:
        super().__init__(
            ErrorReason.DESTINATION_REFUSED, message, metadata={"destination": destination, "cause": cause}
        )
