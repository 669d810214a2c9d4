"""The gateway with REELHAUL_AUTH=keys: over HTTP, SSE and WebSocket, with fake services."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import websockets
from google.rpc import code_pb2
from tests.gateway.fake_services import CONTENT, SUITE_TOKEN, GatewayHarness, running_gateway

from reelhaul import api_keys
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel

READ_ONLY, ADMIN = PermissionLevel.PERMISSION_LEVEL_READ_ONLY, PermissionLevel.PERMISSION_LEVEL_ADMIN
JOB = "/v1/jobs/00000000-0000-4000-8000-000000000001"
_NEW_JOB = {"url": "https://media.example/"}


@pytest.fixture
async def harness() -> AsyncIterator[GatewayHarness]:
    """A gateway and fake services with authentication by key."""
    async with running_gateway(auth="keys") as running:
        yield running


@pytest.fixture
async def client(harness: GatewayHarness) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway, without a key."""
    async with httpx.AsyncClient(base_url=harness.url, timeout=10, trust_env=False) as opened:
        yield opened


def bearer(key: str) -> dict[str, str]:
    """Return the header of *key*."""
    return {"authorization": f"Bearer {key}"}


def reason_of(body: Any) -> str:
    """Return the reason of the failure in *body*."""
    return str(body["details"][0]["reason"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", JOB),
        ("POST", "/v1/jobs"),
        ("GET", f"{JOB}:watch"),
        ("HEAD", f"{JOB}:watch"),
        ("GET", "/v1/artifacts/video:download"),
        ("GET", "/v1/artifacts:archive?names=artifacts/video"),
        ("GET", "/health/detailed"),
    ],
)
async def test_requests_without_a_working_key(client: httpx.AsyncClient, method: str, path: str):
    """Each request that needs a key gets 401 and a challenge without one, before its body is looked at."""
    unknown = api_keys.create_key_string()
    for headers, reason in (({}, "CREDENTIAL_MISSING"), (bearer(unknown), "CREDENTIAL_INVALID")):
        response = await client.request(method, path, headers=headers, content=b"{ no json")
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Bearer realm="reelhaul"'
        assert method == "HEAD" or reason_of(response.json()) == reason


@pytest.mark.parametrize(
    "path", ["/health", "/healthz", "/readyz", "/v1:describeServer", "/openapi.json", "/docs"]
)
async def test_public_requests(harness: GatewayHarness, client: httpx.AsyncClient, path: str):
    """Health, the description of the server and the documentation need no key, and mind no wrong one."""
    for headers in ({}, bearer("rh_live_wrong")):
        assert (await client.get(path, headers=headers)).status_code == 200
    assert harness.keys.calls == 0


async def test_refused_requests_are_audited(harness: GatewayHarness, client: httpx.AsyncClient):
    """A request that the gateway refuses is in the audit log of jobs if the RPC is audited, and only then."""
    read_only = bearer(harness.keys.add(READ_ONLY))
    assert (await client.get(JOB)).status_code == 401
    assert (await client.delete(JOB, headers=read_only)).status_code == 403
    await asyncio.wait_for(harness.audit.received.wait(), 30)
    (entry,) = harness.audit.entries
    assert entry.method == "reelhaul.jobs.v1.JobService/DeleteJob"
    assert (entry.principal, entry.tenant, entry.address) == ("apiKeys/0", "acme", "127.0.0.1")
    assert entry.status.code == code_pb2.PERMISSION_DENIED


async def test_levels(harness: GatewayHarness, client: httpx.AsyncClient):
    """A key reaches the requests of its level; a higher one is 403 with the level that it needs."""
    read_only, admin = bearer(harness.keys.add(READ_ONLY)), bearer(harness.keys.add(ADMIN))
    assert (await client.get(JOB, headers=read_only)).status_code == 200
    refused = await client.post("/v1/jobs", json=_NEW_JOB, headers=read_only)
    assert (refused.status_code, reason_of(refused.json())) == (403, "PERMISSION_INSUFFICIENT")
    assert refused.json()["details"][0]["metadata"] == {"required": "DOWNLOAD", "granted": "READ_ONLY"}
    assert harness.jobs.create_requests == []
    assert (await client.get("/health/detailed", headers=read_only)).status_code == 403
    assert (await client.get("/health/detailed", headers=admin)).status_code == 200


