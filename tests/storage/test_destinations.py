"""Destinations: buckets of tenants on a real S3 server, their secrets and addresses, and deliveries."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import grpc
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from cryptography.fernet import Fernet
from tests.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from tests.storage.conftest import (
    StartStorage,
    StorageService,
    error_details,
    random_bytes,
    wait_until,
)

from reelhaul.storage.v1 import destination_service_pb2 as pb
from reelhaul.storage.v1 import destination_service_pb2_grpc
from reelhaul.storage.v1.destination_pb2 import Destination
from reelhaul_runtime import sealing
from reelhaul_runtime.addresses import Refused
from reelhaul_storage.s3 import destinations
from reelhaul_storage.s3.address_guard import AddressGuard, GuardedSession
from reelhaul_storage.settings import Settings

BUCKET = "deliveries"
TENANT = "local"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
MIB = 1 << 20


@dataclass
class Delivery:
    """A storage service that may reach loopback, and its DestinationService."""

    storage: StorageService
    destinations: destination_service_pb2_grpc.DestinationServiceAsyncStub

    async def create(self, destination_id: str = "media-bucket", **fields: object) -> Destination:
        request = pb.CreateDestinationRequest(destination_id=destination_id)
        request.destination.MergeFrom(Destination(**fields))
        return await self.destinations.CreateDestination(request)

    async def deliver(self, artifact: str, object_name: str, destination: str = "media-bucket"):
        request = pb.DeliverArtifactRequest(
            artifact=artifact, destination=destination, tenant=TENANT, object_name=object_name
        )
        return await self.destinations.DeliverArtifact(request)


@pytest.fixture
async def delivery(start_storage: StartStorage) -> AsyncIterator[Delivery]:
    async with start_storage(storage_destination_networks=LOOPBACK) as storage:
        yield Delivery(storage, destination_service_pb2_grpc.DestinationServiceStub(storage.channel))


@pytest.fixture
def bucket(s3_server: S3Server) -> S3Server:
    s3_server.create_bucket(BUCKET)
    return s3_server


def s3_fields(endpoint_url: str, **fields: object) -> dict[str, object]:
    """Return the fields of a destination at *endpoint_url* with the key of the tests' S3 server."""
    key = Destination.AccessKey(access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY)
    defaults = {"bucket": BUCKET, "endpoint_url": endpoint_url, "path_style": True, "access_key": key}
    return defaults | fields


@asynccontextmanager
async def refused(reason: str, **metadata: str) -> AsyncIterator[None]:
    """Expect the block to fail with *reason* and *metadata*."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        yield
    details = error_details(failure.value)
    assert details.reason == reason, failure.value
    assert metadata.items() <= details.metadata.items()
    assert SECRET_KEY not in str(failure.value)


@pytest.mark.parametrize(
    ("backend", "size"),
    [("disk", 0), ("disk", 1000), ("disk", 8 * MIB), ("s3", 17 * MIB)],
    indirect=["backend"],
)
async def test_delivery(delivery: Delivery, bucket: S3Server, size: int):
    """An artifact of any size arrives in the bucket with its type and digest, and is sent only once."""
    await delivery.create(**s3_fields(bucket.endpoint_url, prefix=f"in/{size}-"))
    content = random_bytes(size)
    artifact = await delivery.storage.write_artifact(content, tenant=TENANT, media_type="video/mp4")
    first = await delivery.deliver(artifact.name, "job/Ä b.mp4")
    key = f"in/{size}-job/Ä b.mp4"
    assert (first.uri, first.size_bytes) == (f"s3://{BUCKET}/{key}", size)
    found = bucket.client().get_object(Bucket=BUCKET, Key=key)
    assert found["Body"].read() == content
    assert found["ContentType"] == "video/mp4"
    assert found["Metadata"] == {"sha256": hashlib.sha256(content).hexdigest()}
    assert found["ETag"] == first.etag
    assert await delivery.deliver(artifact.name, "job/Ä b.mp4") == first
    again = bucket.client().head_object(Bucket=BUCKET, Key=key)
    assert again["LastModified"] == found["LastModified"]
    assert bucket.list_multipart_uploads(bucket=BUCKET) == []


async def test_damaged_artifact(delivery: Delivery, bucket: S3Server):
    """An artifact whose bytes are damaged is not delivered."""
    await delivery.create(**s3_fields(bucket.endpoint_url))
    artifact = await delivery.storage.write_artifact(random_bytes(9 * MIB), tenant=TENANT)
    (blob,) = delivery.storage.blob_files()
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(8 * MIB)
        file.write(b"damage")
    async with refused("ARTIFACT_CORRUPT"):
        await delivery.deliver(artifact.name, "damaged/a")
    assert bucket.list_keys("damaged/", BUCKET) == []
    assert bucket.list_multipart_uploads(bucket=BUCKET) == []


async def test_tenants(delivery: Delivery, bucket: S3Server):
    """An artifact of one tenant is not delivered to another one's bucket, nor do others see the bucket."""
    await delivery.create(**s3_fields(bucket.endpoint_url))
    artifact = await delivery.storage.write_artifact(b"other", tenant="other")
    async with refused("RESOURCE_NOT_FOUND", resource=artifact.name):
        await delivery.deliver(artifact.name, "other/a")
    request = pb.GetDestinationRequest(name="media-bucket", tenant="other")
    async with refused("RESOURCE_NOT_FOUND"):
        await delivery.destinations.GetDestination(request)
    request.tenant = TENANT
    assert (await delivery.destinations.GetDestination(request)).tenant == TENANT


