"""CORS: pages of allowed origins call the gateway by scripts, and all others are refused as ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import websockets
from pydantic import ValidationError
from tests.gateway.fake_services import GatewayHarness, running_gateway

from reelhaul_gateway.settings import Settings

APP, OTHER = "https://app.example", "https://other.example"
#: How a browser marks what a page of another site sends.
FROM_APP = {"origin": APP, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
FROM_OTHER = FROM_APP | {"origin": OTHER}


@pytest.fixture
async def harness() -> AsyncIterator[GatewayHarness]:
    """A gateway that allows the pages of APP, and those of a development server."""
    origins = f"{APP}:443, http://localhost:3000"
    async with running_gateway(gateway_cors_origins=origins, gateway_cors_credentials=True) as running:
        yield running


def preflight(
    origin: str, *, method: str = "POST", headers: str = "content-type,x-api-key"
) -> dict[str, str]:
    """Return the headers of a preflight."""
    requested = {"access-control-request-method": method, "access-control-request-headers": headers}
    return {"origin": origin, "sec-fetch-site": "cross-site", **requested}


def vary(response: httpx.Response) -> set[str]:
    """Return the names that Vary lists."""
    return {name.strip() for value in response.headers.get_list("vary") for name in value.split(",")}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/018f:cancel", "/v1/nowhere", "/healthz"])
@pytest.mark.parametrize("origin", [APP, "http://localhost:3000"])
async def test_preflight_of_an_allowed_origin(client, harness, path, origin) -> None:
    """It is answered before routing: what may be sent, and for how long the answer holds."""
    response = await client.options(path, headers=preflight(origin))
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == origin
    assert response.headers["access-control-allow-credentials"] == "true"
    assert "PATCH" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "content-type,x-api-key"
    assert response.headers["access-control-max-age"] == "600"
    assert {"origin", "access-control-request-method", "access-control-request-headers"} <= vary(response)
    assert not harness.jobs.metadata


@pytest.mark.parametrize(
    "origin",
    [OTHER, "null", "https://app.example.evil.example", "http://app.example", f"{APP}:8443", f"{APP}/"],
)
async def test_preflight_of_another_origin(client, origin) -> None:
    """It allows nothing, so that the browser does not send the request."""
    response = await client.options("/v1/jobs", headers=preflight(origin))
    assert not any(name.startswith("access-control-") for name in response.headers)
    assert "origin" in vary(response)


@pytest.mark.parametrize("names", ["x-a;b", "a" * 3000, "a=b", ""])
async def test_preflight_for_malformed_headers(client, names) -> None:
    """Names that no browser sends are not repeated; the names of browsers are, above."""
    response = await client.options("/v1/jobs", headers=preflight(APP, headers=names))
    assert "access-control-allow-headers" not in response.headers


async def test_page_of_an_allowed_origin_may_do_everything(client, harness) -> None:
    """It creates, reads and streams, and reads the headers of the responses."""
    created = await client.post("/v1/jobs", json={"url": "https://media.example/1"}, headers=FROM_APP)
    assert created.status_code == 200
    assert len(harness.jobs.create_requests) == 1
    for path in ("/v1/jobs/018f", "/v1/jobs", "/v1/artifacts/video:download", "/v1/jobs/018f:watch"):
        response = await client.get(path, headers=FROM_APP)
        assert response.status_code == 200, path
        assert response.headers["access-control-allow-origin"] == APP, path
        assert response.headers["access-control-allow-credentials"] == "true", path
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "etag", "retry-after", "location", "content-range"} <= set(exposed)
        assert "origin" in vary(response)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/jobs/missing", 404),
        ("GET", "/v1/jobs/018f?unknown=1", 400),
        ("POST", "/v1/jobs/018f:cancel", 501),
        ("GET", "/v1/jobs/missing:watch", 404),
        ("DELETE", "/v1/jobs", 405),
        ("GET", "/v1/artifacts/none:download", 404),
    ],
)
async def test_errors_are_readable_for_an_allowed_origin(client, method, path, status) -> None:
    """A script reads status and reason of an error, which browsers hide without the headers."""
    response = await client.request(method, path, headers=FROM_APP)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == APP
    assert response.json()["code"]


async def test_overload_is_readable_for_an_allowed_origin() -> None:
    """A gateway with too many connections answers 503 with the headers."""
    async with running_gateway(gateway_cors_origins=APP, gateway_max_connections=1) as harness:
        _, busy = await asyncio.open_connection(*harness.address)
        busy.write(b"GET /v1/jobs/slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await harness.jobs.started.wait()
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"{harness.url}/v1/jobs/018f", headers=FROM_APP)
        busy.close()
        assert response.status_code == 503
        assert response.headers["access-control-allow-origin"] == APP


async def test_page_of_another_origin_is_refused(client, harness) -> None:
    """It changes nothing and starts nothing, and cannot read what it may request."""
    for method, path in (("POST", "/v1/jobs"), ("GET", "/v1/jobs/018f:watch"), ("DELETE", "/v1/jobs/018f")):
        response = await client.request(method, path, headers=FROM_OTHER)
        assert response.status_code == 400, path
        assert response.json()["details"][0]["metadata"] == {"field": "origin"}
    read = await client.get("/v1/jobs/018f", headers=FROM_OTHER)
    assert read.status_code == 200
    assert "access-control-allow-origin" not in read.headers
    assert "origin" in vary(read)
    assert not harness.jobs.create_requests


async def test_allowed_origin_must_be_the_only_one(client, harness) -> None:
    """Two Origin headers are of no browser."""
    headers = [("origin", APP), ("origin", OTHER)]
    assert (await client.post("/v1/jobs", json={}, headers=headers)).status_code == 400
    assert not harness.jobs.create_requests


async def test_image_on_an_allowed_page_starts_nothing(client) -> None:
    """Without Origin the sender is unknown: a request that a page embeds has none."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert (await client.get("/v1/jobs/018f:watch", headers=headers)).status_code == 400


