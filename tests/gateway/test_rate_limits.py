"""Rate limits of HTTP callers: counted once at the gateway, and stated in headers."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from zlib import crc32

import httpx
import pytest
import websockets
from tests.gateway.fake_services import CONTENT, GatewayHarness, running_gateway
from tests.redis_server import RedisServer
from tests.servers import wait_until_listening

from reelhaul import api_keys
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel

JOB = "/v1/jobs/00000000-0000-4000-8000-000000000001"
_SECONDS_LEFT = 45


@pytest.fixture
async def harness() -> AsyncIterator[GatewayHarness]:
    """A gateway and fake services with authentication by key."""
    async with running_gateway(auth="keys", anonymous_requests_per_minute=20) as running:
        yield running


@pytest.fixture
async def client(harness: GatewayHarness) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway, without a key."""
    async with httpx.AsyncClient(base_url=harness.url, timeout=30, trust_env=False) as opened:
        yield opened


def add_key(
    harness: GatewayHarness, units: int, *, level: Any = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
) -> str:
    """Add a key with *units* per minute, whose present minute lasts for long enough; return its string."""
    key = harness.keys.add(level)
    resource = harness.keys.keys[key].api_key
    resource.quota.requests_per_minute = units
    resource.name = _name_with_time_left()
    return key


def _name_with_time_left() -> str:
    while True:
        name = f"apiKeys/{uuid.uuid4()}"
        if 60 - (time.time() + crc32(name.encode()) % 60) % 60 > _SECONDS_LEFT:
            return name


def bearer(key: str) -> dict[str, str]:
    """Return the header of *key*."""
    return {"authorization": f"Bearer {key}"}


def detail(response: httpx.Response, kind: str) -> Any:
    """Return the detail of *kind* of the failure in *response*."""
    details = response.json()["details"]
    return next(each for each in details if each["@type"].endswith(f".{kind}"))


def left(response: httpx.Response) -> int:
    """Return the units that *response* says are left."""
    name, units, seconds = response.headers["ratelimit"].split(";")
    assert name == '"key"'
    assert 0 < int(seconds.removeprefix("t=")) <= 60
    return int(units.removeprefix("r="))


