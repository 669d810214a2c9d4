"""No redirect, link, manifest or DNS response makes the suite connect to a forbidden address."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from tests.sites.site import Site, running_site
from tests.suite.downloads import wait_for_end
from tests.suite.suite import Suite


@pytest.fixture(scope="module")
def forbidden_site() -> Iterator[Site]:
    """A site at a loopback address that the guard does not allow."""
    with running_site("127.0.0.3") as site:
        yield site


@pytest.fixture(scope="module")
def localhost_site() -> Iterator[Site]:
    """A site at 127.0.0.1, to which ``localhost`` resolves."""
    with running_site("127.0.0.1") as site:
        yield site


def _reason(suite: Suite, url: str) -> str:
    """Return the reason why *url* is refused, by the create call or by the guard in a fetch."""
    response = suite.http.post("/api/v1/download", json={"url": url})
    if response.status_code != 200:
        return str(response.json()["details"][0]["reason"])
    last = wait_for_end(suite, response.json()["job_id"], seconds=60)
    assert "failed" in last, last
    return str(last["failed"]["error"]["reason"])


def test_redirect(suite: Suite, site: Site, forbidden_site: Site) -> None:
    """A redirect to another loopback address is not followed."""
    target = quote(forbidden_site.url("/media/1080.mp4"), safe="")
    assert _reason(suite, site.url(f"/redirect/1?to={target}")) == "URL_FORBIDDEN"
    assert forbidden_site.requests == []


def test_media_link(suite: Suite, site: Site, forbidden_site: Site) -> None:
    """A video at another loopback address is not fetched."""
    url = site.url(f"/watch/demo?media_host={quote(forbidden_site.origin, safe='')}")
    assert _reason(suite, url) == "URL_FORBIDDEN"
    assert forbidden_site.requests == []


def test_hls_segment(suite: Suite, site: Site, forbidden_site: Site) -> None:
    """An HLS segment at another loopback address is not fetched."""
    url = site.url(f"/hls/master.m3u8?media_host={quote(forbidden_site.origin, safe='')}")
    assert _reason(suite, url) == "URL_FORBIDDEN"
    assert forbidden_site.requests == []


def test_dns_name(suite: Suite, localhost_site: Site) -> None:
    """A DNS name that resolves to a loopback address is forbidden."""
    url = localhost_site.url("/media/1080.mp4").replace("127.0.0.1", "localhost")
    assert _reason(suite, url) == "URL_FORBIDDEN"
    assert localhost_site.requests == []


# The guard refuses metadata services before it connects, so that the test sends nothing to them.
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
    """Metadata services and other addresses that are not public are refused."""
    assert _reason(suite, url) in ("URL_FORBIDDEN", "URL_INVALID")
