"""The site follows the rules of HTTP, and breaks them with the requested fault."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from tests.sites.site import Site, running_site

FILE = "/media/360.mp4"


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.origin, trust_env=False) as client:
        yield client


def test_whole_file(site: Site, client: httpx.Client) -> None:
    """A file has its type, entity tag and date."""
    response = client.get(FILE)
    assert site.digest(FILE) == hashlib.sha256(response.content).hexdigest()
    assert response.headers["content-type"] == "video/mp4"
    assert {"etag", "last-modified", "accept-ranges"} <= set(response.headers)


@pytest.mark.parametrize(
    ("requested", "status", "content_range"),
    [
        ("bytes=0-9", 206, "bytes 0-9/{size}"),
        ("bytes=-10", 206, "bytes {tail}-{last}/{size}"),
        ("bytes=10-", 206, "bytes 10-{last}/{size}"),
        ("bytes=999999999-", 416, "bytes */{size}"),
        ("bytes=0-1,5-6", 200, None),
        ("lines=1-2", 200, None),
    ],
)
def test_ranges(
    site: Site, client: httpx.Client, requested: str, status: int, content_range: str | None
) -> None:
    """One valid range gets 206; several ranges or an unknown unit get the whole file."""
    size = len(client.get(FILE).content)
    response = client.get(FILE, headers={"range": requested})
    assert status == response.status_code
    expected = content_range and content_range.format(size=size, last=size - 1, tail=size - 10)
    assert expected == response.headers.get("content-range")


def test_conditional(client: httpx.Client) -> None:
    """If-None-Match gets 304; an If-Range of another version gets the whole file."""
    tag = client.get(FILE).headers["etag"]
    assert client.get(FILE, headers={"if-none-match": tag}).status_code == 304
    assert client.get(FILE, headers={"range": "bytes=5-", "if-range": tag}).status_code == 206
    assert client.get(FILE, headers={"range": "bytes=5-", "if-range": '"other"'}).status_code == 200


def test_head(site: Site, client: httpx.Client) -> None:
    """HEAD gets the length without a body; the connection stays usable."""
    head = client.head(FILE)
    assert (b"", str(site.media.file(FILE).stat().st_size)) == (head.content, head.headers["content-length"])
    assert client.get(FILE).status_code == 200


def test_fault_ends_for_each_token(client: httpx.Client) -> None:
    """A fault with ``times`` ends after that number of requests with the same token."""
    for token in ("one", "two"):
        url = f"{FILE}?fail=503&times=2&retry_after=3&token={token}"
        responses = [client.get(url) for _ in range(3)]
        assert [response.status_code for response in responses] == [503, 503, 200]
        assert responses[0].headers["retry-after"] == "3"


def test_reset_within_body(client: httpx.Client) -> None:
    """A reset cuts the body; a range then gets the rest, unless ranges are ignored."""
    with pytest.raises(httpx.ReadError):
        client.get(f"{FILE}?reset=100000")
    rest = {"range": "bytes=800000-"}
    assert client.get(f"{FILE}?reset=100000", headers=rest).status_code == 206
    assert client.get(f"{FILE}?ranges=no", headers=rest).status_code == 200


@pytest.mark.parametrize(("length", "fails"), [(5000, True), (-5000, False)])
def test_wrong_length(site: Site, client: httpx.Client, length: int, fails: bool) -> None:
    """With a too large Content-Length the body ends early; a too small one hides the end of the file."""
    if fails:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{FILE}?length={length}")
    else:
        size = site.media.file(FILE).stat().st_size
        assert size + length == len(client.get(f"{FILE}?length={length}").content)


def test_chunked(site: Site, client: httpx.Client) -> None:
    """A chunked response has the whole file without Content-Length."""
    response = client.get(f"{FILE}?chunked=1")
    assert "content-length" not in response.headers
    assert site.digest(FILE) == hashlib.sha256(response.content).hexdigest()


def test_throttle(client: httpx.Client) -> None:
    """A throttled response takes about the time of its rate."""
    begin = time.monotonic()
    client.get("/media/audio-en.m4a?rate=200000", headers={"range": "bytes=0-59999"})
    assert 0.25 < time.monotonic() - begin < 3


@pytest.mark.parametrize("fault", ["hang=1", "stall=1000"])
def test_hang_and_stall(client: httpx.Client, fault: str) -> None:
    """A hanging or stalled response times out."""
    with pytest.raises(httpx.ReadTimeout):
        client.get(f"{FILE}?{fault}", timeout=0.3)


def test_one_byte_per_second(client: httpx.Client) -> None:
    """With a rate of 1 there is a byte, then nothing for a second."""
    with client.stream("GET", f"{FILE}?rate=1", timeout=0.5) as response:
        pieces = response.iter_raw()
        assert len(next(pieces)) == 1
        with pytest.raises(httpx.ReadTimeout):
            next(pieces)


def test_changing_file(client: httpx.Client) -> None:
    """A changing file has the same size, but other bytes and another tag at each request."""
    first, second = (client.get(f"{FILE}?changing=1&token=changing") for _ in range(2))
    assert first.headers["etag"] != second.headers["etag"]
    assert len(first.content) == len(second.content)
    assert first.content != second.content


def test_redirects(site: Site, client: httpx.Client) -> None:
    """Redirects lead in the given number of hops to the given target; a loop has no end."""
    response = client.get("/redirect/3", params={"to": "/watch/demo?v=1"}, follow_redirects=True)
    assert (site.url("/watch/demo?v=1"), 3) == (str(response.url), len(response.history))
    external = client.get("/redirect/1", params={"to": "http://127.0.0.3:9/x"})
    assert external.headers["location"] == "http://127.0.0.3:9/x"
    with pytest.raises(httpx.TooManyRedirects):
        client.get("/redirect/loop", follow_redirects=True)


def test_media_faults(client: httpx.Client) -> None:
    """A ``media.`` fault of a page or playlist is in the links to its media and playlists."""
    assert "/media/1080.mp4?rate=5" in client.get("/watch/demo?media.rate=5").text
    master = client.get("/hls/master.m3u8?media.rate=5").text
    assert "1080.m3u8?media.rate=5" in master
    assert "1080-0.m4s?rate=5" in client.get("/hls/1080.m3u8?media.rate=5").text
    assert "$Number$.m4s?rate=5" in client.get("/dash/manifest.mpd?media.rate=5").text


def test_media_host(client: httpx.Client) -> None:
    """With ``media_host`` a playlist names segments at another host."""
    query = {"media_host": "http://127.0.0.3:9"}
    assert "1080.m3u8?media_host=" in client.get("/hls/master.m3u8", params=query).text
    assert "http://127.0.0.3:9/hls/1080-0.m4s" in client.get("/hls/1080.m3u8", params=query).text


def test_recorded_requests() -> None:
    """Requests are recorded with their range, for the test and at ``/_requests``."""
    with running_site() as site, httpx.Client(base_url=site.origin, trust_env=False) as client:
        client.get(FILE, headers={"range": "bytes=0-1"})
        client.get(FILE)
        recorded = client.get("/_requests").json()
        assert site.count(FILE) == 2
        assert recorded["counts"] == {FILE: 2}
        assert recorded["requests"][0]["range"] == "bytes=0-1"
        assert site.digest(FILE) == client.get("/_media").json()[FILE]


@pytest.mark.parametrize("path", ["/nothing", "/watch/other", "/media/../../etc/passwd", "/digests.json"])
def test_unknown_path(client: httpx.Client, path: str) -> None:
    """Unknown paths get 404."""
    assert client.get(path).status_code == 404


def test_unknown_fault(client: httpx.Client) -> None:
    """An unknown fault gets 400; ignored, it would let a test pass without testing anything."""
    response = client.get(f"{FILE}?raet=1")
    assert (response.status_code, response.text) == (400, "no such fault: raet")


def test_as_a_process(site: Site) -> None:
    """``python -m tests.sites`` prints its origin as soon as it serves."""
    command = [sys.executable, "-m", "tests.sites", "--host", "127.0.0.2", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            origin = process.stdout.readline().removeprefix("site ").strip()
            assert httpx.get(f"{origin}/watch/demo", trust_env=False).status_code == 200
        finally:
            process.terminate()
