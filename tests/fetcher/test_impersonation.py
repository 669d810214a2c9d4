"""To some sites the engine is a browser, and its way leads through the guard all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import ValidationError
from tests.fetcher.conftest import Harness
from tests.fetcher.guard_harness import PUBLIC, Site, running_site

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.guard.supervisor import GuardConfig, running_guard
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import ProbeRequest
from reelhaul_fetcher.settings import Settings
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_runtime.errors import ReelhaulError

no_curl = pytest.mark.skipif(find_spec("curl_cffi") is None, reason="curl_cffi is an extra")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(engine_environment: dict[str, str], tmp_path_factory) -> AsyncIterator[Harness]:
    """An engine that one site takes for Chrome."""
    config = GuardConfig(allow_networks=(f"{PUBLIC}/32",))
    access = EngineOptions(impersonate={PUBLIC: "chrome"})
    async with (
        running_guard(config) as guard,
        YtDlpEngine.open(engine_environment, "test-worker", access) as engine,
    ):
        await engine.wait_until_warm()
        yield Harness(engine, guard, tmp_path_factory.mktemp("work"))


def page(site: Site, path: str, *, location: str = "") -> str:
    """A page of *site* that leads to *location*, or shows a video."""
    if location:
        head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        site.responses[path] = head.encode()
    else:
        body = f'<html><title>t</title><video src="http://{PUBLIC}:{site.port}/v.mp4"></video></html>'
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
        site.responses[path] = (head + body).encode()
    return f"http://{PUBLIC}:{site.port}{path}"


@pytest.mark.asyncio(loop_scope="module")
@no_curl
async def test_taken_for_a_browser(browser: Harness) -> None:
    """The site sees Chrome's greeting, and all of it came through the pass."""
    async with running_site() as site:
        proxy = await browser.guard.open("x", 0)
        media = await browser.engine.probe(ProbeRequest(page(site, "/watch"), proxy))
        used = await browser.guard.close("x")
    assert media.title.startswith("t")
    assert b"chrome" in site.heads[0].lower()
    assert b"sec-ch-ua" in site.heads[0].lower()
    assert used.ingress_bytes >= len(site.responses["/watch"])


@pytest.mark.asyncio(loop_scope="module")
@no_curl
async def test_no_pass_no_way(browser: Harness) -> None:
    """Without an open pass the browser reaches nothing: it has no other way than the guard."""
    async with running_site() as site:
        proxy = await browser.guard.open("y", 0)
        await browser.guard.close("y")
        with pytest.raises(ReelhaulError):
            await browser.engine.probe(ProbeRequest(page(site, "/watch"), proxy))
    assert site.accepted == 0


@pytest.mark.asyncio(loop_scope="module")
@no_curl
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_redirects_inside_are_refused(browser: Harness, scheme: str) -> None:
    """What a site leads the browser to is judged by the guard, plain and in tunnels."""
    async with running_site() as site, running_site("127.0.0.3") as inside:
        url = page(site, "/go", location=f"{scheme}://127.0.0.3:{inside.port}/")
        name = f"z-{scheme}"
        proxy = await browser.guard.open(name, 0)
        with pytest.raises(ReelhaulError) as failure:
            await browser.engine.probe(ProbeRequest(url, proxy))
        used = await browser.guard.close(name)
    assert used.refusals == (("127.0.0.3", "loopback"),)
    assert failure.value.reason in (ErrorReason.URL_FORBIDDEN, ErrorReason.UPSTREAM_UNAVAILABLE)
    assert inside.accepted == 0


def test_which_browser() -> None:
    """A site is meant with all its subdomains, the longest name first."""
    access = EngineOptions(
        impersonate={"a.example": "chrome", "m.b.a.example": "safari", "b.a.example": "edge"}
    )
    for host, browser in {
        "a.example": "chrome",
        "www.a.example": "chrome",
        "x.b.a.example": "edge",
        "aa.example": "",
        "example": "",
    }.items():
        assert access.for_request(f"https://{host}/watch", "").impersonate_target == browser


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The setting without curl_cffi stops the start, and says what to install."""
    monkeypatch.setattr("reelhaul_fetcher.settings.find_spec", lambda name: None)
    monkeypatch.setenv("REELHAUL_FETCHER_IMPERSONATE", '{"a.example": "chrome"}')
    with pytest.raises(ValidationError, match=r"reelhaul\[impersonate\]"):
        Settings(data_dir=tmp_path)


def test_what_is_no_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A target that cannot be meant stops the start."""
    monkeypatch.setenv("REELHAUL_FETCHER_IMPERSONATE", '{"a.example": "netscape"}')
    with pytest.raises(ValidationError, match="is not one of chrome"):
        Settings(data_dir=tmp_path)
