"""Nothing that a site says makes the suite talk to an address that it may not."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from tests.sites.site import Site, running_site
from tests.suite.downloads import wait_for_end
from tests.suite.suite import Suite


@pytest.fixture(scope="module")
def forbidden() -> Iterator[Site]:
    """A site at another loopback address, which the guard is not told to let through."""
    with running_site("127.0.0.3") as site:
        yield site


@pytest.fixture(scope="module")
def home() -> Iterator[Site]:
    """A site at 127.0.0.1, which ``localhost`` resolves to."""
    with running_site("127.0.0.1") as site:
        yield site


def _reason(suite: Suite, url: str) -> str:
    """Why *url* was refused: at the door, or by the guard when a fetcher was led there."""
    answer = suite.http.post("/api/v1/download", json={"url": url})
    if answer.status_code != 200:
        return str(answer.json()["details"][0]["reason"])
    last = wait_for_end(suite, answer.json()["job_id"], seconds=60)
    assert "failed" in last, last
    return str(last["failed"]["error"]["reason"])


def test_redirect(suite: Suite, site: Site, forbidden: Site) -> None:
    """A redirect to another loopback address is not followed."""
    to = quote(forbidden.url("/media/1080.mp4"), safe="")
    assert _reason(suite, site.url(f"/redirect/1?to={to}")) == "URL_FORBIDDEN"
    assert forbidden.requests == []


def test_media_elsewhere(suite: Suite, site: Site, forbidden: Site) -> None:
    """Nor is the video of a page fetched when it lies there."""
    url = site.url(f"/watch/demo?media_host={quote(forbidden.origin, safe='')}")
    assert _reason(suite, url) == "URL_FORBIDDEN"
    assert forbidden.requests == []


def test_hls_segment(suite: Suite, site: Site, forbidden: Site) -> None:
    """An HLS segment at another loopback address is not fetched."""
    url = site.url(f"/hls/master.m3u8?media_host={quote(forbidden.origin, safe='')}")
    assert _reason(suite, url) == "URL_FORBIDDEN"
    assert forbidden.requests == []


def test_name_that_resolves_there(suite: Suite, home: Site) -> None:
    """A DNS name of a loopback address is as forbidden as the address."""
    url = home.url("/media/1080.mp4").replace("127.0.0.1", "localhost")
    assert _reason(suite, url) == "URL_FORBIDDEN"
    assert home.requests == []


# 169.254.169.254 and its twin are asked for by nobody: the guard decides before it connects.
@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://127.0.0.1:1/",
        "http://2130706433/",
        "http://0.0.0.0:1/",
    ],
)
def test_address(suite: Suite, url: str) -> None:
    """Metadata services and other addresses that are not public are refused by decision."""
    assert _reason(suite, url) in ("URL_FORBIDDEN", "URL_INVALID")