async def test_websocket_of_an_allowed_origin(harness) -> None:
    """Its Origin is the gateway's own or an allowed one."""
    url = harness.url.replace("http", "ws") + "/v1/jobs/018f:watch"
    for origin in (APP, harness.url):
        async with websockets.connect(url, origin=origin, proxy=None) as socket:
            assert json.loads(await socket.recv())["sequence"] == "1"
    with pytest.raises(websockets.InvalidStatus) as refusal:
        async with websockets.connect(url, origin=OTHER, proxy=None):
            pass
    assert refusal.value.response.status_code == 403


async def test_every_origin() -> None:
    """With * the page of any origin may call, without credentials, and caches need not tell them apart."""
    async with (
        running_gateway(gateway_cors_origins="*") as harness,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        for origin in (APP, OTHER, "null"):
            headers = FROM_APP | {"origin": origin}
            response = await client.post(f"{harness.url}/v1/jobs", json={}, headers=headers)
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers
        rebound = await client.get(f"{harness.url}/v1/jobs/018f", headers=FROM_APP | {"host": "evil.example"})
        assert rebound.status_code == 400


async def test_no_origin_is_allowed_by_default() -> None:
    """Without the setting no response has a header of CORS, also not that of a preflight."""
    async with running_gateway() as harness, httpx.AsyncClient(trust_env=False) as client:
        response = await client.options(f"{harness.url}/v1/jobs", headers=preflight(APP))
        assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"
        assert not any(name.startswith("access-control-") for name in response.headers)
        assert (await client.post(f"{harness.url}/v1/jobs", json={}, headers=FROM_APP)).status_code == 400


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://app.example", ("https://app.example",)),
        (" HTTPS://App.Example:443 ,http://[::1]:80,", ("https://app.example", "http://[::1]")),
        ("http://localhost:3000", ("http://localhost:3000",)),
        ("chrome-extension://abcdefgh", ("chrome-extension://abcdefgh",)),
    ],
)
def test_origins_of_the_setting(text: str, origins: tuple[str, ...]) -> None:
    """Origins are written as browsers send them: in small letters, without the default port."""
    assert Settings(gateway_cors_origins=text).gateway_cors_origins == origins


@pytest.mark.parametrize(
    "settings",
    [
        {"gateway_cors_origins": "app.example"},
        {"gateway_cors_origins": "https://app.example/"},
        {"gateway_cors_origins": "https://app.example/path"},
        {"gateway_cors_origins": "https://*.example"},
        {"gateway_cors_origins": "https://user@app.example"},
        {"gateway_cors_origins": "null"},
        {"gateway_cors_origins": "*,https://app.example"},
        {"gateway_cors_origins": "*", "gateway_cors_credentials": True},
        {"gateway_cors_max_age_seconds": -1},
    ],
)
def test_wrong_settings_are_refused_at_the_start(settings: dict[str, object]) -> None:
    """What is no origin is refused, and so are credentials for the pages of all origins."""
    with pytest.raises(ValidationError):
        Settings(**settings)