async def test_test_destination(delivery: Delivery, bucket: S3Server):
    """TestDestination succeeds on a usable bucket and leaves nothing; elsewhere it says what is wrong."""
    wrong_secret = Destination.AccessKey(access_key_id=ACCESS_KEY, secret_access_key="wrong")
    unknown_key = Destination.AccessKey(access_key_id="unknown", secret_access_key="wrong")
    await delivery.create("good", **s3_fields(bucket.endpoint_url, prefix="test/"))
    await delivery.create("wrong-secret", **s3_fields(bucket.endpoint_url, access_key=wrong_secret))
    await delivery.create("unknown-key", **s3_fields(bucket.endpoint_url, access_key=unknown_key))
    await delivery.create("nobody-there", **s3_fields("http://127.0.0.1:9"))

    async def run(name: str) -> None:
        await delivery.destinations.TestDestination(pb.TestDestinationRequest(name=name))

    await run("destinations/good")
    assert bucket.list_keys("test/", BUCKET) == []
    for name, cause in {
        "wrong-secret": "SignatureDoesNotMatch",
        "unknown-key": "InvalidAccessKeyId",
    }.items():
        async with refused("DESTINATION_REFUSED", destination=f"destinations/{name}", cause=cause):
            await run(name)
    async with refused("DESTINATION_UNAVAILABLE", destination="destinations/nobody-there"):
        await run("nobody-there")
    async with refused("RESOURCE_NOT_FOUND"):
        await run("unknown")


