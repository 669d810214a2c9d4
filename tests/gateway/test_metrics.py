"""Metrics of the gateway: requests by route, streams and connections, equal to what clients did."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import httpx
import pytest
import websockets
from tests.gateway.fake_services import CONTENT, GatewayHarness, running_gateway
from tests.metric_values import MetricChanges
from tests.scrapes import parse, total

from reelhaul_runtime.metrics.http_server import serving_metrics

SECONDS = 20
# PROPFIND is a method that the parser knows, and the gateway does not.
METHODS = ("GET", "PUT", "PROPFIND")
REQUESTS, DURATIONS = "http_server_requests_total", "http_server_request_duration_seconds_count"


async def eventually(is_true: Callable[[], bool]) -> None:
    """Wait until *is_true*: a request is counted after its client has the response."""
    async with asyncio.timeout(SECONDS):
        while not is_true():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)


async def test_requests_are_counted_by_route(client: httpx.AsyncClient):
    """N requests are N of their route's template, by method and status, with N durations."""
    changes = MetricChanges()
    await asyncio.gather(*(client.get(f"/v1/jobs/{number}") for number in range(30)))
    await client.head("/v1/jobs/1")
    await client.get("/v1/jobs/missing")
    await client.post("/v1/jobs", json={"url": "https://site.example/1"})
    job = {"http_route": "/v1/{name=jobs/*}"}
    await eventually(lambda: changes.total(REQUESTS) == 33)
    assert changes.total(REQUESTS, **job, http_request_method="GET", http_response_status_code="200") == 30
    assert changes.total(REQUESTS, **job, http_request_method="HEAD", http_response_status_code="200") == 1
    assert changes.total(REQUESTS, **job, http_request_method="GET", http_response_status_code="404") == 1
    assert changes.total(REQUESTS, http_route="/v1/jobs", http_request_method="POST") == 1
    assert changes.total(DURATIONS, **job) == 32
    assert changes.total("reelhaul_errors_total", reason="RESOURCE_NOT_FOUND") == 2, "that of jobs too"
    assert changes.total("http_server_active_requests") == 0
    get_job = {"grpc_method": "GetJob", "grpc_service": "reelhaul.jobs.v1.JobService"}
    assert changes.total("grpc_client_handled_total", **get_job, grpc_code="OK") == 31
    assert changes.total("grpc_client_handled_total", **get_job, grpc_code="NOT_FOUND") == 1


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/healthz", "/healthz"),
        ("/readyz", "/readyz"),
        ("/docs", "/docs"),
        ("/v1/artifacts/video:download", "/v1/{name=artifacts/*}:download"),
        ("/v1/artifacts:archive?filter=x", "/v1/artifacts:archive"),
        ("/api/v1/jobs/018f0000-0000-7000-8000-000000000000/archive", "/api/v1/jobs/{job}/archive"),
    ],
)
async def test_routes_that_are_no_rpcs(client: httpx.AsyncClient, path: str, route: str):
    """Probes, pages and files have routes as well."""
    changes = MetricChanges()
    await client.get(path)
    await eventually(lambda: changes.total(REQUESTS, http_route=route) == 1)


async def test_hostile_requests_add_no_labels(client: httpx.AsyncClient, harness: GatewayHarness):
    """Hundreds of paths, methods that nobody knows, and what is no HTTP share a few series."""
    changes = MetricChanges()
    for number in range(300):
        await client.request(METHODS[number % len(METHODS)], f"/v1/x{number}/{number}?q={number}")
    for number in range(20):
        reader, writer = await asyncio.open_connection(*harness.address)
        writer.write(f"BREW{number} /pot{number} HTTP/1.1\r\n\r\n".encode())
        await reader.read()
        writer.close()
    await eventually(lambda: changes.total(REQUESTS) == 320)
    counted = changes.of(REQUESTS)
    assert {method for method, _, _ in counted} == {"GET", "PUT", "other"}
    assert {route for _, _, route in counted} == {"other"}
    assert len(counted) < 10
    assert changes.total("reelhaul_errors_total", reason="ROUTE_UNKNOWN") == 300


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("text/event-stream", "sse"), ("application/x-ndjson", "ndjson"), ("application/json", "json")],
)
async def test_streams_are_counted_while_they_are_open(client: httpx.AsyncClient, accept: str, kind: str):
    """An open stream is counted by its framing; its duration is none of a request's."""
    changes = MetricChanges()
    async with client.stream("GET", "/v1/jobs/endless:watch", headers={"accept": accept}) as response:
        await anext(response.aiter_bytes())
        assert changes.total("http_server_streams", kind=kind) == 1
        assert changes.total("http_server_active_requests") == 1
    await eventually(lambda: changes.total("http_server_streams", kind=kind) == 0)
    route = {"http_route": "/v1/{name=jobs/*}:watch"}
    assert changes.total(REQUESTS, **route) == 1
    assert changes.total(DURATIONS, **route) == 0
    assert changes.total("http_server_active_requests") == 0


