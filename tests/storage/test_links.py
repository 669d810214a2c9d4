"""Signed links to artifacts on the local disk, fetched by plain HTTP clients without a credential."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit

import grpc
import httpx
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.storage.conftest import TOKEN, StartStorage, StorageService, error_details, random_bytes

from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul_gateway import app as gateway
from reelhaul_gateway.settings import Settings as GatewaySettings

FILE_NAME = "Über „uns“ 100% #1 + {x}?.mp4"
CONTENT = random_bytes((1 << 20) + 7)
SIZE = len(CONTENT)
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
KEYS = ["first-key-" + "1" * 32, "second-key-" + "2" * 32]


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


async def sign(storage: StorageService, name: str, **fields: object) -> str:
    """Return a link to artifact *name*."""
    return (await storage.client.SignArtifactUrl(pb.SignArtifactUrlRequest(name=name, **fields))).url


def reason(response: httpx.Response) -> str:
    """Return the reason of a refusal."""
    return response.json()["details"][0]["reason"]


async def test_link_serves_the_file_without_a_credential(storage, http):
    """Bytes, type, length and ETag as the gateway sends them, under the artifact's file name."""
    response = await http.get(await sign(storage, (await write(storage)).name))
    assert response.status_code == 200
    assert response.content == CONTENT
    assert response.headers["content-length"] == str(SIZE)
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["etag"] == ETAG
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-disposition"].startswith("attachment; filename=")
    assert "filename*=UTF-8''%C3%9Cber%20%E2%80%9Euns%E2%80%9C" in response.headers["content-disposition"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]
    assert "server" not in response.headers


async def test_link_is_inline_if_the_type_is_safe(storage, http):
    """disposition=inline shows media in the browser; what could run there is saved in any case."""
    kinds = {"video/mp4": "inline", "text/html": "attachment", "image/svg+xml": "attachment"}
    for media_type, kind in kinds.items():
        artifact = await write(storage, media_type=media_type)
        response = await http.get(await sign(storage, artifact.name, disposition="inline"))
        assert response.headers["content-disposition"].startswith(f"{kind};")


async def test_link_keeps_the_name_that_the_artifact_had(storage, http):
    """A file that is renamed after its link was signed is saved under the earlier name."""
    artifact = await write(storage, file_name="before.mp4")
    url = await sign(storage, artifact.name)
    renamed = artifact_pb2.Artifact(name=artifact.name, file_name="after.mp4")
    await storage.client.UpdateArtifact(pb.UpdateArtifactRequest(artifact=renamed))
    assert "before.mp4" in (await http.get(url)).headers["content-disposition"]


async def test_head_sends_the_headers_of_get(storage, http):
    """HEAD says size, name and ETag without the bytes."""
    url = await sign(storage, (await write(storage)).name)
    head, get = await http.head(url), await http.get(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "content-disposition", "accept-ranges"):
        assert head.headers[name] == get.headers[name]


RANGES = [
    ({"range": "bytes=0-0"}, 206, 0, 1),
    ({"range": "bytes=524287-524290"}, 206, 524287, 524291),
    ({"range": "bytes=-5"}, 206, SIZE - 5, SIZE),
    ({"range": f"bytes=7-{SIZE * 2}"}, 206, 7, SIZE),
    ({"range": "bytes=7-", "if-range": ETAG}, 206, 7, SIZE),
    ({"range": "bytes=7-", "if-range": '"other"'}, 200, 0, SIZE),
    ({"range": "bytes=0-1,4-5"}, 200, 0, SIZE),
    ({"if-none-match": ETAG}, 304, 0, 0),
    ({"if-match": ETAG}, 200, 0, SIZE),
    ({"if-match": '"other"'}, 412, None, None),
    ({"range": f"bytes={SIZE}-"}, 416, None, None),
    ({"range": "bytes=-0"}, 416, None, None),
]


async def test_ranges_and_conditions(storage, http):
    """206 with exactly the bytes of the range, 304, 412 and 416 as RFC 9110 says; If-Range guards."""
    url = await sign(storage, (await write(storage)).name)
    for headers, status, start, stop in RANGES:
        response = await http.get(url, headers=headers)
        assert (headers, response.status_code) == (headers, status)
        if start is not None:
            assert response.content == CONTENT[start:stop]
        if status == 206:
            assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
        if status == 416:
            assert response.headers["content-range"] == f"bytes */{SIZE}"
            assert reason(response) == "RANGE_INVALID"