async def test_secret_is_sealed(
    delivery: Delivery, bucket: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A secret is never returned, logged or stored readable; its key is for the owner of the files only."""
    caplog.set_level("DEBUG", "reelhaul_storage")
    created = await delivery.create(**s3_fields(bucket.endpoint_url))
    await delivery.destinations.TestDestination(pb.TestDestinationRequest(name=created.name))
    listed = await delivery.destinations.ListDestinations(pb.ListDestinationsRequest())
    for message in (created, *listed.destinations):
        assert message.access_key.access_key_id == ACCESS_KEY
        assert SECRET_KEY not in str(message)
    assert SECRET_KEY not in caplog.text
    assert (tmp_path / "storage-seal.key").stat().st_mode & 0o777 == 0o600
    databases = [tmp_path / "storage.db", tmp_path / "storage.db-wal"]
    assert ACCESS_KEY.encode() in b"".join(path.read_bytes() for path in databases)
    assert not any(SECRET_KEY.encode() in path.read_bytes() for path in databases)


async def test_key_rotation(start_storage: StartStorage, bucket: S3Server):
    """A secret sealed with an old key is used while the key is among the settings, and refused afterwards."""
    old, new = sealing.create_key(), sealing.create_key()
    for keys, works in ((old, True), (f"{new},{old}", True), (new, False)):
        overrides = {"storage_destination_networks": LOOPBACK, "storage_seal_keys": keys}
        async with start_storage(**overrides) as storage:
            stub = destination_service_pb2_grpc.DestinationServiceStub(storage.channel)
            if keys == old:
                await Delivery(storage, stub).create(**s3_fields(bucket.endpoint_url))
            request = pb.TestDestinationRequest(name="media-bucket")
            if works:
                await stub.TestDestination(request)
            else:
                async with refused("DESTINATION_REFUSED", cause="seal"):
                    await stub.TestDestination(request)


def test_key_file(tmp_path: Path):
    """The key in a file is created once, and stays the same."""
    path = tmp_path / "a.key"
    key = sealing.load_or_create_key(path)
    assert Fernet(key)
    assert sealing.load_or_create_key(path) == key
    assert [file.name for file in tmp_path.iterdir()] == ["a.key"]


async def test_update_and_delete(delivery: Delivery, bucket: S3Server):
    """An update changes what its mask names; a stored secret goes to no other bucket or host."""
    created = await delivery.create(**s3_fields(bucket.endpoint_url, prefix="old/"))
    async with refused("RESOURCE_EXISTS", resource=created.name):
        await delivery.create(**s3_fields(bucket.endpoint_url))
    update = pb.UpdateDestinationRequest(destination=Destination(name=created.name, etag=created.etag))
    update.destination.prefix = "new/"
    updated = await delivery.destinations.UpdateDestination(update)
    assert (updated.prefix, updated.bucket) == ("new/", BUCKET)
    assert updated.access_key.access_key_id == ACCESS_KEY
    async with refused("ETAG_MISMATCH"):
        await delivery.destinations.UpdateDestination(update)
    for fields in ({"bucket": "another"}, {"endpoint_url": "https://192.0.2.1"}):
        update = pb.UpdateDestinationRequest(destination=Destination(name=created.name, **fields))
        async with refused("FIELD_INVALID", field=f"destination.{next(iter(fields))}"):
            await delivery.destinations.UpdateDestination(update)
    await delivery.destinations.TestDestination(pb.TestDestinationRequest(name=created.name))
    await delivery.destinations.DeleteDestination(pb.DeleteDestinationRequest(name=created.name))
    async with refused("RESOURCE_NOT_FOUND"):
        await delivery.destinations.GetDestination(pb.GetDestinationRequest(name=created.name))


async def test_pages(delivery: Delivery):
    """Destinations are listed by id, page by page."""
    for name in ("ccc", "aaa", "bbb"):
        await delivery.create(name, **s3_fields("http://127.0.0.1:9"))
    request = pb.ListDestinationsRequest(page_size=2)
    first = await delivery.destinations.ListDestinations(request)
    request.page_token = first.next_page_token
    second = await delivery.destinations.ListDestinations(request)
    assert [each.name for each in first.destinations] == ["destinations/aaa", "destinations/bbb"]
    assert [each.name for each in second.destinations] == ["destinations/ccc"]
    assert not second.next_page_token


KEY = Destination.AccessKey(access_key_id="id", secret_access_key="secret")
ROLE = Destination.AssumedRole(role_arn="arn:aws:iam::123456789012:role/media")


@pytest.mark.parametrize(
    ("destination_id", "fields", "reason", "field"),
    [
        ("good-one", {}, "", ""),
        ("aa", {}, "FIELD_INVALID", "destination_id"),
        ("Upper", {}, "FIELD_INVALID", "destination_id"),
        ("a" * 64, {}, "FIELD_INVALID", "destination_id"),
        ("good-one", {"bucket": ""}, "FIELD_INVALID", "destination.bucket"),
        ("good-one", {"bucket": "UPPER"}, "FIELD_INVALID", "destination.bucket"),
        ("good-one", {"bucket": "arn:aws:s3:::x"}, "FIELD_INVALID", "destination.bucket"),
        ("good-one", {"bucket": "a/../b"}, "FIELD_INVALID", "destination.bucket"),
        ("good-one", {"region": "evil.example/"}, "FIELD_INVALID", "destination.region"),
        ("good-one", {"prefix": "p" * 500}, "", ""),
        ("good-one", {"prefix": "p" * 501}, "FIELD_INVALID", "destination.prefix"),
        ("good-one", {"prefix": "a\nb"}, "FIELD_INVALID", "destination.prefix"),
        ("good-one", {"display_name": "d" * 101}, "FIELD_INVALID", "destination.display_name"),
        ("good-one", {"server_side_encryption": "aws:kms"}, "", ""),
        (
            "good-one",
            {"server_side_encryption": "none"},
            "FIELD_INVALID",
            "destination.server_side_encryption",
        ),
        ("good-one", {"access_key": None}, "FIELD_INVALID", "destination.access_key"),
        (
            "good-one",
            {"access_key": Destination.AccessKey(access_key_id="id")},
            "FIELD_INVALID",
            "destination.access_key.secret_access_key",
        ),
        ("good-one", {"access_key": None, "assume_role": ROLE}, "", ""),
        (
            "good-one",
            {"access_key": None, "assume_role": Destination.AssumedRole(role_arn="role")},
            "FIELD_INVALID",
            "destination.assume_role.role_arn",
        ),
        (
            "good-one",
            {"access_key": None, "assume_role": ROLE, "endpoint_url": "https://8.8.8.8"},
            "FIELD_INVALID",
            "destination.assume_role",
        ),
        ("good-one", {"endpoint_url": "https://8.8.8.8"}, "", ""),
        ("good-one", {"endpoint_url": "https://8.8.8.8:443/"}, "", ""),
        ("good-one", {"endpoint_url": "http://127.0.0.1:9000"}, "", ""),
        ("good-one", {"endpoint_url": "https://8.8.8.8:22"}, "URL_FORBIDDEN", ""),
        ("good-one", {"endpoint_url": "http://8.8.8.8"}, "URL_FORBIDDEN", ""),
        ("good-one", {"endpoint_url": "https://10.0.0.1"}, "URL_FORBIDDEN", ""),
        ("good-one", {"endpoint_url": "https://[::1]"}, "URL_FORBIDDEN", ""),
        ("good-one", {"endpoint_url": "https://[::ffff:10.0.0.1]"}, "URL_FORBIDDEN", ""),
        ("good-one", {"endpoint_url": "https://169.254.169.254"}, "URL_FORBIDDEN", ""),
        ("good-one", {"endpoint_url": "https://metadata.google.internal"}, "URL_FORBIDDEN", ""),
        ("good-one", {"endpoint_url": "https://0x0a000001"}, "URL_FORBIDDEN", ""),
        ("good-one", {"endpoint_url": "https://2130706433"}, "URL_FORBIDDEN", ""),
        ("good-one", {"endpoint_url": "https://user@8.8.8.8"}, "URL_INVALID", ""),
        ("good-one", {"endpoint_url": "https://8.8.8.8/path"}, "URL_INVALID", ""),
        ("good-one", {"endpoint_url": "https://8.8.8.8?a=b"}, "URL_INVALID", ""),
        ("good-one", {"endpoint_url": "https://8.8.8.8:99999"}, "URL_INVALID", ""),
        ("good-one", {"endpoint_url": "https://[::1"}, "URL_INVALID", ""),
        ("good-one", {"endpoint_url": "ftp://8.8.8.8"}, "URL_INVALID", ""),
        ("good-one", {"endpoint_url": "file:///etc/passwd"}, "URL_INVALID", ""),
        ("good-one", {"endpoint_url": "https://" + "a" * 300}, "URL_INVALID", ""),
        ("good-one", {"endpoint_url": "https://no-such-host.invalid"}, "URL_INVALID", ""),
    ],
)
async def test_validation(
    delivery: Delivery, destination_id: str, fields: dict[str, object], reason: str, field: str
):
    """Wrong fields are refused by name; an endpoint is https at a public address or in an allowed network."""
    values = {name: value for name, value in ({"bucket": "abc", "access_key": KEY} | fields).items() if value}
    if not reason:
        created = await delivery.create(destination_id, **values)
        assert created.name == f"destinations/{destination_id}"
        assert bool(created.assume_role.external_id) is ("assume_role" in values)
        return
    async with refused(reason, **({"field": field} if field else {})):
        await delivery.create(destination_id, **values)


async def test_quota(delivery: Delivery):
    """A tenant has at most 100 destinations."""
    for number in range(100):
        await delivery.create(f"number-{number}", bucket="abc", access_key=KEY)
    async with refused("QUOTA_EXCEEDED", quotaMetric="destinations"):
        await delivery.create("one-more", bucket="abc", access_key=KEY)


# The address guard.


def put_object(guard: AddressGuard, endpoint_url: str) -> None:
    """Write an object through *guard*. Raises what botocore raises."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    session = GuardedSession(guard)
    session.attach(client)
    client.put_object(Bucket=BUCKET, Key="guard", Body=b"x")
    session.close()


def test_changing_dns_answer(bucket: S3Server):
    """The connection goes to the address that was checked, whatever the name resolves to at other times."""
    url = f"http://bucket.example:{bucket.port}"
    answers = iter(["127.0.0.1", "10.0.0.1", "169.254.169.254", "127.0.0.1"])

    def resolve(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        assert host == "bucket.example"
        return [ipaddress.ip_address(next(answers))]

    guard = AddressGuard(LOOPBACK, resolve)
    put_object(guard, url)
    for _ in range(2):
        with pytest.raises(Refused):
            put_object(guard, url)
    put_object(guard, url)


def test_answer_with_private_address(bucket: S3Server):
    """One forbidden address refuses the whole answer, and without the operator's networks loopback is one."""
    url = f"http://bucket.example:{bucket.port}"
    loopback, private = ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("10.0.0.1")
    for guard in (
        AddressGuard(LOOPBACK, lambda host: [loopback, private]),
        AddressGuard((), lambda host: [loopback]),
    ):
        with pytest.raises(Refused):
            put_object(guard, url)


def test_failed_resolution():
    """A name that cannot be resolved is a failed connection."""

    def resolve(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        raise OSError("no such host")

    with pytest.raises(EndpointConnectionError):
        put_object(AddressGuard(LOOPBACK, resolve), "http://bucket.example:1")


# A server that behaves as the tests say.


@dataclass
class FakeS3:
    """Objects by path; *redirect*, *error* and *etag* replace the ordinary behaviour."""

    url: str = ""
    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    redirect: str = ""
    error: tuple[int, str] | None = None
    etag: str = ""
    damage: bytes = b""
    #: Set if requests with a body are held until it is.
    hold: threading.Event | None = None
    session_tokens: set[str] = field(default_factory=set)


@pytest.fixture
def fake_s3() -> Iterator[FakeS3]:
    fake = FakeS3()
    with serving(lambda *arguments: _S3Handler(fake, *arguments)) as url:
        fake.url = url
        yield fake
        if fake.hold is not None:
            fake.hold.set()


@contextmanager
def serving(handler: object) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _S3Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, fake: FakeS3, *arguments: object) -> None:
        self._fake = fake
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *arguments: object) -> None:
        pass

    def handle_any(self) -> None:
        fake, path = self._fake, urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fake.requests.append(f"{self.command} {self.path}")
        fake.session_tokens.add(self.headers.get("x-amz-security-token") or "")
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if fake.redirect:
            return self._respond(307, b"", location=fake.redirect + self.path)
        if fake.error and self.command == "PUT":
            return self._respond(fake.error[0], f"<Error><Code>{fake.error[1]}</Code></Error>".encode())
        if "uploads" in query:
            return self._respond(200, b"<R><UploadId>1</UploadId></R>")
        if "uploadId" in query:
            if fake.hold is not None and self.command == "PUT":
                fake.hold.wait(20)
            return self._respond(204 if self.command == "DELETE" else 200, b"")
        if self.command == "PUT":
            metadata = {key: value for key, value in self.headers.items() if key.startswith("x-amz-meta")}
            fake.objects[path] = fake.damage or body, metadata
            return self._respond(200, b"", etag=self._etag(body))
        if self.command == "DELETE":
            fake.objects.pop(path, None)
            return self._respond(204, b"")
        if path not in fake.objects:
            return self._respond(404, b"")
        content, metadata = fake.objects[path]
        return self._respond(200, content, etag=self._etag(content), **metadata)

    do_PUT = do_GET = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815

    def _etag(self, content: bytes) -> str:
        return self._fake.etag or f'"{hashlib.md5(content).hexdigest()}"'

    def _respond(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


async def test_redirects_are_not_followed(delivery: Delivery, fake_s3: FakeS3, bucket: S3Server):
    """A redirect of the endpoint, wherever it leads, ends the delivery."""
    fake_s3.redirect = bucket.endpoint_url
    await delivery.create(**s3_fields(fake_s3.url))
    artifact = await delivery.storage.write_artifact(b"content", tenant=TENANT)
    async with refused("DESTINATION_REFUSED"):
        await delivery.deliver(artifact.name, "redirected/a")
    assert bucket.list_keys("redirected/", BUCKET) == []


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (503, "SlowDown", "DESTINATION_UNAVAILABLE"),
        (500, "InternalError", "DESTINATION_UNAVAILABLE"),
        (403, "AccessDenied", "DESTINATION_REFUSED"),
        (403, "RequestTimeTooSkewed", "DESTINATION_REFUSED"),
        (404, "NoSuchBucket", "DESTINATION_REFUSED"),
    ],
)
async def test_errors_of_the_bucket(delivery: Delivery, fake_s3: FakeS3, status: int, code: str, reason: str):
    """Throttling and failures of the service may pass; what it rejects is refused with its code."""
    fake_s3.error = status, code
    await delivery.create(**s3_fields(fake_s3.url))
    artifact = await delivery.storage.write_artifact(b"content", tenant=TENANT)
    cause = {"cause": code} if reason == "DESTINATION_REFUSED" else {}
    async with refused(reason, destination="destinations/media-bucket", **cause):
        await delivery.deliver(artifact.name, "job/a")


