"""Links to artifacts on S3: presigned URLs against a real server, and CloudFront's signed URLs."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import grpc
import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.duration_pb2 import Duration
from pydantic import ValidationError
from tests.s3_server import S3Server
from tests.storage.conftest import StartStorage, StorageService, error_details, random_bytes, wait_until

from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul_storage.settings import Settings

CONTENT = random_bytes(100_007)
FILE_NAME = "Über uns #1 + 100%.mp4"
DOMAIN = "https://d111111abcdef8.cloudfront.net"
KEY_PAIR_ID = "K2JCJMDEHXQW5F"


@pytest.fixture
async def s3_storage(
    s3_server: S3Server, start_storage: StartStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[StorageService]:
    """A storage service on a bucket."""
    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)
    async with start_storage(storage_url=s3_server.storage_url(tmp_path.name)) as storage:
        yield storage


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client without credentials."""
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        yield client


async def write(storage: StorageService, **fields: object) -> artifact_pb2.Artifact:
    """Write CONTENT; return its artifact."""
    return await storage.write_artifact(
        CONTENT, **({"file_name": FILE_NAME, "media_type": "video/mp4"} | fields)
    )


async def sign(storage: StorageService, name: str, **fields: object) -> pb.SignArtifactUrlResponse:
    """Return a link to artifact *name*."""
    return await storage.client.SignArtifactUrl(pb.SignArtifactUrlRequest(name=name, **fields))


async def test_presigned_link_serves_the_file(s3_storage, s3_server, http):
    """S3 itself sends the bytes, in ranges too, under the artifact's name and type; for an hour."""
    link = await sign(s3_storage, (await write(s3_storage)).name, disposition="inline")
    assert link.url.startswith(s3_server.endpoint_url)
    response = await http.get(link.url)
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["content-disposition"].startswith("inline; filename=")
    assert "filename*=UTF-8''%C3%9Cber%20uns%20#1%20+%20100%25.mp4" in response.headers["content-disposition"]
    part = await http.get(link.url, headers={"range": "bytes=100000-"})
    assert (part.status_code, part.content) == (206, CONTENT[100_000:])
    assert (await http.get(link.url, headers={"range": f"bytes={len(CONTENT)}-"})).status_code == 416
    parameters = dict(parse_qsl(urlsplit(link.url).query))
    assert 3595 <= int(parameters["X-Amz-Expires"]) <= 3600


async def test_altered_presigned_link_is_refused(s3_storage, http):
    """S3 refuses a link for another object, a longer time or another disposition; and it expires."""
    artifact, other = await write(s3_storage), await s3_storage.write_artifact(random_bytes(10))
    link = (await sign(s3_storage, artifact.name, ttl=Duration(seconds=1))).url
    path = urlsplit(link).path
    altered = [
        link.replace("X-Amz-Expires=1&", "X-Amz-Expires=600&"),
        link.replace("attachment", "inline"),
        link.replace(path, urlsplit((await sign(s3_storage, other.name)).url).path),
        link[:-2] + ("00" if link[-2:] != "00" else "11"),
    ]
    assert [url == link for url in altered] == [False] * 4
    assert [(await http.get(url)).status_code for url in altered] == [403] * 4

    async def is_expired() -> bool:
        return (await http.get(link)).status_code == 403

    await wait_until(is_expired)


async def test_presigned_links_have_no_network_and_are_not_revoked(s3_storage, http):
    """What S3 cannot do is METHOD_UNSUPPORTED with the remedy: deleting the artifact ends its links."""
    name = (await write(s3_storage)).name
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await sign(s3_storage, name, ip_cidr="127.0.0.0/8")
    assert error_details(failed.value).reason == "METHOD_UNSUPPORTED"
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await s3_storage.client.RevokeArtifactUrls(pb.RevokeArtifactUrlsRequest(name=name))
    assert error_details(failed.value).metadata["method"] == "RevokeArtifactUrls"
    assert "delete the artifact" in str(failed.value.details())
    link = (await sign(s3_storage, name)).url
    await s3_storage.client.DeleteArtifact(pb.DeleteArtifactRequest(name=name))
    assert (await http.get(link)).status_code == 404


