"""Hosts, origins, trace contexts and malformed messages: what the edge rejects, beside what it accepts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.gateway.fake_services import CONTENT, GatewayHarness, running_gateway

from reelhaul_runtime.tracing import spans

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def harness() -> AsyncIterator[GatewayHarness]:
    """A running gateway and its fake services."""
    async with running_gateway() as running:
        yield running


@pytest.fixture
async def client(harness: GatewayHarness) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway."""
    async with httpx.AsyncClient(base_url=harness.url, timeout=10, trust_env=False) as opened:
        yield opened


async def send(harness: GatewayHarness, request: bytes) -> tuple[int, dict[str, object]]:
    """Send raw bytes on a connection of their own; return the status and the JSON of the response."""
    reader, writer = await asyncio.open_connection(*harness.address)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            response = await reader.read()
    finally:
        writer.close()
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "host",
    [
        b"[",
        b"]",
        b"[::1",
        b"[::1]x",
        b"[::1]:",
        b"[::1]:x",
        b"[127.0.0.1]",
        b"[:::1]",
        b"\xff",
        b"localhost\xff",
        b"user@127.0.0.1",
        b"127.0.0.1:80@evil.example",
        b"http://127.0.0.1",
        b"127.0.0.1/",
        b"127.0.0.1 evil.example",
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1\r\nHost: 127.0.0.1",
        b"127.0.0.1\r\nHost: evil.example",
    ],
)
async def test_malformed_or_foreign_host_is_rejected(harness, caplog, host: bytes) -> None:
    """The answer is 400 that names the header, and no traceback is logged."""
    status, body = await send(
        harness, b"GET /v1/jobs/018f HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
    )
    assert status == 400
    assert body["details"][0]["metadata"] == {"field": "host"}
    assert "Traceback" not in caplog.text
    assert not harness.jobs.metadata


@pytest.mark.parametrize(
    "host",
    [
        b"127.0.0.1",
        b"127.0.0.1:8080",
        b"[::1]",
        b"[::1]:8080",
        b"localhost",
        b"LOCALHOST:1",
        b"app.localhost",
        b"",
    ],
)
async def test_local_host_is_accepted(harness, host: bytes) -> None:
    """Every way of writing an address of this machine, and the empty Host of simple clients."""
    status, _ = await send(
        harness, b"GET /v1/jobs/018f HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
    )
    assert status == 200


@pytest.mark.parametrize(
    "origin",
    [
        b"http://[",
        b"http://[::1",
        b"[",
        b"null",
        b"\xff",
        b"http://",
        b"",
        b"http://evil.example",
        b"http://HOST\r\nOrigin: http://HOST",
    ],
)
async def test_malformed_or_foreign_origin_is_rejected(harness, caplog, origin: bytes) -> None:
    """A request with effects from a page of another origin is 400, however the origin is written."""
    host = b"%s:%d" % (harness.address[0].encode(), harness.address[1])
    status, body = await send(
        harness,
        b"POST /v1/jobs HTTP/1.1\r\nHost: "
        + host
        + b"\r\nOrigin: "
        + origin.replace(b"HOST", host)
        + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    )
    assert status == 400
    assert body["details"][0]["metadata"] == {"field": "origin"}
    assert "Traceback" not in caplog.text
    assert not harness.jobs.create_requests


EFFECTS = [
    "/v1:probeMedia?url=https://media.example/1",
    "/api/v1/info?url=https://media.example/1",
    "/v1/jobs/018f:watch",
    "/v1/jobs:watch",
    "/api/v1/progress/018f",
    "/health/detailed",
]


