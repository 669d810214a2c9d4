"""Requests to the buckets of destinations, with boto3. Blocking: for threads.

Imported when the first destination is used: boto3 takes longer to import than the rest of storage.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, DeferredRefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.addresses import Network, Refused
from reelhaul_runtime.errors import ReelhaulError, Violation
from reelhaul_storage.errors import DestinationRefused, DestinationUnavailable
from reelhaul_storage.model import Artifact, DeliveredObject, Destination
from reelhaul_storage.s3.address_guard import TIMEOUT, AddressGuard, GuardedSession
from reelhaul_storage.s3.connections import Connections

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_RETRIES: Any = {"mode": "standard", "total_max_attempts": 3}
_REQUESTS_PER_DELIVERY = 4
_SHA256 = "sha256"
_FIELD = "destination.endpoint_url"
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"}
)


class Source(Protocol):
    """The content of an artifact as a file that can be read once."""

    part_bytes: int
    #: What ended the content early.
    failure: BaseException | None

    def seekable(self) -> bool:
        """Return False."""

    def read(self, size: int = -1) -> bytes:
        """Return the next *size* bytes, fewer at the end only."""

    def etag(self) -> str:
        """Return the ETag of what was read in parts of ``part_bytes``, if it is an MD5."""


def check_endpoint(url: str, networks: tuple[Network, ...]) -> None:
    """Raise URL_INVALID or URL_FORBIDDEN if *url* may not be the endpoint of a destination."""
    try:
        AddressGuard(networks).check_url(url)
    except Refused as error:
        raise _forbidden(url, error) from None
    except OSError:
        text = "the host of endpoint_url cannot be resolved"
        violations = [Violation(_FIELD, "the host cannot be resolved")]
        raise ReelhaulError(
            ErrorReason.URL_INVALID, text, metadata={"url": url}, violations=violations
        ) from None


@contextmanager
def open_client(
    destination: Destination, secret: str, networks: tuple[Network, ...], connections: Connections
) -> Iterator[S3Client]:
    """Yield a client of the bucket; failed requests raise the errors of ports.DestinationBuckets.

    *secret* is that of the destination's key pair, if it has one. It uses *connections*.
    """
    http = GuardedSession(AddressGuard(networks), connections)
    options: dict[str, Any] = {
        "signature_version": "s3v4",
        "retries": _RETRIES,
        "s3": {"addressing_style": "path" if destination.path_style else "virtual"},
        # Other services than AWS may not know checksums of requests; the ETag is compared in any case.
        "request_checksum_calculation": "when_required" if destination.endpoint_url else "when_supported",
        "response_checksum_validation": "when_required",
        # Those are meant for the operator's own bucket.
        "ignore_configured_endpoint_urls": True,
        "proxies": {},
    }
    with closing(http), _port_errors(destination):
        client = _create_session(destination, secret).client(
            "s3",
            endpoint_url=destination.endpoint_url or None,
            region_name=destination.region,
            config=Config(**options),
        )
        http.attach(client)
        yield client


def write_test_object(client: S3Client, destination: Destination) -> None:
    """Write, read and delete a small object."""
    key = f"{destination.prefix}.reelhaul-test-{secrets.token_hex(8)}"
    content, bucket = secrets.token_bytes(64), destination.bucket
    client.put_object(Bucket=bucket, Key=key, Body=content, **_encryption(destination))
    try:
        found = client.get_object(Bucket=bucket, Key=key)["Body"].read(len(content) + 1)
    finally:
        client.delete_object(Bucket=bucket, Key=key)
    if found != content:
        raise DestinationRefused(destination.name, "content", "the bucket returned other bytes")


def deliver(
    client: S3Client, destination: Destination, key: str, artifact: Artifact, source: Source
) -> DeliveredObject:
    """Store *source*, the content of *artifact*, under *key* and verify it; do nothing if it is there."""
    sha256, size = artifact.content.sha256, artifact.content.size
    found = _find(client, destination, key)
    if found is None or found["ContentLength"] != size or found["Metadata"].get(_SHA256) != sha256:
        _upload(client, destination, key, artifact, source)
        found = client.head_object(Bucket=destination.bucket, Key=key)
        intact = found["ContentLength"] == size and found["ETag"] == source.etag()
        # Some services, and KMS, have ETags that are no MD5: then only the bytes themselves show it.
        if not intact and _read_sha256(client, destination, key, size) != sha256:
            client.delete_object(Bucket=destination.bucket, Key=key)
            raise DestinationUnavailable(destination.name, "the object differs from what was sent")
    return DeliveredObject(f"s3://{destination.bucket}/{key}", size, found["ETag"])


def _create_session(destination: Destination, secret: str) -> boto3.Session:
    if destination.role_arn:
        resolver = CredentialResolver([_RoleProvider(destination)])
        session = botocore.session.Session()
        session.register_component("credential_provider", resolver)
        return boto3.Session(botocore_session=session)
    return boto3.Session(aws_access_key_id=destination.access_key_id, aws_secret_access_key=secret)


class _RoleProvider(CredentialProvider):
    """Provides the credentials of the destination's role, renewed before they expire."""

    METHOD = "assume-role"

    def __init__(self, destination: Destination) -> None:
        super().__init__()
        self._destination = destination

    def load(self) -> DeferredRefreshableCredentials:
        return DeferredRefreshableCredentials(self._assume, self.METHOD)

    def _assume(self) -> dict[str, str]:
        config = Config(connect_timeout=TIMEOUT[0], read_timeout=TIMEOUT[1], retries=_RETRIES)
        client: Any = boto3.Session().client("sts", region_name=self._destination.region, config=config)
        with _port_errors(self._destination):
            response = client.assume_role(
                RoleArn=self._destination.role_arn,
                ExternalId=self._destination.external_id,
                RoleSessionName="reelhaul-delivery",
            )
        credentials = response["Credentials"]
        return {
            "access_key": credentials["AccessKeyId"],
            "secret_key": credentials["SecretAccessKey"],
            "token": credentials["SessionToken"],
            "expiry_time": credentials["Expiration"].isoformat(),
        }


