"""S3DestinationBuckets: delivers artifacts to the buckets of tenants, with boto3, and verifies them there."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
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
from reelhaul_runtime.sealing import Sealer
from reelhaul_storage.errors import DestinationRefused, DestinationUnavailable
from reelhaul_storage.model import Artifact, DeliveredObject, Destination
from reelhaul_storage.s3.address_guard import TIMEOUT, AddressGuard, GuardedSession

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

T = TypeVar("T")

_RETRIES: Any = {"mode": "standard", "total_max_attempts": 3}

# Deliveries at once; each holds some parts in memory and some connections.
_THREADS = 8
_REQUESTS_PER_DELIVERY = 4
_PART_BYTES = 8 << 20
# S3 takes at most 10,000 parts.
_MAX_PARTS = 9_000
_SHA256 = "sha256"
_FIELD = "destination.endpoint_url"
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"}
)


class S3DestinationBuckets:
    """Implements ports.DestinationBuckets; *load_keys* is called when the first secret is sealed or used."""

    def __init__(self, load_keys: Callable[[], tuple[str, ...]], guard: AddressGuard) -> None:
        self._load_keys = load_keys
        self._sealer: Sealer | None = None
        self._guard = guard
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="destinations")

    @classmethod
    @contextmanager
    def open(
        cls, load_keys: Callable[[], tuple[str, ...]], networks: tuple[Network, ...]
    ) -> Iterator[S3DestinationBuckets]:
        """Yield the buckets; *networks* may be reached besides public addresses."""
        buckets = cls(load_keys, AddressGuard(networks))
        try:
            yield buckets
        finally:
            buckets._pool.shutdown(wait=False, cancel_futures=True)

    async def check_endpoint(self, url: str) -> None:
        def check() -> None:
            try:
                self._guard.check_url(url)
            except Refused as error:
                raise _forbidden(url, error) from None
            except OSError:
                text = "the host of endpoint_url cannot be resolved"
                raise ReelhaulError(
                    ErrorReason.URL_INVALID,
                    text,
                    metadata={"url": url},
                    violations=[Violation(_FIELD, "the host cannot be resolved")],
                ) from None

        await self._run(check)

    async def seal(self, secret: str) -> bytes:
        return await self._run(lambda: self._loaded_sealer().seal(secret.encode()))

    async def check(self, destination: Destination) -> None:
        key = f"{destination.prefix}.reelhaul-test-{secrets.token_hex(8)}"

        def check() -> None:
            content, bucket = secrets.token_bytes(64), destination.bucket
            with self._client(destination) as client:
                client.put_object(Bucket=bucket, Key=key, Body=content, **_encryption(destination))
                try:
                    found = client.get_object(Bucket=bucket, Key=key)["Body"].read()
                finally:
                    client.delete_object(Bucket=bucket, Key=key)
            if found != content:
                raise DestinationRefused(destination.name, "content", "the bucket returned other bytes")

        await self._run(check)

    async def deliver(
        self, destination: Destination, object_name: str, artifact: Artifact, content: AsyncIterator[bytes]
    ) -> DeliveredObject:
        source = _Source(content, artifact.content.size, asyncio.get_running_loop())
        key = destination.prefix + object_name

        def deliver() -> DeliveredObject:
            with self._client(destination) as client:
                return _deliver(client, destination, key, artifact, source)

        thread = self._pool.submit(deliver)
        delivering = asyncio.wrap_future(thread)
        try:
            return await asyncio.shield(delivering)
        except asyncio.CancelledError:
            source.cancelled.set()
            # A thread that runs ends at its next read, and deletes the parts that it has sent.
            if not thread.cancel():
                await asyncio.wait([delivering], timeout=TIMEOUT[1])
            raise
        finally:
            delivering.add_done_callback(lambda future: future.cancelled() or future.exception())

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def _loaded_sealer(self) -> Sealer:
        if self._sealer is None:
            self._sealer = Sealer(self._load_keys())
        return self._sealer

    @contextmanager
    def _client(self, destination: Destination) -> Iterator[S3Client]:
        """Yield a client of the destination's bucket; failed requests raise the errors of the port."""
        http = GuardedSession(self._guard)
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
            client = self._session(destination).client(
                "s3",
                endpoint_url=destination.endpoint_url or None,
                region_name=destination.region,
                config=Config(**options),
            )
            http.attach(client)
            yield client

    def _session(self, destination: Destination) -> boto3.Session:
        if destination.role_arn:
            resolver = CredentialResolver([_RoleProvider(destination)])
            session = botocore.session.Session()
            session.register_component("credential_provider", resolver)
            return boto3.Session(botocore_session=session)
        secret = self._loaded_sealer().unseal(destination.sealed_secret)
        if secret is None:
            text = (
                "the secret of the destination cannot be decrypted: REELHAUL_STORAGE_SEAL_KEYS must have the"
                " key that was used when it was registered"
            )
            raise DestinationRefused(destination.name, "seal", text)
        return boto3.Session(
            aws_access_key_id=destination.access_key_id, aws_secret_access_key=secret.decode()
        )


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


