"""Who may call what: every RPC and every HTTP route with every kind of credential, from the descriptors."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from tests.suite.suite import Suite, running_suite

from reelhaul import api_keys
from reelhaul.admin.v1 import (
    api_key_pb2,
    api_key_service_pb2,
    api_key_service_pb2_grpc,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
)
from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.storage.v1 import storage_service_pb2
from reelhaul.system.v1 import system_service_pb2, system_service_pb2_grpc
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul.work.v1 import lease_service_pb2
from reelhaul_gateway.transcoding import SERVICES
from reelhaul_runtime.rpc.policy import method_policy
from reelhaul_runtime.system.process import PROCESS_SERVICE
from reelhaul_transcoding.routing.rules import HttpRule, http_rules

SUITE_TOKEN = "the token of the suite"
LEVELS = ("READ_ONLY", "DOWNLOAD", "ADMIN", "FULL_ACCESS")
#: A message that no parser accepts, and a parameter that no route has: what is refused because of them was
#: authorized, and had no effect.
MALFORMED, UNKNOWN_PARAMETER = b"\xff", {"no_such_parameter": "1"}
#: How an authorized call ends.
AUTHORIZED = "FIELD_INVALID"

#: Credentials that routes treat as others of the table, since the same code refuses them.
_SAME_AT_ROUTES = ("a mistyped key", "two keys", "a disabled key", "a deleted key", "another suite's token")
# An RPC of each service that a key of READ_ONLY may call.
_READS: dict[str, MethodDescriptor] = {
    "jobs": job_service_pb2.DESCRIPTOR.services_by_name["JobService"].methods_by_name["ListJobs"],
    "storage": storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"].methods_by_name[
        "ListArtifacts"
    ],
    "fetcher": fetcher_service_pb2.DESCRIPTOR.services_by_name["FetcherService"].methods_by_name[
        "ListExtractors"
    ],
}
_PROTOS = Path(__file__).parents[2] / "protos"
_SUITE = [("x-reelhaul-suite-token", SUITE_TOKEN)]


@dataclass(frozen=True)
class Credential:
    """A credential, as metadata and headers."""

    name: str
    metadata: list[tuple[str, str]] = field(default_factory=list)
    #: What a call that needs a credential is refused with; empty if the credential is good.
    refusal: str = ""
    level: PermissionLevel.ValueType = PermissionLevel.PERMISSION_LEVEL_UNSPECIFIED
    is_suite: bool = False


@dataclass(frozen=True)
class Access:
    """A suite with keys, and the credentials to call it with."""

    suite: Suite
    credentials: list[Credential]


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """A suite with REELHAUL_AUTH=keys and without rate limits."""
    data_dir = tmp_path_factory.mktemp("access") / "data"
    no_limits = ",".join(f'"{level}":{{"requests_per_minute":-1}}' for level in LEVELS)
    settings = {
        "auth": "keys",
        "suite_token": SUITE_TOKEN,
        "level_quotas": f"{{{no_limits}}}",
        "anonymous_requests_per_minute": "1000000",
    }
    with running_suite(data_dir, **settings) as suite:
        yield Access(suite, create_credentials(suite))


def create_credentials(suite: Suite) -> list[Credential]:
    """Create keys of all kinds; return them and what is no key."""
    with suite.channel("jobs") as channel:
        stub = api_key_service_pb2_grpc.ApiKeyServiceStub(channel)
        create = partial(create_key, suite)
        credentials = [
            Credential(
                f"a key of {level}",
                bearer(create(level)),
                level=PermissionLevel.Value(f"PERMISSION_LEVEL_{level}"),
            )
            for level in LEVELS
        ]
        expiring = create("ADMIN", ttl=timedelta(seconds=1))
        elsewhere = create("ADMIN", allowed_cidrs=["192.0.2.0/24"])
        disabled = create("ADMIN", disabled=True)
        deleted = create("ADMIN")
        stub.DeleteApiKey(api_key_service_pb2.DeleteApiKeyRequest(name=deleted.name), metadata=_SUITE)

        def is_expired() -> bool:
            request = api_key_service_pb2.GetApiKeyRequest(name=expiring.name)
            return bool(stub.GetApiKey(request, metadata=_SUITE).state == api_key_pb2.ApiKey.State.EXPIRED)

        suite.wait_for("the expiry of a key", is_expired)
    unknown = bearer(api_key_pb2.ApiKey(key_string=api_keys.create_key_string()))
    return [
        *credentials,
        Credential("no credential", [], "CREDENTIAL_MISSING"),
        Credential("an unknown key", unknown, "CREDENTIAL_INVALID"),
        Credential("a mistyped key", [("x-api-key", "rh_live_mistyped")], "CREDENTIAL_INVALID"),
        Credential("two keys", [*unknown, ("x-api-key", elsewhere.key_string)], "CREDENTIAL_INVALID"),
        Credential("an expired key", bearer(expiring), "CREDENTIAL_INVALID"),
        Credential("a disabled key", bearer(disabled), "CREDENTIAL_INVALID"),
        Credential("a deleted key", bearer(deleted), "CREDENTIAL_INVALID"),
        Credential("a key of another network", bearer(elsewhere), "ADDRESS_FORBIDDEN"),
        Credential("another suite's token", [("x-reelhaul-suite-token", "other")], "CREDENTIAL_MISSING"),
        Credential("the suite's token", _SUITE, is_suite=True),
    ]


def create_key(
    suite: Suite, level: str = "READ_ONLY", tenant: str = "local", **fields: Any
) -> api_key_pb2.ApiKey:
    """Create a key of *level*, as the suite itself."""
    key = api_key_pb2.ApiKey(tenant=tenant, permission=f"PERMISSION_LEVEL_{level}", **fields)
    request = api_key_service_pb2.CreateApiKeyRequest(api_key=key)
    with suite.channel("jobs") as channel:
        stub = api_key_service_pb2_grpc.ApiKeyServiceStub(channel)
        created: api_key_pb2.ApiKey = stub.CreateApiKey(request, metadata=_SUITE)
        return created


def bearer(key: api_key_pb2.ApiKey) -> list[tuple[str, str]]:
    """Return the metadata of *key*."""
    return [("authorization", f"Bearer {key.key_string}")]


def expected(method: MethodDescriptor, credential: Credential) -> str:
    """Return the reason that a malformed call of *method* with *credential* is refused with."""
    policy = method_policy(path_of(method))
    if policy.permission == PermissionLevel.PERMISSION_LEVEL_PUBLIC:
        return AUTHORIZED
    if credential.refusal:
        return credential.refusal
    if credential.is_suite:
        return AUTHORIZED
    is_allowed = not policy.internal_only and credential.level >= policy.permission
    return AUTHORIZED if is_allowed else "PERMISSION_INSUFFICIENT"


def path_of(method: MethodDescriptor) -> str:
    """Return the path of *method*."""
    return f"/{method.containing_service.full_name}/{method.name}"


def served_services() -> dict[str, list[ServiceDescriptor]]:
    """Return the proto services by the service of the suite that serves them over gRPC."""
    leases = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]
    services = {owner: list(each) for owner, each in SERVICES.items()}
    # jobs serves over gRPC what the gateway answers itself in JSON.
    services["jobs"] += [leases, *services.pop("gateway")]
    for each in services.values():
        each.append(PROCESS_SERVICE)
    return services


async def test_revocation(access: Access):
    """Every service refuses a key within a second of its deletion, although each has just verified it."""
    key = create_key(access.suite)
    async with AsyncExitStack() as stack:
        url = access.suite.address("gateway")
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False))
        channels = {
            owner: await stack.enter_async_context(aio.insecure_channel(access.suite.address(owner)))
            for owner in _READS
        }

        async def refusals() -> list[str]:
            """Return the reasons that each service refuses the key with; empty: it does not."""
            credential = Credential("a key", bearer(key))
            calls = [call_malformed(channels[owner], method, credential) for owner, method in _READS.items()]
            response = await client.get("/v1/jobs", params=UNKNOWN_PARAMETER, headers=dict(bearer(key)))
            return [*await asyncio.gather(*calls), response.json()["details"][0]["reason"]]

        assert await refusals() == [AUTHORIZED] * 4
        jobs = api_key_service_pb2_grpc.ApiKeyServiceStub(channels["jobs"])
        await jobs.DeleteApiKey(api_key_service_pb2.DeleteApiKeyRequest(name=key.name), metadata=_SUITE)
        end = time.monotonic() + 1
        while True:
            # What is asked after that second counts, however slow the machine answers.
            is_late = time.monotonic() > end
            found = await refusals()
            if found == ["CREDENTIAL_INVALID"] * 4:
                break
            assert not is_late, found


async def test_other_tenant(access: Access):
    """Over HTTP and WebSocket a job of another tenant does not exist: nothing is read of it, nor changed."""
    with access.suite.channel("jobs") as channel:
        tenants = tenant_service_pb2_grpc.TenantServiceStub(channel)
        request = tenant_service_pb2.CreateTenantRequest(tenant_id="other")
        tenants.CreateTenant(request, metadata=_SUITE)
    own, other = (
        dict(bearer(create_key(access.suite, "DOWNLOAD", tenant=tenant))) for tenant in ("local", "other")
    )
    url = access.suite.address("gateway")
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        soon = datetime.now(UTC) + timedelta(hours=1)
        body = {"url": "https://media.example/", "schedule_time": soon.isoformat()}
        job = (await client.post("/v1/jobs", json=body, headers=own)).json()["name"]
        requests = [("GET", f"/v1/{job}"), ("POST", f"/v1/{job}:pause"), ("DELETE", f"/v1/{job}")]
        requests += [("GET", f"/v1/{job}:watch"), ("GET", f"/api/v1/status/{job.removeprefix('jobs/')}")]
        for method, path in requests:
            refused = await client.request(method, path, headers=other)
            reason = refused.json()["details"][0]["reason"]
            assert (refused.status_code, reason) == (404, "RESOURCE_NOT_FOUND"), path
        assert (await client.get("/v1/jobs", headers=other)).json().get("jobs", []) == []
        watch = f"{url.replace('http', 'ws', 1)}/v1/{job}:watch"
        async with websockets.connect(watch, additional_headers=other, proxy=None) as socket:
            with suppress(websockets.ConnectionClosedError):
                async for _ in socket:
                    pass
        assert socket.close_code == 4404
        found = await client.get(f"/v1/{job}", headers=own)
        assert (found.status_code, found.json()["state"]) == (200, "QUEUED")


async def test_rate_limits(access: Access):
    """Every service counts the calls that it gets directly; those at the gateway are counted there alone."""
    key = create_key(access.suite, quota=api_key_pb2.Quota(requests_per_minute=50))
    url = access.suite.address("gateway")
    async with httpx.AsyncClient(base_url=url, trust_env=False, headers=dict(bearer(key))) as client:

        async def left(owner: str) -> int:
            """Call the service *owner*; return the units that it says are left there."""
            method = _READS[owner]
            async with aio.insecure_channel(access.suite.address(owner)) as channel:
                call = channel.unary_unary(path_of(method))(b"", metadata=bearer(key))
                await call
                metadata = dict(await call.trailing_metadata())
            assert metadata["ratelimit-policy"] == '"key";q=50;w=60'
            match = re.fullmatch(r'"key";r=(\d+);t=\d+', str(metadata["ratelimit"]))
            assert match is not None
            return int(match[1])

        before = {owner: await left(owner) for owner in _READS}
        assert set(before.values()) <= {48, 49}
        for _ in range(5):
            assert (await client.get("/v1/jobs")).headers["ratelimit-policy"] == '"key";q=50;w=60'
        # One call more was counted, or a new minute has begun.
        assert await left("jobs") in (before["jobs"], before["jobs"] - 2)


def test_every_service_is_known():
    """Each service of the protos is in the table, so that none is forgotten."""
    declared = {
        match[1]
        for file in _PROTOS.glob("reelhaul/**/*.proto")
        for match in re.finditer(r"^service (\w+) ", file.read_text(), re.MULTILINE)
    }
    known = {service.name for services in served_services().values() for service in services}
    assert declared == known


async def test_every_rpc(access: Access):
    """Each RPC is authorized, or refused with the exact reason, for each kind of credential."""
    differences = []
    count = 0
    for owner, services in served_services().items():
        async with aio.insecure_channel(access.suite.address(owner)) as channel:
            methods = [method for service in services for method in service.methods]
            for method, credential in itertools.product(methods, access.credentials):
                count += 1
                reason = await call_malformed(channel, method, credential)
                if reason != (wanted := expected(method, credential)):
                    differences.append(f"{path_of(method)} with {credential.name}: {reason}, not {wanted}")
    assert differences == []
    assert count > 800


async def call_malformed(channel: aio.Channel, method: MethodDescriptor, credential: Credential) -> str:
    """Call *method* with a malformed message; return the reason of its failure."""
    path, metadata = path_of(method), credential.metadata
    try:
        if method.client_streaming:
            create = channel.stream_stream if method.server_streaming else channel.stream_unary
            call: Any = create(path)(iter([MALFORMED]), metadata=metadata, timeout=20)
        elif method.server_streaming:
            call = channel.unary_stream(path)(MALFORMED, metadata=metadata, timeout=20)
        else:
            call = channel.unary_unary(path)(MALFORMED, metadata=metadata, timeout=20)
        if method.server_streaming:
            async for _ in call:
                return "a response"
        else:
            await call
    except aio.AioRpcError as error:
        return reason_of(error)
    return "OK"


def reason_of(error: aio.AioRpcError) -> str:
    """Return the reason of *error*, or its code if it has none."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if not isinstance(details, bytes):
        return error.code().name
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(details).details[0].Unpack(info)
    return info.reason