async def test_foreign_etag(delivery: Delivery, fake_s3: FakeS3):
    """Where the ETag is no MD5 the bytes are read back; a damaged object is deleted."""
    fake_s3.etag = '"something else"'
    await delivery.create(**s3_fields(fake_s3.url))
    artifact = await delivery.storage.write_artifact(b"content", tenant=TENANT)
    path = f"/{BUCKET}/job/a"
    assert (await delivery.deliver(artifact.name, "job/a")).etag == fake_s3.etag
    assert f"GET {path}" in fake_s3.requests
    fake_s3.objects.clear()
    fake_s3.damage = b"damaged"
    async with refused("DESTINATION_UNAVAILABLE"):
        await delivery.deliver(artifact.name, "job/a")
    assert fake_s3.objects == {}


async def test_cancelled_delivery(delivery: Delivery, fake_s3: FakeS3):
    """A delivery that is cancelled deletes the parts that it has sent."""
    fake_s3.hold = threading.Event()
    await delivery.create(**s3_fields(fake_s3.url))
    artifact = await delivery.storage.write_artifact(random_bytes(100 * MIB), tenant=TENANT)
    delivering = asyncio.create_task(delivery.deliver(artifact.name, "job/a"))
    await wait_until(lambda: any("partNumber=1" in request for request in fake_s3.requests))
    delivering.cancel()
    await asyncio.wait([delivering])
    fake_s3.hold.set()
    path = f"/{BUCKET}/job/a?uploadId=1"
    await wait_until(lambda: f"DELETE {path}" in fake_s3.requests)
    assert f"POST {path}" not in fake_s3.requests