async def test_headers(harness: GatewayHarness, client: httpx.AsyncClient):
    """Each response to a key states its policy and what is left, also an error and one without a body."""
    headers = bearer(add_key(harness, 40))
    answers = [
        await client.get(JOB, headers=headers),
        await client.get("/v1/jobs/missing", headers=headers),
        await client.head(JOB, headers=headers),
        await client.post("/v1/jobs", content=b"{ no json", headers=headers),
        await client.get("/health/detailed", headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 400, 403]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"key";q=40;w=60'}
    # CreateJob and CheckHealth cost 10, also if they are refused.
    assert [left(answer) for answer in answers] == [39, 38, 37, 27, 17]
    unlimited = bearer(add_key(harness, 0, level=PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS))
    assert "ratelimit" not in (await client.get(JOB, headers=unlimited)).headers


async def test_a_limit_is_exact(harness: GatewayHarness, client: httpx.AsyncClient):
    """Of 100 requests that come at the same time, exactly the limit is answered; each counts once."""
    headers = bearer(add_key(harness, 60))
    answers = await asyncio.gather(*(client.get(JOB, headers=headers) for _ in range(100)))
    assert Counter(answer.status_code for answer in answers) == {200: 60, 429: 40}
    assert len(harness.jobs.metadata) == 60


async def test_a_refused_request(harness: GatewayHarness, client: httpx.AsyncClient):
    """A 429 says when to try again, as a header and in its details, and whose limit it is."""
    key = add_key(harness, 1)
    assert (await client.get(JOB, headers=bearer(key))).status_code == 200
    refused = await client.get(JOB, headers=bearer(key) | {"origin": harness.url})
    assert refused.status_code == 429
    seconds = int(refused.headers["retry-after"])
    assert 0 < seconds <= 60
    assert refused.headers["ratelimit"] == f'"key";r=0;t={seconds}'
    assert detail(refused, "ErrorInfo")["reason"] == "RATE_LIMIT_EXCEEDED"
    assert detail(refused, "RetryInfo")["retryDelay"] == f"{seconds}s"
    (violation,) = detail(refused, "QuotaFailure")["violations"]
    assert violation["subject"] == harness.keys.keys[key].api_key.name
    assert (violation["quotaMetric"], violation["quotaId"]) == (
        "requests_per_minute",
        "requests_per_minute/apiKeys",
    )
    assert violation["quotaValue"] == "1"


async def test_streams_and_downloads_cost_once(harness: GatewayHarness, client: httpx.AsyncClient):
    """Server-sent events, WebSockets, downloads and archives cost when they open, whatever they transfer."""
    key = add_key(harness, 10)
    events = await client.get(f"{JOB}:watch", headers=bearer(key) | {"accept": "text/event-stream"})
    assert left(events) == 8
    url = harness.url.replace("http://", "ws://") + f"{JOB}:watch"
    async with websockets.connect(url, additional_headers=bearer(key), proxy=None) as socket:
        assert len([message async for message in socket]) == 2
    ticket: Any = [f"reelhaul.ticket.{harness.keys.add_ticket(key)}", "reelhaul.v1"]
    async with websockets.connect(url, subprotocols=ticket, proxy=None) as socket:
        assert len([message async for message in socket]) == 2
    download = await client.get("/v1/artifacts/video:download", headers=bearer(key))
    assert (download.content, left(download)) == (CONTENT, 3)
    # It costs more than is left.
    archive = await client.get("/v1/artifacts:archive?names=artifacts/video", headers=bearer(key))
    assert archive.status_code == 429
    assert left(await client.get("/v1/artifacts/video:download", headers=bearer(key))) == 2


async def test_a_websocket_beyond_the_limit(harness: GatewayHarness):
    """A WebSocket beyond the limit gets the reason, and is closed."""
    key = add_key(harness, 2)
    url = harness.url.replace("http://", "ws://") + f"{JOB}:watch"
    async with websockets.connect(url, additional_headers=bearer(key), proxy=None) as socket:
        assert len([message async for message in socket]) == 2
    async with websockets.connect(url, additional_headers=bearer(key), proxy=None) as socket:
        error = json.loads(await socket.recv())["error"]
        assert error["details"][0]["reason"] == "RATE_LIMIT_EXCEEDED"
        await socket.wait_closed()


async def test_failed_authentication(harness: GatewayHarness, client: httpx.AsyncClient):
    """An address that sends many wrong keys is refused before they are verified; known keys go on to work."""
    known = bearer(add_key(harness, 100))
    assert (await client.get(JOB, headers=known)).status_code == 200
    answers = [await client.get(JOB, headers=bearer(api_keys.create_key_string())) for _ in range(20)]
    codes = Counter(answer.status_code for answer in answers)
    # 2 attempts a minute: if a new minute began meanwhile, 4.
    assert set(codes) == {401, 429}
    assert codes[401] <= 4
    assert harness.keys.calls <= 5
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert detail(refused, "QuotaFailure")["violations"][0]["subject"] == "addresses/127.0.0.1"
    for _ in range(5):
        assert (await client.get(JOB, headers=known)).status_code == 200


async def test_tickets_that_fail(harness: GatewayHarness):
    """Wrong tickets count as failed attempts of their address."""
    url = harness.url.replace("http://", "ws://") + f"{JOB}:watch"
    reasons = set()
    for _ in range(12):
        protocols: Any = ["reelhaul.ticket." + "x" * 43, "reelhaul.v1"]
        async with websockets.connect(url, subprotocols=protocols, proxy=None) as socket:
            body = json.loads(await socket.recv())
            reasons.add(body["error"]["details"][0]["reason"])
    assert reasons == {"CREDENTIAL_INVALID", "RATE_LIMIT_EXCEEDED"}


@pytest.mark.parametrize("path", ["/v1:describeServer", "/docs"])
async def test_public_paths_are_limited_by_address(client: httpx.AsyncClient, path: str):
    """What needs no key is limited by address; probes, which load balancers send, are not."""
    # 20 a minute: if a new minute began meanwhile, 40.
    codes = Counter([(await client.get(path)).status_code for _ in range(41)])
    assert set(codes) == {200, 429}
    probes = [(await client.get(probe)).status_code for probe in ("/healthz", "/readyz", "/health")]
    assert probes == [200, 200, 200]


async def test_two_gateways_share_a_limit():
    """Of 200 requests of 50 callers at two gateways with one Redis, the limit is answered within 2 %."""
    redis = RedisServer()
    async with AsyncExitStack() as stack:
        stack.enter_context(redis.running())
        await wait_until_listening(redis.port)
        clients, harnesses = [], []
        for _ in range(2):
            harness = await stack.enter_async_context(running_gateway(auth="keys", rate_limit_url=redis.url))
            harnesses.append(harness)
            clients.append(
                await stack.enter_async_context(
                    httpx.AsyncClient(base_url=harness.url, timeout=30, trust_env=False)
                )
            )
        key = add_key(harnesses[0], 100)
        harnesses[1].keys.keys[key] = harnesses[0].keys.keys[key]

        async def send(number: int) -> list[int]:
            client = clients[number % 2]
            return [(await client.get(JOB, headers=bearer(key))).status_code for _ in range(4)]

        codes = Counter(code for each in await asyncio.gather(*map(send, range(50))) for code in each)
    assert set(codes) == {200, 429}
    assert 98 <= codes[200] <= 102