async def test_system_service(access: Access):
    """SystemService is served over gRPC: the health without a key, the components with one of ADMIN."""
    admin = next(each for each in access.credentials if each.name == "a key of ADMIN")
    async with aio.insecure_channel(access.suite.address("jobs")) as channel:
        stub: Any = system_service_pb2_grpc.SystemServiceStub(channel)
        health = await stub.CheckHealth(system_service_pb2.CheckHealthRequest())
        description = await stub.DescribeServer(system_service_pb2.DescribeServerRequest())
        report = await stub.ReportHealth(system_service_pb2.ReportHealthRequest(), metadata=admin.metadata)
    assert health.status == report.status == system_service_pb2.SERVING_STATUS_SERVING
    assert {"jobs", "storage.write", "fetcher.nats"} <= {each.component for each in report.components}
    assert description.authentication_required


async def test_every_route(access: Access):
    """Each HTTP route is authorized, or refused with the exact reason, for each kind of credential."""
    services = [service for services in SERVICES.values() for service in services]
    differences = []
    credentials = [each for each in access.credentials if each.name not in _SAME_AT_ROUTES]
    async with httpx.AsyncClient(base_url=access.suite.address("gateway"), trust_env=False) as client:
        for rule in http_rules(services):
            for credential in credentials:
                reason = await request_malformed(client, rule, credential)
                wanted = expected_at_gateway(rule.method, credential)
                if reason != wanted:
                    differences.append(
                        f"{rule.http_method} {rule.template} with {credential.name}: {reason}, not {wanted}"
                    )
    assert differences == []


def expected_at_gateway(method: MethodDescriptor, credential: Credential) -> str:
    """Return how a malformed request for *method* ends; the gateway accepts no credential of the suite."""
    if credential.is_suite:
        credential = Credential(credential.name, refusal="CREDENTIAL_MISSING")
    return expected(method, credential)


async def request_malformed(client: httpx.AsyncClient, rule: HttpRule, credential: Credential) -> str:
    """Send the request of *rule* with a parameter that it does not have; return the reason of the failure."""
    path = re.sub(r"\{[^}=]*\}", "x", rule.template)
    path = re.sub(r"\{[^}=]*=([^}]*)\}", lambda match: match[1].replace("**", "x").replace("*", "x"), path)
    response = await client.request(
        rule.http_method, path, params=UNKNOWN_PARAMETER, headers=dict(credential.metadata), timeout=30
    )
    if response.status_code == 200 or "details" not in response.json():
        # The routes of health ignore unknown parameters.
        return AUTHORIZED if rule.method.name in ("CheckHealth", "ReportHealth") else response.text
    return str(response.json()["details"][0]["reason"])