def _find(client: S3Client, destination: Destination, key: str) -> Any:
    """Return what HeadObject says; None if there is no object, or none that these credentials may see."""
    try:
        return client.head_object(Bucket=destination.bucket, Key=key)
    except ClientError as error:
        if _status(error) in (403, 404):
            return None
        raise


def _upload(client: S3Client, destination: Destination, key: str, artifact: Artifact, source: Source) -> None:
    config = TransferConfig(
        multipart_threshold=source.part_bytes,
        multipart_chunksize=source.part_bytes,
        max_concurrency=_REQUESTS_PER_DELIVERY,
    )
    # Bounds the memory of one delivery; boto3 has no parameter for it.
    config.max_in_memory_upload_chunks = _REQUESTS_PER_DELIVERY
    try:
        client.upload_fileobj(
            source,  # type: ignore[arg-type]
            destination.bucket,
            key,
            ExtraArgs={
                "ContentType": artifact.media_type,
                "Metadata": {_SHA256: artifact.content.sha256},
                **_encryption(destination),
            },
            Config=config,
        )
    except Exception:
        if source.failure is not None:
            raise source.failure from None
        raise


def _read_sha256(client: S3Client, destination: Destination, key: str, size: int) -> str:
    """Return the digest of the object, or of its beginning if it has more than *size* bytes."""
    digest, rest = hashlib.sha256(), size + 1
    body = client.get_object(Bucket=destination.bucket, Key=key)["Body"]
    while rest and (piece := body.read(min(rest, 1 << 20))):
        digest.update(piece)
        rest -= len(piece)
    return digest.hexdigest()


def _encryption(destination: Destination) -> Any:
    encryption = destination.server_side_encryption
    return {"ServerSideEncryption": encryption} if encryption else {}


@contextmanager
def _port_errors(destination: Destination) -> Iterator[None]:
    """Raise what the requests in the block raise as an error of the port."""
    try:
        yield
    except Refused as error:
        raise _forbidden(destination.endpoint_url, error) from None
    except ClientError as error:
        raise _from_client_error(destination, error) from None
    except (HTTPClientError, BotoConnectionError, IncompleteReadError) as error:
        text = f"the endpoint of {destination.name} does not respond"
        raise DestinationUnavailable(destination.name, f"{text} ({type(error).__name__})") from None
    except BotoCoreError as error:
        kind = type(error).__name__
        text = f"{destination.name} cannot be used: {kind}"
        raise DestinationRefused(destination.name, kind, text) from None


def _from_client_error(destination: Destination, error: ClientError) -> ReelhaulError:
    code = str(error.response.get("Error", {}).get("Code", ""))[:64]
    operation, status = error.operation_name, _status(error)
    if status >= 500 or status == 429 or code in _TRANSIENT_CODES:
        return DestinationUnavailable(
            destination.name, f"{destination.name} answered {operation} with {code or status}"
        )
    text = f"{destination.name} rejected {operation}: {code or status}{_advice(code, status)}"
    return DestinationRefused(destination.name, code or str(status), text)


def _advice(code: str, status: int) -> str:
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId"):
        return "; check the access key"
    if code in ("AccessDenied", "403"):
        return "; the credentials need s3:PutObject, s3:GetObject and s3:DeleteObject below the prefix"
    if code in ("NoSuchBucket", "404"):
        return "; create the bucket, or correct its name"
    if 300 <= status < 400:
        return "; redirects are not followed: check region and endpoint_url"
    return ""


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _forbidden(url: str, refused: Refused) -> ReelhaulError:
    text = (
        f"endpoint_url may not be used ({refused.reason}): it must be https at port 443 of a public address,"
        " or in one of the networks of REELHAUL_STORAGE_DESTINATION_NETWORKS"
    )
    return ReelhaulError(
        ErrorReason.URL_FORBIDDEN,
        text,
        metadata={"host": urlsplit(url).hostname or ""},
        violations=[Violation(_FIELD, text.partition(": ")[2])],
    )