async def test_services_get_the_credential(harness: GatewayHarness, client: httpx.AsyncClient):
    """Services get the caller's credential and the gateway's proof, which no caller can send."""
    key = harness.keys.add()
    forged = {"x-reelhaul-suite-token": SUITE_TOKEN, "grpc-metadata-x-reelhaul-suite-token": SUITE_TOKEN}
    assert (await client.get(JOB, headers=bearer(key) | forged)).status_code == 200
    metadata = harness.jobs.metadata[-1]
    assert metadata["authorization"] == f"Bearer {key}"
    assert (metadata["x-reelhaul-suite-token"], metadata["x-reelhaul-forwarded"]) == (SUITE_TOKEN, "1")
    assert metadata["x-forwarded-for"] == "127.0.0.1"
    assert (await client.get(JOB, headers=forged)).status_code == 401


async def test_downloads_and_archives(harness: GatewayHarness, client: httpx.AsyncClient):
    """A key downloads artifacts; one without the level or of another network does not."""
    key, elsewhere = harness.keys.add(READ_ONLY), harness.keys.add(READ_ONLY, cidrs=("192.0.2.0/24",))
    path = "/v1/artifacts/video:download"
    assert (await client.get(path, headers=bearer(key))).content == CONTENT
    refused = await client.get(path, headers=bearer(elsewhere))
    assert (refused.status_code, reason_of(refused.json())) == (403, "ADDRESS_FORBIDDEN")


