"""Bucket: calls to one S3 bucket, with their errors as STORAGE_UNAVAILABLE."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from reelhaul_runtime.server_addresses import is_loopback
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.s3.location import Location

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from types_boto3_s3 import S3Client

log = logging.getLogger(__name__)

_CONNECT_SECONDS, _READ_SECONDS = 5, 60
_ATTEMPTS = 3
_CONNECTIONS = 256

# One request copies what a server copies well within the timeout; more is copied in parts.
_COPY = TransferConfig(multipart_threshold=1 << 30, multipart_chunksize=256 << 20)

_MISSING = ("NoSuchKey", "404")
_PRECONDITION = ("PreconditionFailed", "412")
_MESSAGES = {
    "SlowDown": "S3 receives too many requests",
    "ServiceUnavailable": "S3 cannot serve requests now",
    "503": "S3 cannot serve requests now",
    "AccessDenied": "S3 denies access",
    "403": "S3 denies access",
    "InvalidAccessKeyId": "S3 does not know the access key",
    "SignatureDoesNotMatch": "S3 refuses the secret key",
    "ExpiredToken": "the credentials for S3 have expired",
    "NoSuchBucket": "the bucket does not exist",
    "RequestTimeTooSkewed": "the clock differs too much from that of S3",
}


class StagedChanged(Exception):
    """A multipart upload was completed or aborted, or a part or object is not the one that was stored."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object without its content."""

    size: int
    etag: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart upload."""

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """A multipart upload that is neither completed nor aborted."""

    key: str
    id: str


class Bucket:
    """The objects below the prefix of *location*; keys are relative to it.

    Every method blocks, and any thread may call it. Each may raise STORAGE_UNAVAILABLE.
    """

    def __init__(self, location: Location, client: S3Client) -> None:
        self.location = location
        self.client = client
        self._bucket = location.bucket

    def get_server_time(self) -> str:
        """List an object; return the Date header of the response, empty if it has none."""
        with errors_as_unavailable():
            response = self.client.list_objects_v2(
                Bucket=self._bucket, Prefix=self.location.prefix, MaxKeys=1
            )
        return response_date(response)

    def check_exists(self) -> None:
        """Return if the bucket exists."""
        with errors_as_unavailable():
            self.client.head_bucket(Bucket=self._bucket)

    # --- objects

    def put(self, key: str, content: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """Store *content*; return its ETag."""
        with errors_as_unavailable():
            response = self.client.put_object(
                **self._name(key),
                Body=content,
                ContentMD5=_md5(content),
                Metadata=dict(metadata or {}),
                **self._encryption,
            )
        return response["ETag"]

    def head(self, key: str) -> StoredObject | None:
        """Return the object at *key* without its content; None if there is none."""
        with errors_as_unavailable(*_MISSING):
            try:
                response = self.client.head_object(**self._name(key))
            except ClientError:
                return None
        return StoredObject(response["ContentLength"], response["ETag"], response["Metadata"])

    def get(self, key: str, offset: int, length: int) -> StreamingBody | None:
        """Open *length* bytes from *offset* for reading; fewer if the object ends before.

        Returns None if *offset* is not within the object. Raises KeyError if there is none.
        """
        with errors_as_unavailable(*_MISSING, "InvalidRange", "416"):
            try:
                return self.client.get_object(
                    **self._name(key), Range=f"bytes={offset}-{offset + length - 1}"
                )["Body"]
            except ClientError as error:
                if error_code(error) in _MISSING:
                    raise KeyError(key) from None
                return None

    def copy(self, source: str, target: str, size: int, etag: str) -> None:
        """Copy the object of *size* bytes within the bucket. Raises StagedChanged unless it has *etag*."""
        arguments: Any = {"MetadataDirective": "REPLACE", "CopySourceIfMatch": etag, **self._encryption}
        with _changed_raised(), errors_as_unavailable(*_MISSING, *_PRECONDITION):
            if size < _COPY.multipart_threshold:
                self.client.copy_object(CopySource=self._name(source), **self._name(target), **arguments)
            else:
                self.client.copy(self._name(source), **self._name(target), ExtraArgs=arguments, Config=_COPY)

    def delete(self, key: str) -> None:
        """Delete an object. A missing one is not an error."""
        with errors_as_unavailable(*_MISSING):
            try:
                self.client.delete_object(**self._name(key))
            except ClientError:
                return

    def list_objects(self, prefix: str, before: datetime | None = None) -> Iterator[list[str]]:
        """Yield the keys that begin with *prefix*, page by page; only those last modified *before*."""
        paginator = self.client.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=self.location.prefix + prefix))
        while True:
            with errors_as_unavailable():
                page = next(pages, None)
            if page is None:
                return
            yield [
                item["Key"].removeprefix(self.location.prefix)
                for item in page.get("Contents", [])
                if before is None or item["LastModified"] < before
            ]

    # --- multipart uploads

    def create_multipart_upload(self, key: str) -> MultipartUpload:
        """Open a multipart upload that will become the object at *key*."""
        with errors_as_unavailable():
            response = self.client.create_multipart_upload(**self._name(key), **self._encryption)
        return MultipartUpload(key, response["UploadId"])

    def put_part(self, upload: MultipartUpload, number: int, content: bytes) -> Part:
        """Store part *number*, which replaces an earlier one. Raises StagedChanged."""
        with _changed_raised(), errors_as_unavailable("NoSuchUpload", "404"):
            response = self.client.upload_part(
                **self._multipart(upload),
                PartNumber=number,
                ContentMD5=_md5(content),
                Body=content,
            )
        return Part(number, len(content), response["ETag"])

    def sign_part(self, upload: MultipartUpload, number: int, seconds: int) -> str:
        """Return a URL to which part *number* can be sent for *seconds*. It is a secret."""
        with errors_as_unavailable():
            parameters = self._multipart(upload) | {"PartNumber": number}
            return self.client.generate_presigned_url("upload_part", parameters, ExpiresIn=seconds)

    def copy_part(self, upload: MultipartUpload, number: int, source: str, size: int, etag: str) -> Part:
        """Make the object at *source* part *number*. Raises StagedChanged, also if it has changed."""
        with _changed_raised(), errors_as_unavailable("NoSuchUpload", *_PRECONDITION, *_MISSING):
            response = self.client.upload_part_copy(
                **self._multipart(upload),
                PartNumber=number,
                CopySource=self._name(source),
                CopySourceIfMatch=etag,
            )
        return Part(number, size, response["CopyPartResult"]["ETag"])

    def list_parts(self, upload: MultipartUpload) -> list[Part]:
        """Return the parts by number, then by age; a server may list a replaced part as well.

        Raises StagedChanged.
        """
        paginator = self.client.get_paginator("list_parts")
        with _changed_raised(), errors_as_unavailable("NoSuchUpload", "404"):
            pages = paginator.paginate(**self._multipart(upload))
            found = [part for page in pages for part in page.get("Parts", [])]
        found.sort(key=lambda part: (part["PartNumber"], part["LastModified"]))
        return [Part(part["PartNumber"], part["Size"], part["ETag"]) for part in found]

    def complete(self, upload: MultipartUpload, parts: list[Part]) -> None:
        """Make the object of *parts*. Raises StagedChanged, also if a part has another ETag."""
        named = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        refusals = ("NoSuchUpload", "404", "InvalidPart", "InvalidPartOrder", "EntityTooSmall")
        with _changed_raised(), errors_as_unavailable(*refusals):
            self.client.complete_multipart_upload(
                **self._multipart(upload),
                MultipartUpload={"Parts": named},  # type: ignore[typeddict-item]
            )

    def abort(self, upload: MultipartUpload) -> None:
        """Delete a multipart upload and its parts. A missing one is not an error."""
        with errors_as_unavailable("NoSuchUpload", "404"):
            try:
                self.client.abort_multipart_upload(**self._multipart(upload))
            except ClientError:
                return

    def list_multipart_uploads(
        self, prefix: str, before: datetime | None = None
    ) -> Iterator[list[MultipartUpload]]:
        """Yield the open multipart uploads whose keys begin with *prefix*; only those opened *before*."""
        paginator = self.client.get_paginator("list_multipart_uploads")
        pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=self.location.prefix + prefix))
        while True:
            with errors_as_unavailable():
                page = next(pages, None)
            if page is None:
                return
            yield [
                MultipartUpload(item["Key"].removeprefix(self.location.prefix), item["UploadId"])
                for item in page.get("Uploads", [])
                if before is None or item["Initiated"] < before
            ]

    @property
    def _encryption(self) -> dict[str, Any]:
        return self.location.encryption

    def _name(self, key: str) -> Any:
        return {"Bucket": self._bucket, "Key": self.location.prefix + key}

    def _multipart(self, upload: MultipartUpload) -> Any:
        return self._name(upload.key) | {"UploadId": upload.id}


def create_client(location: Location) -> S3Client:
    """Return the boto3 client for *location*; boto3 finds the credentials in its usual places."""
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if location.path_style else "auto"},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_CONNECTIONS,
        # Each put sends Content-MD5, which every server checks; not all know the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # No proxy is on the way to this machine itself.
        proxies={} if _is_local(location.endpoint_url) else None,
    )
    # A session of its own: the default one is not made for several threads.
    return boto3.Session().client(
        "s3",
        endpoint_url=location.endpoint_url or None,
        region_name=location.region or None,
        config=config,
    )


@contextmanager
def errors_as_unavailable(*except_for: str) -> Iterator[None]:
    """Raise STORAGE_UNAVAILABLE for an error of S3 or of the connection, but let codes *except_for* pass."""
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code in except_for:
            raise
        log.warning("S3 refused a request", extra={"operation": error.operation_name, "cause": code})
        message = _MESSAGES.get(code, f"S3 answered {code}")
        raise BackendUnavailable("s3", message, cause=code) from error
    except (BotoCoreError, OSError) as error:
        cause = type(error).__name__
        # The check of the backend logs the outage.
        log.debug("S3 does not answer", extra={"cause": cause})
        raise BackendUnavailable("s3", "S3 does not answer", cause=cause) from error


def error_code(error: ClientError) -> str:
    """Return the code of S3's answer, such as ``SlowDown``; an HTTP status if it has none."""
    return str(error.response.get("Error", {}).get("Code", ""))[:64]


def response_date(response: Any) -> str:
    """Return the Date header of a response of boto3; empty if it has none."""
    return str(response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""))


@contextmanager
def _changed_raised() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise StagedChanged(error_code(error)) from error


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _is_local(endpoint_url: str) -> bool:
    return is_loopback(f"{urlsplit(endpoint_url).hostname}:0")
