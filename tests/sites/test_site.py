"""The site keeps HTTP's rules, and breaks them in the way that was asked for."""

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
    """A file comes whole, with its type, tag and date."""
    answer = client.get(FILE)
    assert site.digest(FILE) == hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["content-type"] == "video/mp4"
    assert {"etag", "last-modified", "accept-ranges"} <= set(answer.headers)


@pytest.mark.parametrize(
    ("wanted", "status", "told"),
    [
        ("bytes=0-9", 206, "bytes 0-9/{size}"),
        ("bytes=-10", 206, "bytes {tail}-{last}/{size}"),
        ("bytes=10-", 206, "bytes 10-{last}/{size}"),
        ("bytes=999999999-", 416, "bytes */{size}"),
        ("bytes=0-1,5-6", 200, None),
        ("lines=1-2", 200, None),
    ],
)
def test_ranges(site: Site, client: httpx.Client, wanted: str, status: int, told: str | None) -> None:
    """One range is answered with it; what is no range, or more than one, with the whole."""
    size = len(client.get(FILE).content)
    answer = client.get(FILE, headers={"range": wanted})
    assert status == answer.status_code
    expected = told and told.format(size=size, last=size - 1, tail=size - 10)
    assert expected == answer.headers.get("content-range")


def test_conditional(client: httpx.Client) -> None:
    """If-None-Match saves the body; an If-Range of another version gives the whole."""
    tag = client.get(FILE).headers["etag"]
    assert client.get(FILE, headers={"if-none-match": tag}).status_code == 304
    assert client.get(FILE, headers={"range": "bytes=5-", "if-range": tag}).status_code == 206
    assert client.get(FILE, headers={"range": "bytes=5-", "if-range": '"other"'}).status_code == 200


def test_head(site: Site, client: httpx.Client) -> None:
    """HEAD tells the length and sends no body; the connection is good for more."""
    head = client.head(FILE)
    assert (b"", str(site.media.file(FILE).stat().st_size)) == (head.content, head.headers["content-length"])
    assert client.get(FILE).status_code == 200


def test_fails_the_first_times_of_each_token(client: httpx.Client) -> None:
    """A fault with ``times`` goes away, for each token by itself."""
    for token in ("one", "two"):
        url = f"{FILE}?fail=503&times=2&retry_after=3&token={token}"
        answers = [client.get(url) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 503, 200]
        assert answers[0].headers["retry-after"] == "3"


def test_reset_in_mid_body(client: httpx.Client) -> None:
    """A reset cuts the body; a range then fetches the rest, unless ranges are off too."""
    with pytest.raises(httpx.ReadError):
        client.get(f"{FILE}?reset=100000")
    rest = {"range": "bytes=800000-"}
    assert client.get(f"{FILE}?reset=100000", headers=rest).status_code == 206
    assert client.get(f"{FILE}?ranges=no", headers=rest).status_code == 200


@pytest.mark.parametrize(("length", "fails"), [(5000, True), (-5000, False)])
def test_wrong_length(site: Site, client: httpx.Client, length: int, fails: bool) -> None:
    """Too long a Content-Length ends early; too short a one hides the file's end."""
    if fails:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{FILE}?length={length}")
    else:
        size = site.media.file(FILE).stat().st_size
        assert size + length == len(client.get(f"{FILE}?length={length}").content)


def test_chunked(site: Site, client: httpx.Client) -> None:
    """Without a length the file still comes whole."""
    answer = client.get(f"{FILE}?chunked=1")
    assert "content-length" not in answer.headers
    assert site.digest(FILE) == hashlib.sha256(answer.content).hexdigest()


def test_throttle(client: httpx.Client) -> None:
    """A throttled connection takes about the time that its rate says."""
    begun = time.monotonic()
    client.get("/media/audio-en.m4a?rate=200000", headers={"range": "bytes=0-59999"})
    assert 0.25 < time.monotonic() - begun < 3