async def test_streams(harness: GatewayHarness, client: httpx.AsyncClient):
    """A watch as server-sent events needs a key like any request."""
    headers = bearer(harness.keys.add(READ_ONLY)) | {"accept": "text/event-stream"}
    async with client.stream("GET", f"{JOB}:watch", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert "data: " in (await response.aread()).decode()


@pytest.mark.parametrize("name", ["key", "api_key", "token", "Access_Token"])
async def test_keys_in_the_url(harness: GatewayHarness, client: httpx.AsyncClient, name: str):
    """A key in the query is no credential; the error says where it belongs, and repeats nothing of it."""
    key = harness.keys.add()
    response = await client.get(f"{JOB}?{name}={key}")
    assert response.status_code == 401
    assert "not accepted in the URL" in response.json()["message"]
    assert "authorization: Bearer" in response.json()["message"]
    assert key not in response.text


async def test_unavailable_jobs(harness: GatewayHarness, client: httpx.AsyncClient):
    """While keys cannot be verified, one that was used before works, and others are 503, not 401."""
    known, other = bearer(harness.keys.add(READ_ONLY)), bearer(harness.keys.add(READ_ONLY))
    path = "/v1/artifacts/video:download"
    assert (await client.get(path, headers=known)).status_code == 200
    await harness.stacks["jobs"].aclose()
    assert (await client.get(path, headers=known)).status_code == 200
    unknown = await client.get(path, headers=other)
    assert (unknown.status_code, reason_of(unknown.json())) == (503, "SERVICE_UNAVAILABLE")


class TestWebSockets:
    """WebSockets: the credential stands in a header or a subprotocol."""

    async def watch(self, harness: GatewayHarness, *protocols: str, **options: Any) -> tuple[int, str, str]:
        """Watch a job; return the close code, the reason of a failure, and the selected subprotocol."""
        url = harness.url.replace("http://", "ws://") + f"{JOB}:watch"
        subprotocols: Any = list(protocols) or None
        reason = ""
        async with websockets.connect(url, subprotocols=subprotocols, proxy=None, **options) as socket:
            with suppress(websockets.ConnectionClosedError):
                async for message in socket:
                    body = json.loads(message)
                    reason = reason_of(body["error"]) if "error" in body else ""
            assert socket.close_code is not None
            return socket.close_code, reason, str(socket.subprotocol or "")

    async def test_key(self, harness: GatewayHarness):
        """A key works in a header, and in a subprotocol beside another, which is selected."""
        key = harness.keys.add(READ_ONLY)
        encoded = "reelhaul.key." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
        assert await self.watch(harness, additional_headers=bearer(key)) == (1000, "", "")
        assert await self.watch(harness, encoded, "reelhaul.v1") == (1000, "", "reelhaul.v1")
        assert await self.watch(harness, "reelhaul.v1", encoded) == (1000, "", "reelhaul.v1")
        assert await self.watch(harness, "reelhaul.v1") == (4401, "CREDENTIAL_MISSING", "reelhaul.v1")

    @pytest.mark.parametrize(
        "protocol", ["reelhaul.key.", "reelhaul.key.%%%", "reelhaul.key.eA", "reelhaul.ticket.x"]
    )
    async def test_malformed(self, harness: GatewayHarness, protocol: str):
        """What is no key or ticket is refused with close code 4401."""
        assert (await self.watch(harness, protocol, "reelhaul.v1"))[:2] == (4401, "CREDENTIAL_INVALID")

    async def test_address(self, harness: GatewayHarness):
        """A key or ticket of another network is refused with close code 4403."""
        key = harness.keys.add(READ_ONLY, cidrs=("192.0.2.0/24",))
        assert (await self.watch(harness, additional_headers=bearer(key)))[:2] == (4403, "ADDRESS_FORBIDDEN")
        ticket = f"reelhaul.ticket.{harness.keys.add_ticket(key)}"
        assert (await self.watch(harness, ticket, "reelhaul.v1"))[:2] == (4403, "ADDRESS_FORBIDDEN")

    async def test_ticket(self, harness: GatewayHarness):
        """A ticket opens one WebSocket, as its creator, and never a second one."""
        protocols = f"reelhaul.ticket.{harness.keys.add_ticket(harness.keys.add(READ_ONLY))}", "reelhaul.v1"
        assert await self.watch(harness, *protocols) == (1000, "", "reelhaul.v1")
        assert await self.watch(harness, *protocols) == (4401, "CREDENTIAL_INVALID", "reelhaul.v1")

    async def test_other_origins(self, harness: GatewayHarness):
        """A page of any origin may use a key or ticket that it has; without one it may not connect."""
        ticket = f"reelhaul.ticket.{harness.keys.add_ticket(harness.keys.add(READ_ONLY))}"
        origin: Any = "https://app.example"
        assert (await self.watch(harness, ticket, "reelhaul.v1", origin=origin))[0] == 1000
        with pytest.raises(websockets.InvalidStatus):
            await self.watch(harness, "reelhaul.v1", origin=origin)


async def test_secrets_are_not_logged(
    harness: GatewayHarness, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
):
    """Neither keys nor tickets are in the log, wherever the caller put them."""
    caplog.set_level(logging.DEBUG)
    key = harness.keys.add(READ_ONLY)
    encoded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    ticket = harness.keys.add_ticket(key)
    await client.get(JOB, headers=bearer(key))
    await client.get(f"{JOB}?api_key={key}")
    await TestWebSockets().watch(harness, f"reelhaul.key.{encoded}", "reelhaul.v1")
    await TestWebSockets().watch(harness, f"reelhaul.ticket.{ticket}", "reelhaul.v1")
    ours = [
        record for record in caplog.records if not record.name.startswith(("httpx", "httpcore", "websockets"))
    ]
    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    assert len(ours) >= 4
    assert [secret for secret in (key, encoded, ticket) if secret in text] == []


async def test_without_authentication_no_subprotocol_opens_websockets_for_pages():
    """With REELHAUL_AUTH=none a page of another origin may not connect, whatever it sends as a key."""
    async with running_gateway() as harness:
        origin: Any = "https://evil.example"
        sockets = TestWebSockets()
        for protocol in ("reelhaul.key.eA", "reelhaul.ticket." + "x" * 43):
            with pytest.raises(websockets.InvalidStatus):
                await sockets.watch(harness, protocol, "reelhaul.v1", origin=origin)
            assert (await sockets.watch(harness, protocol, "reelhaul.v1"))[0] == 1000
