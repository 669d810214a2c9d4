"""Impersonation of a browser: some sites see Chrome, and its traffic goes through the guard all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import ValidationError
from tests.fetcher.conftest import Harness, open_harness
from tests.fetcher.guard_harness import PUBLIC, Site, running_site

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.guard.supervisor import GuardConfig
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import ProbeRequest
from reelhaul_fetcher.settings import Settings
from reelhaul_runtime.errors import ReelhaulError

requires_curl_cffi = pytest.mark.skipif(find_spec("curl_cffi") is None, reason="curl_cffi is an extra")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chrome(
    engine_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """A harness whose engine impersonates Chrome at PUBLIC."""
    config = GuardConfig(allow_networks=(f"{PUBLIC}/32",))
    options = EngineOptions(impersonate={PUBLIC: "chrome"})
    workdir = tmp_path_factory.mktemp("work")
    async with open_harness(engine_environment, workdir, config, options=options) as harness:
        yield harness


def add_page(site: Site, path: str, *, location: str = "") -> str:
    """Add a page that redirects to *location*, or has a video; return its URL."""
    if location:
        response = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    else:
        body = f'<html><title>t</title><video src="http://{PUBLIC}:{site.port}/v.mp4"></video></html>'
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
        response = head + body
    site.responses[path] = response.encode()
    return f"http://{PUBLIC}:{site.port}{path}"


@pytest.mark.asyncio(loop_scope="module")
@requires_curl_cffi
async def test_site_sees_chrome(chrome: Harness) -> None:
    """The site sees Chrome's headers, and all traffic went through the guard."""
    async with running_site() as site:
        proxy_url = await chrome.guard.open("x", 0)
        media = await chrome.engine.probe(ProbeRequest(add_page(site, "/watch"), proxy_url))
        usage = await chrome.guard.close("x")
    assert media.title.startswith("t")
    assert b"chrome" in site.heads[0].lower()
    assert b"sec-ch-ua" in site.heads[0].lower()
    assert usage.ingress_bytes >= len(site.responses["/watch"])


@pytest.mark.asyncio(loop_scope="module")
@requires_curl_cffi
async def test_no_network_without_a_session(chrome: Harness) -> None:
    """Without an open session of the guard nothing is reached: there is no other network."""
    async with running_site() as site:
        proxy_url = await chrome.guard.open("y", 0)
        await chrome.guard.close("y")
        with pytest.raises(ReelhaulError):
            await chrome.engine.probe(ProbeRequest(add_page(site, "/watch"), proxy_url))
    assert site.accepted == 0


@pytest.mark.asyncio(loop_scope="module")
@requires_curl_cffi
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_redirect_to_loopback_is_refused(chrome: Harness, scheme: str) -> None:
    """The guard judges where a redirect leads, for plain requests and for tunnels."""
    async with running_site() as site, running_site("127.0.0.3") as inside:
        url = add_page(site, "/go", location=f"{scheme}://127.0.0.3:{inside.port}/")
        name = f"z-{scheme}"
        proxy_url = await chrome.guard.open(name, 0)
        with pytest.raises(ReelhaulError) as failure:
            await chrome.engine.probe(ProbeRequest(url, proxy_url))
        usage = await chrome.guard.close(name)
    assert usage.refusals == (("127.0.0.3", "loopback"),)
    assert failure.value.reason in (ErrorReason.URL_FORBIDDEN, ErrorReason.UPSTREAM_UNAVAILABLE)
    assert inside.accepted == 0


def test_browser_by_site() -> None:
    """A site stands for its subdomains too, and the longest match wins."""
    options = EngineOptions(
        impersonate={"a.example": "chrome", "m.b.a.example": "safari", "b.a.example": "edge"}
    )
    for host, browser in {
        "a.example": "chrome",
        "www.a.example": "chrome",
        "x.b.a.example": "edge",
        "aa.example": "",
        "example": "",
    }.items():
        assert options.for_request(f"https://{host}/watch", "").impersonate_target == browser


def test_setting_without_curl_cffi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The setting without curl_cffi is refused at start, with the extra to install."""
    monkeypatch.setattr("reelhaul_fetcher.settings.find_spec", lambda name: None)
    monkeypatch.setenv("REELHAUL_FETCHER_IMPERSONATE", '{"a.example": "chrome"}')
    with pytest.raises(ValidationError, match=r"reelhaul\[impersonate\]"):
        Settings(data_dir=tmp_path)


def test_unknown_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A browser that cannot be impersonated is refused at start."""
    monkeypatch.setenv("REELHAUL_FETCHER_IMPERSONATE", '{"a.example": "netscape"}')
    with pytest.raises(ValidationError, match="netscape"):
        Settings(data_dir=tmp_path)
