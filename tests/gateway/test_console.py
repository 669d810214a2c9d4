"""The files of the web console, as the gateway serves them."""

from __future__ import annotations

import gzip
import re

import httpx
import pytest
from tests.gateway.fake_services import running_gateway

_FIRST_LOAD_BYTES = 150_000


async def test_page_loads_files_of_the_gateway_only(client: httpx.AsyncClient) -> None:
    """The page and all that it loads come from the gateway, with a strict policy, and are small."""
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    policy = dict(
        part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";")
    )
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == (
        "'none'",
        "'self'",
        "'self'",
    )
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert all(link.startswith("console/") for link in links), links
    size = len(gzip.compress(page.content))
    for link in links:
        file = await client.get(f"/{link}")
        assert file.status_code == 200
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert file.headers["content-encoding"] == "gzip"
        size += int(file.headers["content-length"])
    assert len(links) == 3
    assert size < _FIRST_LOAD_BYTES


async def test_browser_that_has_the_page_gets_304(client: httpx.AsyncClient) -> None:
    """A page that has not changed is not sent again; its policy is, as it replaces that of the browser."""
    page = await client.get("/")
    response = await client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["content-security-policy"] == page.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/console/", "/console/none.js", "/console/../static/docs.html", "/console/%2e%2e/x"]
)
async def test_no_other_file_is_served(client: httpx.AsyncClient, path: str) -> None:
    """A path that is none of the built files is 404, whatever it looks like."""
    response = await client.get(path)
    assert response.status_code == 404
    assert response.json()["details"][0]["reason"] == "ROUTE_UNKNOWN"


async def test_page_cannot_be_posted(client: httpx.AsyncClient) -> None:
    """Only GET and HEAD have a meaning for the page."""
    response = await client.post("/")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")


async def test_console_can_be_turned_off() -> None:
    """With REELHAUL_GATEWAY_CONSOLE=false the gateway serves the API alone."""
    async with (
        running_gateway(gateway_console=False) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client,
    ):
        assert (await client.get("/")).status_code == 404
        assert (await client.get("/healthz")).status_code == 200