async def test_empty_file_and_odd_methods(storage, http):
    """An empty artifact is 200 without bytes; only GET and HEAD are served, and only links."""
    artifact = await storage.write_artifact(b"", file_name="empty.txt")
    url = await sign(storage, artifact.name)
    empty = await http.get(url)
    assert (empty.status_code, empty.content) == (200, b"")
    assert [(await http.request(method, url)).status_code for method in ("POST", "PUT", "DELETE")] == [
        405
    ] * 3
    base = url.partition("/artifacts/")[0]
    assert [(await http.get(base + path)).status_code for path in ("/", "/artifacts", "/../etc/passwd")] == [
        404
    ] * 3


def _altered(url: str) -> dict[str, str]:
    """Return *url* with each of its fields altered, by the name of the field."""
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query))
    base = parts.path.rpartition("/")[0]
    urls = {
        "file name": parts._replace(path=f"{base}/other.html").geturl(),
        "artifact": url.replace(base, base[:-1] + ("0" if base[-1] != "0" else "1")),
        "no cidr": parts._replace(
            query=urlencode({name: value for name, value in parameters.items() if name != "cidr"})
        ).geturl(),
    }
    changes = {
        "expires": str(int(parameters["expires"]) + 1),
        "generation": "1",
        "disposition": "inline",
        "cidr": "0.0.0.0/0",
        "key": "00000000",
        "signature": parameters["signature"][:-2] + "AA",
    }
    for name, value in changes.items():
        urls[name] = parts._replace(query=urlencode(parameters | {name: value})).geturl()
    return urls


async def test_altered_link_is_refused_whatever_was_altered(storage, http):
    """A link with another name, artifact, expiry, generation, disposition, network or key is no link."""
    url = await sign(storage, (await write(storage)).name, ip_cidr="127.0.0.0/8")
    assert (await http.get(url)).status_code == 200
    for field, altered in _altered(url).items():
        response = await http.get(altered)
        assert (field, response.status_code, reason(response)) == (field, 403, "CREDENTIAL_INVALID")
        assert CONTENT[:16] not in response.content


MALFORMED = [
    (lambda url: url.partition("?")[0], "disposition"),
    (lambda url: url + "&color=red", "color"),
    (lambda url: url + "&expires=1", "query"),
    (lambda url: url.replace("expires=", "expires=-"), "expires"),
    (lambda url: url.replace("expires=", "expires=" + "9" * 12), "expires"),
    (lambda url: url.replace("generation=0", "generation=x"), "generation"),
    (lambda url: url.replace("=attachment", "=run"), "disposition"),
    (lambda url: url + "&cidr=127.0.0.1%2F8", "cidr"),
    (lambda url: url + "&cidr=" + "1" * 2000, "query"),
    (lambda url: url.replace("/artifacts/", "/artifacts/%2e%2e%2f"), "artifact"),
    (lambda url: url.replace("&signature=", "&sig="), "sig"),
    (lambda url: url.partition("&signature=")[0], "signature"),
]


async def test_malformed_link_is_refused_by_name(storage, http):
    """400 names what is wrong with a link, before anything is looked up; the same link unchanged works."""
    url = await sign(storage, (await write(storage, file_name="a.mp4")).name)
    for change, field in MALFORMED:
        response = await http.get(change(url))
        assert (response.status_code, reason(response)) == (400, "FIELD_INVALID")
        assert response.json()["details"][0]["metadata"]["field"] == field
    assert (await http.get(url)).status_code == 200


async def test_link_expires(storage, http):
    """A link works for an hour, or for its ttl, and is refused afterwards; a running download is not cut."""
    name = (await write(storage)).name
    response = await storage.client.SignArtifactUrl(pb.SignArtifactUrlRequest(name=name))
    lifetime = response.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(minutes=59) < lifetime <= timedelta(hours=1)
    short = await sign(storage, name, ttl=Duration(seconds=60))
    async with http.stream("GET", short) as download:
        pieces = download.aiter_bytes()
        received = await anext(pieces)
        storage.clock.offset = timedelta(seconds=61)
        expired = await http.get(short)
        assert (expired.status_code, reason(expired)) == (403, "CREDENTIAL_INVALID")
        assert "expired" in expired.json()["message"]
        received += b"".join([piece async for piece in pieces])
    assert received == CONTENT
    assert (await http.get(response.url)).status_code == 200


