"""Artifact bytes over HTTP."""

from __future__ import annotations

import hashlib

import httpx
import pytest
from tests.gateway.small_suite import CONTENT

URL = "/v1/artifacts/video:download"
SIZE = len(CONTENT)
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


async def test_the_whole_file(client):
    """Bytes, type, length, validator and a name that is safe in every browser."""
    answer = await client.get(URL)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-length"] == str(SIZE)
    assert answer.headers["etag"] == ETAG
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    encoded = "%C3%9Cber%20%E2%80%9Euns%E2%80%9C%20100%25.mp4"
    assert answer.headers["content-disposition"] == (
        f"attachment; filename=\"_ber _uns_ 100_.mp4\"; filename*=UTF-8''{encoded}"
    )


async def test_head_tells_all_but_the_bytes(client):
    """The headers are those of GET."""
    head, got = await client.head(URL), await client.get(URL)
    assert head.content == b""
    for name in ("content-length", "content-type", "etag", "content-disposition"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        (f"bytes=-{SIZE + 1}", 0, SIZE),
        (f"bytes=7-{SIZE * 2}", 7, SIZE),
        ("bytes=524287-524289", 524287, 524290),
    ],
)
async def test_a_range(client, asked, start, stop):
    """206 with exactly those bytes."""
    answer = await client.get(URL, headers={"range": asked})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "bytes=a-b"])
async def test_a_range_that_says_nothing(client, asked):
    """The whole file."""
    answer = await client.get(URL, headers={"range": asked})
    assert answer.status_code == 200
    assert answer.content == CONTENT


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=-0"])
async def test_a_range_past_the_end(client, asked):
    """416, and how long the file is."""
    answer = await client.get(URL, headers={"range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{SIZE}"
    assert answer.json()["details"][0]["reason"] == "RANGE_INVALID"
    assert answer.json()["details"][0]["metadata"]["sizeBytes"] == str(SIZE)


async def test_if_range_guards_a_resume(client):
    """Of another file one gets all, not a piece that does not fit."""
    same = await client.get(URL, headers={"range": "bytes=10-", "if-range": ETAG})
    other = await client.get(URL, headers={"range": "bytes=10-", "if-range": '"other"'})
    dated = await client.get(URL, headers={"range": "bytes=10-", "if-range": "Sat, 29 Oct 1994 19:43:31 GMT"})
    assert (same.status_code, other.status_code, dated.status_code) == (206, 200, 200)


async def test_validators(client):
    """304 for what the client has, 412 for what it does not expect."""
    assert (await client.get(URL, headers={"if-none-match": f'W/{ETAG}, "x"'})).status_code == 304
    assert (await client.get(URL, headers={"if-none-match": '"x"'})).status_code == 200
    refused = await client.get(URL, headers={"if-match": '"x"'})
    assert refused.status_code == 412
    assert refused.json()["details"][0]["reason"] == "ETAG_MISMATCH"


async def test_inline_only_what_is_safe_to_show(client, suite):
    """A video may be shown; a page of script is saved whatever is asked."""
    shown = await client.get(f"{URL}?disposition=inline")
    assert shown.headers["content-disposition"].startswith("inline;")
    suite.storage.artifacts["artifacts/video"].media_type = "text/html"
    saved = await client.get(f"{URL}?disposition=inline")
    assert saved.headers["content-disposition"].startswith("attachment;")
    assert (await client.get(f"{URL}?disposition=run")).status_code == 400
    assert (await client.get(f"{URL}?color=red")).status_code == 400


async def test_a_missing_file(client):
    """404 with the reason, as of any resource."""
    answer = await client.get("/v1/artifacts/none:download")
    assert answer.status_code == 404
    assert answer.json()["details"][0]["reason"] == "RESOURCE_NOT_FOUND"
    assert (await client.post(URL)).status_code == 405


async def test_a_file_that_breaks_off_never_looks_whole(client, suite):
    """Before the first byte a failure has its status; after it the connection breaks."""
    suite.storage.cut_after = 1024 * 1024
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(URL)
    suite.storage.cut_after = 0
    answer = await client.get(URL)
    assert answer.status_code == 503
    assert answer.json()["details"][0]["reason"] == "SERVICE_UNAVAILABLE"
