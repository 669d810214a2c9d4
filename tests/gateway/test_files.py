"""Artifact downloads over HTTP."""

from __future__ import annotations

import hashlib

import httpx
import pytest
from tests.gateway.fake_services import CONTENT, LINK, running_gateway

URL = "/v1/artifacts/video:download"
SIZE = len(CONTENT)
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


async def test_whole_file(client):
    """Bytes, type, length, ETag, and a file name that is safe in every browser."""
    response = await client.get(URL)
    assert response.status_code == 200
    assert response.content == CONTENT
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["content-length"] == str(SIZE)
    assert response.headers["etag"] == ETAG
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]
    encoded = "%C3%9Cber%20%E2%80%9Euns%E2%80%9C%20100%25.mp4"
    assert response.headers["content-disposition"] == (
        f"attachment; filename=\"_ber _uns_ 100_.mp4\"; filename*=UTF-8''{encoded}"
    )


async def test_head_has_the_headers_of_get(client):
    """HEAD sends no bytes."""
    head, get = await client.head(URL), await client.get(URL)
    assert head.content == b""
    for name in ("content-length", "content-type", "etag", "content-disposition"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        (f"bytes=-{SIZE + 1}", 0, SIZE),
        (f"bytes=7-{SIZE * 2}", 7, SIZE),
        ("bytes=524287-524289", 524287, 524290),
    ],
)
async def test_range(client, header, start, stop):
    """206 with exactly the bytes of the range."""
    response = await client.get(URL, headers={"range": header})
    assert response.status_code == 206
    assert response.content == CONTENT[start:stop]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "bytes=a-b"])
async def test_invalid_range_is_ignored(client, header):
    """The response is the whole file."""
    response = await client.get(URL, headers={"range": header})
    assert response.status_code == 200
    assert response.content == CONTENT


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=-0"])
async def test_range_past_the_end(client, header):
    """416 with the size of the file."""
    response = await client.get(URL, headers={"range": header})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{SIZE}"
    assert response.json()["details"][0]["reason"] == "RANGE_INVALID"
    assert response.json()["details"][0]["metadata"]["sizeBytes"] == str(SIZE)


async def test_if_range(client):
    """The range applies only to the same file; otherwise the whole file is sent."""
    same = await client.get(URL, headers={"range": "bytes=10-", "if-range": ETAG})
    other = await client.get(URL, headers={"range": "bytes=10-", "if-range": '"other"'})
    date = await client.get(URL, headers={"range": "bytes=10-", "if-range": "Sat, 29 Oct 1994 19:43:31 GMT"})
    assert (same.status_code, other.status_code, date.status_code) == (206, 200, 200)