async def test_link_never_outlives_its_artifact(storage, http):
    """The expiry of a link is at most that of its artifact; one that expires earlier after all is 410."""
    artifact = await write(storage, ttl=Duration(seconds=600))
    request = pb.SignArtifactUrlRequest(name=artifact.name, ttl=Duration(seconds=7 * 86400))
    response = await storage.client.SignArtifactUrl(request)
    assert response.expire_time.seconds == artifact.expire_time.seconds
    sooner = artifact_pb2.Artifact(name=artifact.name, ttl=Duration(seconds=60))
    await storage.client.UpdateArtifact(pb.UpdateArtifactRequest(artifact=sooner))
    storage.clock.offset = timedelta(seconds=61)
    gone = await http.get(response.url)
    assert (gone.status_code, reason(gone)) == (410, "ARTIFACT_EXPIRED")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await sign(storage, artifact.name)
    assert error_details(failed.value).reason == "ARTIFACT_EXPIRED"


async def test_link_to_a_deleted_artifact_is_gone(storage, http):
    """404 after the artifact was deleted, although the link has not expired."""
    artifact = await write(storage)
    url = await sign(storage, artifact.name)
    await storage.client.DeleteArtifact(pb.DeleteArtifactRequest(name=artifact.name))
    response = await http.get(url)
    assert (response.status_code, reason(response)) == (404, "RESOURCE_NOT_FOUND")


async def test_revoked_links_are_refused(storage, http):
    """All links so far stop working, those of other artifacts do not; a new link works."""
    artifact, other = await write(storage), await write(storage)
    url, other_url = await sign(storage, artifact.name), await sign(storage, other.name)
    revoked = await storage.client.RevokeArtifactUrls(pb.RevokeArtifactUrlsRequest(name=artifact.name))
    assert revoked.etag != artifact.etag
    response = await http.get(url)
    assert (response.status_code, reason(response)) == (403, "CREDENTIAL_INVALID")
    assert "revoked" in response.json()["message"]
    assert (await http.get(other_url)).status_code == 200
    assert (await http.get(await sign(storage, artifact.name))).status_code == 200


async def test_link_works_only_from_its_network(storage, http):
    """The address of the connection counts; headers that name another one are not believed."""
    name = (await write(storage)).name
    forged = {"x-forwarded-for": "192.0.2.1", "forwarded": "for=192.0.2.1", "x-real-ip": "::1"}
    allowed, others = ("127.0.0.1/32", "127.0.0.0/8", "0.0.0.0/0"), ("192.0.2.0/24", "::1/128", "::/0")
    for cidr in allowed + others:
        url = await sign(storage, name, ip_cidr=cidr)
        for headers in ({}, forged):
            response = await http.get(url, headers=headers)
            assert (cidr, response.status_code) == (cidr, 200 if cidr in allowed else 403)
            assert response.status_code == 200 or reason(response) == "ADDRESS_FORBIDDEN"


BAD_TERMS = [
    ({"ttl": Duration(seconds=0)}, "ttl"),
    ({"ttl": Duration(seconds=-5)}, "ttl"),
    ({"ttl": Duration(seconds=7 * 86400 + 1)}, "ttl"),
    ({"ttl": Duration(seconds=1 << 62)}, "ttl"),
    ({"ip_cidr": "192.0.2.1/24"}, "ip_cidr"),
    ({"ip_cidr": "somewhere"}, "ip_cidr"),
    ({"ip_cidr": "1" * 5000}, "ip_cidr"),
    ({"disposition": "run"}, "disposition"),
]


async def test_bad_terms_are_refused_by_name(storage):
    """A ttl outside one second to seven days, a network with host bits, or another disposition is named."""
    name = (await write(storage)).name
    for fields, field in BAD_TERMS:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await sign(storage, name, **fields)
        details = error_details(failed.value)
        assert (details.reason, details.metadata["field"]) == ("FIELD_INVALID", field)
    allowed = {"ttl": Duration(seconds=7 * 86400), "ip_cidr": "192.0.2.0/24", "disposition": "attachment"}
    assert await sign(storage, name, **allowed)


async def test_keys_are_rotated_without_breaking_links(start_storage: StartStorage, http):
    """A new key in front signs; links of the old one work until it is removed."""
    async with start_storage(storage_link_keys=KEYS[0]) as storage:
        name = (await write(storage)).name
        old = urlsplit(await sign(storage, name))

    def move(storage_url: str) -> str:
        return old._replace(netloc=urlsplit(storage_url).netloc).geturl()

    async with start_storage(storage_link_keys=f"{KEYS[1]},{KEYS[0]}") as storage:
        new = await sign(storage, name)
        assert dict(parse_qsl(urlsplit(new).query))["key"] != dict(parse_qsl(old.query))["key"]
        assert (await http.get(new)).status_code == (await http.get(move(new))).status_code == 200
    async with start_storage(storage_link_keys=KEYS[1]) as storage:
        refused = await http.get(move(await sign(storage, name)))
        assert (refused.status_code, reason(refused)) == (403, "CREDENTIAL_INVALID")