@pytest.mark.parametrize("fault", ["hang=1", "stall=1000"])
def test_silence(client: httpx.Client, fault: str) -> None:
    """What hangs or stalls gives no whole answer."""
    with pytest.raises(httpx.ReadTimeout):
        client.get(f"{FILE}?{fault}", timeout=0.3)


def test_slow_drip(client: httpx.Client) -> None:
    """A rate of one is a byte, then nothing for a second."""
    with client.stream("GET", f"{FILE}?rate=1", timeout=0.5) as answer:
        pieces = answer.iter_raw()
        assert len(next(pieces)) == 1
        with pytest.raises(httpx.ReadTimeout):
            next(pieces)


def test_changing_file(client: httpx.Client) -> None:
    """A changing file has as many bytes, but others, and another tag each time."""
    first, second = (client.get(f"{FILE}?changing=1&token=changing") for _ in range(2))
    assert first.headers["etag"] != second.headers["etag"]
    assert len(first.content) == len(second.content)
    assert first.content != second.content


def test_redirects(site: Site, client: httpx.Client) -> None:
    """Redirects lead, hop by hop, wherever they are told; a loop leads nowhere."""
    answer = client.get("/redirect/3", params={"to": "/watch/demo?v=1"}, follow_redirects=True)
    assert (site.url("/watch/demo?v=1"), 3) == (str(answer.url), len(answer.history))
    away = client.get("/redirect/1", params={"to": "http://127.0.0.3:9/x"})
    assert away.headers["location"] == "http://127.0.0.3:9/x"
    with pytest.raises(httpx.TooManyRedirects):
        client.get("/redirect/loop", follow_redirects=True)


def test_faults_of_media_are_passed_on(client: httpx.Client) -> None:
    """What a page or playlist is asked for ``media.`` reaches the media, through every playlist."""
    assert "/media/1080.mp4?rate=5" in client.get("/watch/demo?media.rate=5").text
    master = client.get("/hls/master.m3u8?media.rate=5").text
    assert "1080.m3u8?media.rate=5" in master
    assert "1080-0.m4s?rate=5" in client.get("/hls/1080.m3u8?media.rate=5").text
    assert "$Number$.m4s?rate=5" in client.get("/dash/manifest.mpd?media.rate=5").text


def test_segments_elsewhere(client: httpx.Client) -> None:
    """A playlist can name segments at another host."""
    query = {"media_host": "http://127.0.0.3:9"}
    assert "1080.m3u8?media_host=" in client.get("/hls/master.m3u8", params=query).text
    assert "http://127.0.0.3:9/hls/1080-0.m4s" in client.get("/hls/1080.m3u8", params=query).text


def test_requests_can_be_read_back() -> None:
    """Every request is told, in the test and over HTTP, with its range."""
    with running_site() as site, httpx.Client(base_url=site.origin, trust_env=False) as client:
        client.get(FILE, headers={"range": "bytes=0-1"})
        client.get(FILE)
        told = client.get("/_requests").json()
        assert site.count(FILE) == 2
        assert told["counts"] == {FILE: 2}
        assert told["requests"][0]["range"] == "bytes=0-1"
        assert site.digest(FILE) == client.get("/_media").json()[FILE]


@pytest.mark.parametrize("path", ["/nothing", "/watch/other", "/media/../../etc/passwd", "/digests.json"])
def test_unknown_path(client: httpx.Client, path: str) -> None:
    """What is not shown is 404."""
    assert client.get(path).status_code == 404


def test_misspelt_fault(client: httpx.Client) -> None:
    """A fault that does not exist is told, or a test would pass for nothing."""
    answer = client.get(f"{FILE}?raet=1")
    assert (answer.status_code, answer.text) == (400, "no such fault: raet")


def test_as_a_process(site: Site) -> None:
    """``python -m tests.sites`` says where it serves as soon as it does."""
    command = [sys.executable, "-m", "tests.sites", "--host", "127.0.0.2", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            origin = process.stdout.readline().removeprefix("site ").strip()
            assert httpx.get(f"{origin}/watch/demo", trust_env=False).status_code == 200
        finally:
            process.terminate()