# --- CloudFront


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    """The private key of the distribution."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def write_key(path: Path, key: RSAPrivateKey | ec.EllipticCurvePrivateKey) -> Path:
    """Write *key* as PEM."""
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.fixture
async def cloudfront(
    s3_server: S3Server,
    start_storage: StartStorage,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    key: RSAPrivateKey,
) -> AsyncIterator[StorageService]:
    """A storage service on a bucket behind a CloudFront distribution."""
    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)
    async with start_storage(
        storage_url=s3_server.storage_url(tmp_path.name),
        storage_cloudfront_url=f"{DOMAIN}/",
        storage_cloudfront_key_pair_id=KEY_PAIR_ID,
        storage_cloudfront_key_file=write_key(tmp_path / "cloudfront.pem", key),
    ) as storage:
        yield storage


def decode(text: str) -> bytes:
    """Decode base64 as CloudFront writes it in URLs."""
    return base64.b64decode(text.replace("-", "+").replace("_", "=").replace("~", "/"))


def split_signed(url: str) -> tuple[str, dict[str, str]]:
    """Return the resource of a signed URL, and the parameters that CloudFront added."""
    resource, parameters = url, {}
    while (last := resource.rpartition("&"))[2].partition("=")[0] in (
        "Expires",
        "Policy",
        "Signature",
        "Key-Pair-Id",
    ):
        name, _, value = last[2].partition("=")
        resource, parameters[name] = last[0], value
    return resource, parameters


async def test_cloudfront_link_with_a_canned_policy(cloudfront, s3_server, key):
    """The signature is of the policy that CloudFront derives from URL and expiry, name and type included."""
    link = await sign(cloudfront, (await write(cloudfront)).name, disposition="inline")
    resource, parameters = split_signed(link.url)
    assert set(parameters) == {"Expires", "Signature", "Key-Pair-Id"}
    assert parameters["Key-Pair-Id"] == KEY_PAIR_ID
    assert int(parameters["Expires"]) == link.expire_time.seconds
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-creating-signed-url-canned-policy.html
    policy = (
        f'{{"Statement":[{{"Resource":"{resource}","Condition":'
        f'{{"DateLessThan":{{"AWS:EpochTime":{parameters["Expires"]}}}}}}}]}}'
    )
    public_key = key.public_key()
    public_key.verify(decode(parameters["Signature"]), policy.encode(), PKCS1v15(), SHA1())
    later = policy.replace(parameters["Expires"], str(int(parameters["Expires"]) + 1))
    with pytest.raises(InvalidSignature):
        public_key.verify(decode(parameters["Signature"]), later.encode(), PKCS1v15(), SHA1())
    parts = urlsplit(resource)
    assert f"{parts.scheme}://{parts.netloc}" == DOMAIN
    # The path is the object's: what the distribution requests from its origin.
    assert unquote(parts.path.removeprefix("/")) in s3_server.list_keys()
    headers = dict(parse_qsl(parts.query))
    assert headers["response-content-type"] == "video/mp4"
    assert headers["response-content-disposition"].startswith("inline; filename=")
    assert "+" not in resource


async def test_cloudfront_link_with_a_custom_policy(cloudfront, key):
    """A link for a network has its policy with it: resource, expiry and source address, signed."""
    name = (await write(cloudfront)).name
    link = await sign(cloudfront, name, ip_cidr="192.0.2.0/24", ttl=Duration(seconds=60))
    resource, parameters = split_signed(link.url)
    assert set(parameters) == {"Policy", "Signature", "Key-Pair-Id"}
    policy = decode(parameters["Policy"])
    key.public_key().verify(decode(parameters["Signature"]), policy, PKCS1v15(), SHA1())
    assert json.loads(policy) == {
        "Statement": [
            {
                "Resource": resource,
                "Condition": {
                    "DateLessThan": {"AWS:EpochTime": link.expire_time.seconds},
                    "IpAddress": {"AWS:SourceIp": "192.0.2.0/24"},
                },
            }
        ]
    }
    assert 50 < link.expire_time.seconds - datetime.now(UTC).timestamp() <= 60
    # The only wildcard of CloudFront's patterns in it is the one that stands for itself.
    assert resource.count("?") == 1
    assert "*" not in resource
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await sign(cloudfront, name, ip_cidr="2001:db8::/32")
    assert error_details(failed.value).reason == "METHOD_UNSUPPORTED"


def test_cloudfront_settings_are_complete_and_name_a_usable_key(tmp_path: Path, key: RSAPrivateKey):
    """All three settings, an s3:// URL and an RSA key of 2048 bits; what is wrong is named."""
    right = {
        "data_dir": tmp_path,
        "storage_url": "s3://media/prefix",
        "storage_cloudfront_url": DOMAIN,
        "storage_cloudfront_key_pair_id": KEY_PAIR_ID,
        "storage_cloudfront_key_file": write_key(tmp_path / "right.pem", key),
    }
    assert Settings(**right).storage_cloudfront_url == DOMAIN
    (tmp_path / "text.pem").write_text("no key")
    weak = generate_private_key(public_exponent=65537, key_size=1024)
    other = ec.generate_private_key(ec.SECP256R1())
    wrong = [
        ({"storage_cloudfront_url": ""}, "set together"),
        ({"storage_cloudfront_key_pair_id": ""}, "set together"),
        ({"storage_cloudfront_key_file": None}, "set together"),
        ({"storage_url": ""}, "set together"),
        ({"storage_cloudfront_key_pair_id": "a/b"}, "id of a public key"),
        ({"storage_cloudfront_key_file": tmp_path / "none.pem"}, "cannot be read"),
        ({"storage_cloudfront_key_file": tmp_path / "text.pem"}, "in PEM"),
        ({"storage_cloudfront_key_file": write_key(tmp_path / "weak.pem", weak)}, "2048 bits"),
        ({"storage_cloudfront_key_file": write_key(tmp_path / "ec.pem", other)}, "RSA"),
    ]
    for change, message in wrong:
        with pytest.raises(ValidationError, match=message):
            Settings(**(right | change))