async def test_links_survive_a_restart(start_storage: StartStorage, http):
    """Without a key of their own, links are signed with one derived from the suite token, which stays."""
    async with start_storage() as storage:
        old = urlsplit(await sign(storage, (await write(storage)).name))
    async with start_storage() as storage:
        other = urlsplit(await sign(storage, (await write(storage)).name))
        assert (await http.get(old._replace(netloc=other.netloc).geturl())).content == CONTENT


async def test_links_have_the_public_address(start_storage: StartStorage):
    """Behind a proxy, links begin with its URL; a network would be the proxy's, so it is not supported."""
    async with start_storage(storage_public_url="https://media.example.org/files/") as storage:
        name = (await write(storage)).name
        assert (await sign(storage, name)).startswith(f"https://media.example.org/files/{name}/")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await sign(storage, name, ip_cidr="192.0.2.0/24")
        assert error_details(failed.value).reason == "METHOD_UNSUPPORTED"


async def test_damaged_bytes_are_not_served(storage, http):
    """A file that lost bytes is ARTIFACT_CORRUPT; one with other bytes never arrives completely."""
    url = await sign(storage, (await write(storage)).name)
    (path,) = storage.blob_files()
    path.chmod(0o600)
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get(url)
    path.write_bytes(CONTENT[:-1])
    response = await http.get(url)
    assert (response.status_code, reason(response)) == (500, "ARTIFACT_CORRUPT")


async def test_missing_and_foreign_artifacts_have_no_links(storage):
    """A link to an artifact that does not exist is not signed, nor are its links revoked."""
    name = "artifacts/00000000-0000-4000-8000-000000000000"
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await sign(storage, name)
    assert error_details(failed.value).reason == "RESOURCE_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await storage.client.RevokeArtifactUrls(pb.RevokeArtifactUrlsRequest(name=name))
    assert error_details(failed.value).reason == "RESOURCE_NOT_FOUND"


async def test_logs_have_no_signature(storage, http, caplog):
    """A request for a link is logged with its artifact, and without what would let a reader use the link."""
    caplog.set_level(logging.DEBUG)
    artifact = await write(storage)
    url = await sign(storage, artifact.name)
    await http.get(url)
    signature = dict(parse_qsl(urlsplit(url).query))["signature"]
    ours = [record for record in caplog.records if record.name.startswith("reelhaul")]
    assert any(getattr(record, "artifact", "") == artifact.name for record in ours)
    assert not any(signature in str(vars(record)) for record in ours)


async def test_client_that_leaves_ends_the_download(storage, http):
    """A client that disconnects in mid-download does not hold storage up: it stops at once."""
    url = await sign(storage, (await storage.write_artifact(bytes(64 << 20))).name)
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 12)
    writer.write(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.transport.abort()
    assert (await http.get(await sign(storage, (await write(storage)).name))).content == CONTENT


async def test_redirect_of_the_gateway_leads_to_the_file(storage, http):
    """GET ?redirect=true of the gateway, followed: the bytes come from storage, in ranges, with one ETag."""
    artifact = await write(storage)
    settings = GatewaySettings(
        gateway_address="127.0.0.1:0",
        storage_address=f"127.0.0.1:{storage.port}",
        suite_token=TOKEN,
        drain_seconds=0,
    )
    async with gateway.running(settings) as port:
        url = f"http://127.0.0.1:{port}/v1/{artifact.name}:download"
        streamed = await http.get(url)
        redirected = await http.get(f"{url}?redirect=true", follow_redirects=True)
        part = await http.get(f"{url}?redirect=true", headers={"range": "bytes=9-"}, follow_redirects=True)
        revoked = await http.post(f"http://127.0.0.1:{port}/v1/{artifact.name}:revokeUrls", json={})
        refused = await http.get(redirected.url)
    assert streamed.content == redirected.content == CONTENT
    assert redirected.url.port not in (port, storage.port)
    for name in ("etag", "content-disposition", "content-type", "content-length", "content-security-policy"):
        assert redirected.headers[name] == streamed.headers[name]
    assert (part.status_code, part.content) == (206, CONTENT[9:])
    assert (revoked.status_code, refused.status_code) == (200, 403)