class _Cancelled(Exception):
    """The call that a delivery belongs to was cancelled."""


class _Source:
    """The content of an artifact as the file that s3transfer reads in a thread.

    Records the MD5 of each part, for the comparison with the ETag of the object.
    """

    def __init__(self, content: AsyncIterator[bytes], size: int, loop: asyncio.AbstractEventLoop) -> None:
        self._content, self._loop = content, loop
        self.part_bytes = max(_PART_BYTES, -(-size // _MAX_PARTS))
        self.cancelled = threading.Event()
        #: What ended the content early.
        self.failure: BaseException | None = None
        self._buffer = bytearray()
        self._ended = False
        self._parts: list[bytes] = []
        self._part, self._part_size = hashlib.md5(usedforsecurity=False), 0

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        """Return the next *size* bytes, fewer at the end only; without it the rest of a small content."""
        size = size if size >= 0 else self.part_bytes
        while len(self._buffer) < size and not self._ended:
            if self.cancelled.is_set():
                raise _Cancelled
            self._buffer += self._next_piece()
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._hash(data)
        return data

    def etag(self) -> str:
        """Return the ETag of the bytes read, with quotes, as S3 computes it unless KMS encrypts them."""
        if not self._parts and self._part_size < self.part_bytes:
            return f'"{self._part.hexdigest()}"'
        parts = self._parts + ([self._part.digest()] if self._part_size else [])
        return f'"{hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"'

    def _next_piece(self) -> bytes:
        async def read() -> bytes:
            return await anext(self._content, b"")

        try:
            piece = asyncio.run_coroutine_threadsafe(read(), self._loop).result()
        except BaseException as error:
            self.failure = error
            raise
        self._ended = not piece
        return piece

    def _hash(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            piece = view[: self.part_bytes - self._part_size]
            self._part.update(piece)
            self._part_size += len(piece)
            view = view[len(piece) :]
            if self._part_size == self.part_bytes:
                self._parts.append(self._part.digest())
                self._part, self._part_size = hashlib.md5(usedforsecurity=False), 0


def _deliver(
    client: S3Client, destination: Destination, key: str, artifact: Artifact, source: _Source
) -> DeliveredObject:
    sha256, size = artifact.content.sha256, artifact.content.size
    found = _find(client, destination, key)
    if found is None or found["ContentLength"] != size or found["Metadata"].get(_SHA256) != sha256:
        _upload(client, destination, key, artifact, source)
        found = client.head_object(Bucket=destination.bucket, Key=key)
        intact = found["ContentLength"] == size and found["ETag"] == source.etag()
        # Some services, and KMS, have ETags that are no MD5: then only the bytes themselves show it.
        if not intact and _read_sha256(client, destination, key) != sha256:
            client.delete_object(Bucket=destination.bucket, Key=key)
            raise DestinationUnavailable(destination.name, "the object differs from what was sent")
    return DeliveredObject(f"s3://{destination.bucket}/{key}", size, found["ETag"])


def _find(client: S3Client, destination: Destination, key: str) -> Any:
    """Return what HeadObject says; None if there is no object, or none that these credentials may see."""
    try:
        return client.head_object(Bucket=destination.bucket, Key=key)
    except ClientError as error:
        if _status(error) in (403, 404):
            return None
        raise


def _upload(
    client: S3Client, destination: Destination, key: str, artifact: Artifact, source: _Source
) -> None:
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


def _read_sha256(client: S3Client, destination: Destination, key: str) -> str:
    digest = hashlib.sha256()
    for piece in client.get_object(Bucket=destination.bucket, Key=key)["Body"].iter_chunks(1 << 20):
        digest.update(piece)
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