async def test_conditional_requests(client):
    """If-None-Match: 304 for the file that the client has. If-Match: 412 for any other file."""
    assert (await client.get(URL, headers={"if-none-match": f'W/{ETAG}, "x"'})).status_code == 304
    assert (await client.get(URL, headers={"if-none-match": '"x"'})).status_code == 200
    mismatch = await client.get(URL, headers={"if-match": '"x"'})
    assert mismatch.status_code == 412
    assert mismatch.json()["details"][0]["reason"] == "ETAG_MISMATCH"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("if-match", ETAG, 200),
        ("if-match", f'"a", {ETAG}', 200),
        ("if-match", f'W/"a", {ETAG}', 200),
        ("if-match", f"W/{ETAG}, {ETAG}", 200),
        ("if-match", "*", 200),
        ("if-match", f"W/{ETAG}", 412),
        ("if-match", f'"a", W/{ETAG}', 412),
        ("if-match", f'W/{ETAG},"a"', 412),
        ("if-match", "", 412),
        ("if-match", ETAG.strip('"'), 412),
        ("if-none-match", ETAG, 304),
        ("if-none-match", f"W/{ETAG}", 304),
        ("if-none-match", f'"a", W/{ETAG}', 304),
        ("if-none-match", "*", 304),
        ("if-none-match", 'W/"a"', 200),
        ("if-none-match", "", 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_etag_comparison(client, method, name, value, status):
    """If-Match compares strongly: a weak tag matches nothing. If-None-Match compares weakly. (RFC 9110)"""
    response = await client.request(method, URL, headers={name: value})
    assert response.status_code == status


async def test_only_safe_types_are_inline(client, harness):
    """A video may be shown inline; HTML is always an attachment. Other parameters are rejected."""
    video = await client.get(f"{URL}?disposition=inline")
    assert video.headers["content-disposition"].startswith("inline;")
    harness.storage.artifacts["artifacts/video"].media_type = "text/html"
    html = await client.get(f"{URL}?disposition=inline")
    assert html.headers["content-disposition"].startswith("attachment;")
    assert (await client.get(f"{URL}?disposition=run")).status_code == 400
    assert (await client.get(f"{URL}?color=red")).status_code == 400
    assert (await client.get(f"{URL}?{'color=red&' * 30}")).status_code == 400


async def test_missing_file(client):
    """404 with the reason of any missing resource; other methods are 405."""
    response = await client.get("/v1/artifacts/none:download")
    assert response.status_code == 404
    assert response.json()["details"][0]["reason"] == "RESOURCE_NOT_FOUND"
    assert (await client.post(URL)).status_code == 405


async def test_truncated_download_never_looks_complete(client, harness):
    """A failure before the first byte has its status; a later one aborts the connection."""
    harness.storage.fail_at = 1024 * 1024
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(URL)
    harness.storage.fail_at = 0
    response = await client.get(URL)
    assert response.status_code == 503
    assert response.json()["details"][0]["reason"] == "SERVICE_UNAVAILABLE"


async def test_download_is_redirected_to_a_signed_link_on_request(client, harness):
    """redirect=true: 307 to a link that storage signs for this caller, with the disposition; never cached."""
    response = await client.get(f"{URL}?redirect=true&disposition=inline", headers={"x-api-key": "mine"})
    assert response.status_code == 307
    assert response.headers["location"] == LINK
    assert response.headers["cache-control"] == "private, no-store"
    assert response.content == b""
    (request,) = harness.storage.sign_requests
    assert (request.name, request.disposition) == ("artifacts/video", "inline")
    assert harness.storage.sign_metadata["x-api-key"] == "mine"


async def test_what_needs_no_bytes_is_answered_without_a_redirect(client, harness):
    """HEAD, 304, 404, 412 and 416 are the gateway's: no link is signed for them."""
    url, statuses = f"{URL}?redirect=true", []
    statuses.append((await client.head(url)).status_code)
    for headers in ({"if-none-match": ETAG}, {"if-match": '"x"'}, {"range": f"bytes={SIZE}-"}):
        statuses.append((await client.get(url, headers=headers)).status_code)
    statuses.append((await client.get("/v1/artifacts/none:download?redirect=true")).status_code)
    assert statuses == [200, 304, 412, 416, 404]
    assert harness.storage.sign_requests == []
    assert (await client.get(url, headers={"range": "bytes=5-"})).status_code == 307


@pytest.mark.parametrize("value", ["", "yes", "TRUE", "1"])
async def test_redirect_is_true_or_false(client, value):
    """Another value is refused, by name; false streams the file."""
    response = await client.get(f"{URL}?redirect={value}")
    assert response.status_code == 400
    assert response.json()["details"][0]["metadata"]["field"] == "redirect"
    assert (await client.get(f"{URL}?redirect=false")).content == CONTENT


async def test_setting_redirects_all_downloads_unless_the_client_wants_the_bytes():
    """REELHAUL_GATEWAY_DOWNLOADS=redirect changes the default; a request can still choose."""
    async with (
        running_gateway(gateway_downloads="redirect") as harness,
        httpx.AsyncClient(base_url=harness.url, timeout=10, trust_env=False) as client,
    ):
        assert (await client.get(URL)).headers["location"] == LINK
        assert (await client.get(f"{URL}?redirect=false")).content == CONTENT