@pytest.mark.parametrize("path", EFFECTS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_reads_with_effects_are_rejected_for_other_origins(client, path, method, headers) -> None:
    """A page cannot start a probe or occupy a stream by an image or a script with its URL."""
    response = await client.request(method, path, headers=headers)
    assert response.status_code == 400


@pytest.mark.parametrize("path", EFFECTS)
@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin"}])
async def test_reads_with_effects_are_accepted_from_clients_and_own_pages(client, path, headers) -> None:
    """Clients that are no browsers send neither header; the fake services implement not all of them."""
    async with client.stream("GET", path, headers=headers) as response:
        assert response.status_code in (200, 501)


async def test_plain_reads_are_accepted_from_links(client) -> None:
    """A link on another page to a job or a file works: it only reads."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await client.get("/v1/jobs/018f", headers=headers)).status_code == 200
    assert (await client.head("/v1/artifacts/video:download", headers=headers)).status_code == 200


async def test_write_is_rejected_by_fetch_metadata_alone(client, harness) -> None:
    """A POST with Sec-Fetch-Site: cross-site is refused even if Origin was removed on the way."""
    response = await client.post("/v1/jobs", json={}, headers={"sec-fetch-site": "cross-site"})
    assert response.status_code == 400
    assert response.json()["details"][0]["metadata"] == {"field": "sec-fetch-site"}
    own = {"sec-fetch-site": "same-origin", "origin": harness.url}
    assert (await client.post("/v1/jobs", json={}, headers=own)).status_code == 200


async def test_downloads_cannot_be_embedded_by_other_pages() -> None:
    """Cross-Origin-Resource-Policy is same-origin unless the operator chooses otherwise."""
    async with running_gateway() as harness, httpx.AsyncClient(trust_env=False) as client:
        for path in ("/v1/artifacts/video:download", "/v1/jobs/018f", "/healthz", "/v1/nowhere"):
            response = await client.get(harness.url + path)
            assert response.headers["cross-origin-resource-policy"] == "same-origin", path
    async with (
        running_gateway(gateway_resource_policy="cross-origin") as harness,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        download = await client.get(f"{harness.url}/v1/artifacts/video:download")
        assert download.headers["cross-origin-resource-policy"] == "cross-origin"
        assert download.content == CONTENT
        job = await client.get(f"{harness.url}/v1/jobs/018f")
        assert job.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "trace",
    [
        "x" * 5000,
        TRACE + "\tinjected",
        TRACE.upper(),
        TRACE.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)
async def test_invalid_trace_context_is_dropped(client, harness, trace) -> None:
    """It is neither logged nor forwarded, and the request is served."""
    response = await client.get("/v1/jobs/018f", headers={"traceparent": trace, "tracestate": "a=b"})
    assert response.status_code == 200
    assert harness.jobs.metadata[0].keys().isdisjoint({"traceparent", "tracestate"})


async def test_valid_trace_context_is_forwarded(client, harness) -> None:
    """Traces continue through the gateway."""
    await client.get("/v1/jobs/018f", headers={"traceparent": TRACE, "tracestate": "a=b"})
    assert harness.jobs.metadata[0]["traceparent"] == TRACE
    assert harness.jobs.metadata[0]["tracestate"] == "a=b"


async def test_trace_context_is_bounded(client, harness) -> None:
    """A long tracestate, baggage, and X-Ray's header, which is not enabled, go no further."""
    hostile = {"tracestate": "a=" + "b" * 600, "baggage": "key=" + "v" * 4000, "x-amzn-trace-id": "Root=1-"}
    response = await client.get("/v1/jobs/018f", headers={"traceparent": TRACE, **hostile})
    assert response.status_code == 200
    assert harness.jobs.metadata[0]["traceparent"] == TRACE
    assert harness.jobs.metadata[0].keys().isdisjoint(hostile)


async def test_spans_have_nothing_of_the_caller(client, harness) -> None:
    """A span has the route, and no path, query, header or method that the caller has made up."""
    recorded: list[spans.RecordedSpan] = []
    spans.configure(recorded.append)
    try:
        await client.get("/v1/jobs/018f?secret=hunter2", headers={"user-agent": "hunter2"})
        await client.request("PROPFIND", "/hunter2/hunter2")
    finally:
        spans.configure(None)
    assert [span.name for span in recorded] == ["GET /v1/{name=jobs/*}", "_OTHER"]
    assert "hunter2" not in repr([(span.name, span.attributes, span.error) for span in recorded]).lower()