@contextmanager
def endless_server(body: bool) -> Iterator[str]:
    """Serve a response without an end: its *body*, as fast as it is read, or its headers, byte by byte."""
    stopped = threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_PUT(self) -> None:
            self.send_response(200)
            self.send_header("x-a", "b")
            with suppress(OSError):
                if body:
                    self.end_headers()
                else:
                    self.flush_headers()
                while not stopped.wait(0 if body else 0.01):
                    self.wfile.write(bytes(MIB) if body else b"x")

    with serving(Endless) as url:
        try:
            yield url
        finally:
            stopped.set()


async def test_endless_body(delivery: Delivery):
    """A response that does not end is not read: it would fill the memory."""
    with endless_server(body=True) as url:
        destination = await delivery.create(**s3_fields(url))
        async with refused("DESTINATION_UNAVAILABLE"):
            await delivery.destinations.TestDestination(pb.TestDestinationRequest(name=destination.name))


async def test_slow_endpoint(delivery: Delivery, bucket: S3Server, monkeypatch: pytest.MonkeyPatch):
    """Responses that arrive byte by byte take no thread from others for long."""
    monkeypatch.setattr(destinations, "_TEST_SECONDS", 0.5)
    with endless_server(body=False) as url:
        slow = await delivery.create("slow", **s3_fields(url))
        request = pb.TestDestinationRequest(name=slow.name)
        calls = [delivery.destinations.TestDestination(request) for _ in range(16)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {error_details(result).reason for result in results} == {"DESTINATION_UNAVAILABLE"}
        monkeypatch.undo()
        fast = await delivery.create("fast", **s3_fields(bucket.endpoint_url))
        await delivery.destinations.TestDestination(pb.TestDestinationRequest(name=fast.name))


async def test_slow_delivery(delivery: Delivery, monkeypatch: pytest.MonkeyPatch):
    """A delivery to such an endpoint ends after a time that its size allows."""
    monkeypatch.setattr(destinations, "_MIN_SECONDS", 0.5)
    monkeypatch.setattr(destinations, "_CANCEL_SECONDS", 0.1)
    artifact = await delivery.storage.write_artifact(b"content", tenant=TENANT)
    with endless_server(body=False) as url:
        await delivery.create(**s3_fields(url))
        calls = [delivery.deliver(artifact.name, f"{n}") for n in range(16)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {error_details(result).reason for result in results} == {"DESTINATION_UNAVAILABLE"}


async def test_assumed_role(
    delivery: Delivery, fake_s3: FakeS3, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server
):
    """A role is assumed with its external id by the server's own credentials, and its session is used."""
    bodies: list[dict[str, list[str]]] = []

    class Sts(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_POST(self) -> None:
            bodies.append(parse_qs(self.rfile.read(int(self.headers["content-length"])).decode()))
            body = (
                b'<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
                b"<Credentials><AccessKeyId>session</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
                b"<SessionToken>the-token</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>"
                b"</Credentials></AssumeRoleResult></AssumeRoleResponse>"
            )
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)
    role = await delivery.create(bucket=BUCKET, assume_role=ROLE, path_style=True)
    with serving(Sts) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        async with refused("DESTINATION_UNAVAILABLE"):
            # The session is for AWS, which is not reached from here.
            await delivery.destinations.TestDestination(pb.TestDestinationRequest(name=role.name))
    assert bodies[0]["RoleArn"] == [ROLE.role_arn]
    assert bodies[0]["ExternalId"] == [role.assume_role.external_id]


def test_networks_of_the_settings(monkeypatch: pytest.MonkeyPatch):
    """Storage reads the networks of destinations beside those of fetches, which all services read."""
    monkeypatch.setenv("REELHAUL_FETCHER_ALLOW_NETWORKS", "127.0.0.2/32,10.0.0.0/8")
    monkeypatch.setenv("REELHAUL_STORAGE_DESTINATION_NETWORKS", "127.0.0.1/32")
    settings = Settings()
    assert list(map(str, settings.fetcher_allow_networks)) == ["127.0.0.2/32", "10.0.0.0/8"]
    assert list(map(str, settings.storage_destination_networks)) == ["127.0.0.1/32"]