async def test_websockets_are_counted(harness: GatewayHarness):
    """A WebSocket is a stream, and ends with its close code as status."""
    changes = MetricChanges()
    url = harness.url.replace("http", "ws", 1) + "/v1/jobs/018f:watch"
    async with websockets.connect(url, proxy=None) as socket_:
        await socket_.recv()
        async for _ in socket_:
            pass
    await eventually(lambda: changes.total(REQUESTS, http_response_status_code="1000") == 1)
    assert changes.total(REQUESTS, http_route="/v1/{name=jobs/*}:watch", http_request_method="GET") == 1
    assert changes.total("http_server_streams", kind="websocket") == 0


async def test_bytes_are_counted(client: httpx.AsyncClient):
    """The bytes of bodies are those that clients received."""
    changes = MetricChanges()
    response = await client.get("/v1/artifacts/video:download")
    assert response.content == CONTENT
    await eventually(lambda: changes.total("http_server_response_bytes_total") == len(CONTENT))


async def test_connections_are_counted(harness: GatewayHarness):
    """The number of open connections follows those of clients, closed by either side."""
    changes = MetricChanges()
    with socket.create_connection(harness.address), socket.create_connection(harness.address):
        await eventually(lambda: changes.total("http_server_connections") == 2)
    await eventually(lambda: changes.total("http_server_connections") == 0)


async def test_refused_connections_are_counted():
    """A connection beyond the limit of its peer is counted by that limit, and the numbers stay right."""
    changes = MetricChanges()
    async with running_gateway(gateway_max_connections_per_peer=1) as harness:
        async with (
            httpx.AsyncClient(base_url=harness.url, trust_env=False, timeout=SECONDS) as client,
            client.stream("GET", "/v1/jobs/endless:watch") as response,
        ):
            await anext(response.aiter_bytes())
            assert (await client.get("/v1/jobs/1")).status_code == 503
        assert changes.total("http_server_refused_connections_total", limit="per_peer") == 1
        await eventually(lambda: changes.total("http_server_connections") == 0)


async def test_scrape_of_a_gateway(client: httpx.AsyncClient, harness: GatewayHarness):
    """A scrape asks whether the gateway is ready, and reads its caches."""
    for _ in range(4):
        await client.get("/v1/jobs/018f")
    async with serving_metrics("127.0.0.1:0") as port, httpx.AsyncClient(trust_env=False) as scraper:
        url = f"http://127.0.0.1:{port}/metrics"
        samples = parse((await scraper.get(url)).text)
        assert total(samples, "reelhaul_ready") == 1
        assert total(samples, "reelhaul_gateway_cache_total", cache="messages", result="hit") >= 2
        assert total(samples, "reelhaul_gateway_cache_total", cache="messages", result="miss") >= 2
        await harness.stacks["storage"].aclose()
        async with asyncio.timeout(SECONDS):
            while total(parse((await scraper.get(url)).text), "reelhaul_ready"):
                pass


async def test_authentication():
    """Refused credentials are counted by reason, refused calls by limit, look-ups of keys by hit or miss."""
    async with (
        running_gateway(auth="keys", anonymous_requests_per_minute=40) as harness,
        httpx.AsyncClient(base_url=harness.url, trust_env=False, timeout=SECONDS) as client,
    ):
        key = harness.keys.add()
        harness.keys.keys[key].api_key.quota.requests_per_minute = 3
        changes = MetricChanges()
        valid = {"x-api-key": key}
        for headers in ({}, {"x-api-key": "wrong"}, valid, valid, valid, valid):
            await client.get("/v1/jobs/1", headers=headers)
        failures = "reelhaul_authentication_failures_total"
        assert changes.total(failures, reason="CREDENTIAL_MISSING") == 1
        assert changes.total(failures, reason="CREDENTIAL_INVALID") == 1
        assert changes.total("reelhaul_rate_limited_total", level="key") == 1
        # The gateway and jobs each look up the calls that are admitted, jobs not the fourth.
        assert changes.total("reelhaul_credential_cache_total", result="miss") == 3
        assert changes.total("reelhaul_credential_cache_total", result="hit") == 5
        for _ in range(5):
            await client.get("/v1/jobs/1", headers={"x-api-key": "wrong"})
        assert changes.total("reelhaul_rate_limited_total", level="address") >= 1
