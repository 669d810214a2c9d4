"""Authentication by API key: over a real server whose keys are those of a table, with a controlled clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.key_table import KeyTable

from reelhaul import api_keys
from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_runtime import errors, identity, logs, nats_client
from reelhaul_runtime.auth.credential_cache import CredentialCache
from reelhaul_runtime.auth.key_authentication import CALLER_KEY, KeyAuthentication
from reelhaul_runtime.auth.peers import FORWARDED_KEY, SUITE_TOKEN_KEY, ServiceIdentifier
from reelhaul_runtime.auth.verification import ACCESS_CHANGED, CredentialVerifier, follow_changes
from reelhaul_runtime.rpc.server import serving

LEASES = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]
TOKEN = "the suite token"
SUITE = (SUITE_TOKEN_KEY, TOKEN)
FORWARDED = (FORWARDED_KEY, "1")
READ_ONLY, DOWNLOAD = PermissionLevel.PERMISSION_LEVEL_READ_ONLY, PermissionLevel.PERMISSION_LEVEL_DOWNLOAD


@dataclass
class Time:
    """A clock that tests move."""

    seconds: float = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    """Remembers its callers."""

    caller: identity.Caller
    client: str

    async def GetJob(self, request, context):
        self.caller, self.client = identity.caller(), logs.client.get()
        return job_pb2.Job(name=request.name)

    async def CreateJob(self, request, context):
        return job_pb2.Job()

    async def WatchJob(self, request, context):
        yield job_service_pb2.WatchJobResponse()
        await asyncio.Event().wait()


class Leases(lease_service_pb2_grpc.LeaseServiceServicer):
    async def Claim(self, request, context):
        return lease_service_pb2.ClaimResponse()


@dataclass
class Server:
    """A server with authentication by key."""

    keys: KeyTable
    time: Time
    credentials: CredentialCache
    jobs: Jobs
    channel: aio.Channel

    async def call(self, *metadata: tuple[str, str | bytes], method: str = "GetJob") -> str:
        """Call *method* with *metadata*; return the reason of its failure, or OK."""
        stub: Any = job_service_pb2_grpc.JobServiceStub(self.channel)
        request: Any = job_service_pb2.GetJobRequest(name="jobs/1")
        if method == "CreateJob":
            request = job_service_pb2.CreateJobRequest()
        if method == "Claim":
            stub, request = lease_service_pb2_grpc.LeaseServiceStub(self.channel), None
            request = lease_service_pb2.ClaimRequest()
        try:
            await getattr(stub, method)(request, metadata=metadata)
        except aio.AioRpcError as error:
            return reason_of(error)
        return "OK"


def reason_of(error: aio.AioRpcError) -> str:
    """Return the reason in the details of *error*."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert isinstance(details, bytes)
    status_pb2.Status.FromString(details).details[0].Unpack(info)
    return info.reason


@asynccontextmanager
async def serve(keys: KeyTable, clock: Time) -> AsyncIterator[Server]:
    """Serve jobs and leases, with the keys of *keys*."""
    credentials = CredentialCache(CredentialVerifier(keys, {}).verify, clock=clock, now=clock)
    authenticator = KeyAuthentication(ServiceIdentifier(TOKEN), credentials, {})
    jobs = Jobs()
    servicers = [
        (job_service_pb2_grpc.add_JobServiceServicer_to_server, jobs, "reelhaul.jobs.v1.JobService"),
        (
            lease_service_pb2_grpc.add_LeaseServiceServicer_to_server,
            Leases(),
            "reelhaul.work.v1.LeaseService",
        ),
    ]
    async with (
        serving("127.0.0.1:0", servicers, authenticator=authenticator, drain_seconds=1) as port,
        aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Server(keys, clock, credentials, jobs, channel)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve(KeyTable(), Time()) as server:
        yield server


def bearer(key: str) -> tuple[str, str]:
    """Return the metadata of *key*."""
    return ("authorization", f"Bearer {key}")


async def test_where_a_credential_may_stand(server: Server):
    """A key is taken from either header; two different ones and other schemes are refused."""
    key, other = server.keys.add(), server.keys.add()
    cases: list[tuple[list[tuple[str, str]], str]] = [
        ([bearer(key)], "OK"),
        ([("authorization", f"bearer  {key} ")], "OK"),
        ([("x-api-key", key)], "OK"),
        ([bearer(key), ("x-api-key", key)], "OK"),
        ([bearer(key), ("x-api-key", other)], "CREDENTIAL_INVALID"),
        ([bearer(key), bearer(other)], "CREDENTIAL_INVALID"),
        ([("x-api-key", key), ("x-api-key", other)], "CREDENTIAL_INVALID"),
        ([("authorization", f"Basic {key}")], "CREDENTIAL_INVALID"),
        ([("authorization", key)], "CREDENTIAL_INVALID"),
        ([("authorization", "Bearer")], "CREDENTIAL_INVALID"),
        ([], "CREDENTIAL_MISSING"),
        ([("authorization", ""), ("x-api-key", "")], "CREDENTIAL_MISSING"),
    ]
    assert [(metadata, await server.call(*metadata)) for metadata, _ in cases] == cases
    assert server.jobs.caller.principal in ("apiKeys/0", "apiKeys/1")


async def test_mistyped_keys_cost_no_verification(server: Server):
    """A key with a wrong character is refused by its checksum; an unknown one once by the verifier."""
    key, unknown = server.keys.add(), api_keys.create_key_string()
    mistyped = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert await server.call(bearer(mistyped)) == "CREDENTIAL_INVALID"
    assert server.keys.calls == 0
    assert [await server.call(bearer(unknown)) for _ in range(3)] == ["CREDENTIAL_INVALID"] * 3
    assert server.keys.calls == 1
    server.time.seconds += 6
    await server.call(bearer(unknown))
    assert server.keys.calls == 2


@pytest.mark.parametrize(
    ("level", "method", "result"),
    [
        (READ_ONLY, "GetJob", "OK"),
        (READ_ONLY, "CreateJob", "PERMISSION_INSUFFICIENT"),
        (DOWNLOAD, "CreateJob", "OK"),
        (PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS, "Claim", "PERMISSION_INSUFFICIENT"),
    ],
)
async def test_levels(server: Server, level: Any, method: str, result: str):
    """A key reaches the RPCs of its level, and none the internal ones."""
    assert await server.call(bearer(server.keys.add(level)), method=method) == result


async def test_services_and_forwarded_calls(server: Server):
    """The suite's credential opens internal RPCs, but not for a call that a service passes on."""
    key = bearer(server.keys.add())
    assert await server.call(SUITE, method="Claim") == "OK"
    assert await server.call((SUITE_TOKEN_KEY, "wrong"), method="Claim") == "CREDENTIAL_MISSING"
    assert await server.call(SUITE, key, method="Claim") == "PERMISSION_INSUFFICIENT"
    assert await server.call(SUITE, FORWARDED, method="Claim") == "CREDENTIAL_MISSING"
    assert await server.call(SUITE, FORWARDED) == "CREDENTIAL_MISSING"
    assert await server.call(SUITE, FORWARDED, key) == "OK"
    assert server.jobs.caller.tenant == "acme"
    assert not server.jobs.caller.suite


async def test_callers_reported_by_the_gateway(server: Server):
    """The gateway may say for whom a call is; nobody else may."""
    ticket = server.keys.keys[server.keys.add(READ_ONLY, "acme")]
    reported = (CALLER_KEY, ticket.SerializeToString())
    assert await server.call(SUITE, FORWARDED, reported) == "OK"
    assert server.jobs.caller.principal == "apiKeys/0"
    assert await server.call(SUITE, FORWARDED, reported, method="CreateJob") == "PERMISSION_INSUFFICIENT"
    assert await server.call(reported) == "CREDENTIAL_MISSING"
    assert await server.call(FORWARDED, reported) == "CREDENTIAL_MISSING"


async def test_networks(server: Server):
    """A key works from its networks only; services alone report another address than the connection's."""
    here, elsewhere = server.keys.add(cidrs=("127.0.0.0/8",)), server.keys.add(cidrs=("192.0.2.0/24",))
    client = ("x-forwarded-for", "192.0.2.7")
    assert await server.call(bearer(here)) == "OK"
    assert await server.call(bearer(elsewhere)) == "ADDRESS_FORBIDDEN"
    assert await server.call(bearer(elsewhere), client) == "ADDRESS_FORBIDDEN"
    assert await server.call(bearer(elsewhere), client, SUITE, FORWARDED) == "OK"
    assert server.jobs.client == "192.0.2.7"
    assert await server.call(bearer(here), client, SUITE, FORWARDED) == "ADDRESS_FORBIDDEN"
    assert await server.call(bearer(here), ("x-forwarded-for", "nonsense"), SUITE, FORWARDED) == "OK"


async def test_cache_lifetime(server: Server):
    """A verified key is not verified again within a minute, and is after it."""
    key = bearer(server.keys.add())
    assert [await server.call(key) for _ in range(3)] == ["OK"] * 3
    assert server.keys.calls == 1
    server.time.seconds += 59
    await server.call(key)
    assert server.keys.calls == 1
    server.time.seconds += 1
    await server.call(key)
    assert server.keys.calls == 2


async def test_expiry_within_the_cache(server: Server):
    """A key that expires is refused at that time, although it was verified a moment before."""
    key_string = server.keys.add(expire_time=int(server.time.seconds) + 10)
    assert await server.call(bearer(key_string)) == "OK"
    server.time.seconds += 9
    assert await server.call(bearer(key_string)) == "OK"
    server.time.seconds += 1
    del server.keys.keys[key_string]  # as the verifier refuses it then
    assert await server.call(bearer(key_string)) == "CREDENTIAL_INVALID"


async def test_while_jobs_is_away(server: Server):
    """While keys cannot be verified, known ones work until the cache expires; others are UNAVAILABLE."""
    known, unknown = bearer(server.keys.add()), bearer(server.keys.add())
    assert await server.call(known) == "OK"
    server.keys.available = False
    assert await server.call(known) == "OK"
    assert await server.call(unknown) == "SERVICE_UNAVAILABLE"
    server.time.seconds += 61
    assert await server.call(known) == "SERVICE_UNAVAILABLE"
    server.keys.available = True
    assert [await server.call(known), await server.call(unknown)] == ["OK", "OK"]


async def test_concurrent_calls_share_one_verification(server: Server):
    """Calls with one key that arrive together cause one verification, also if the first caller gives up."""
    key = server.keys.add()
    server.keys.delay = asyncio.Event()
    first, *others = [asyncio.create_task(server.credentials.resolve(key)) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    server.keys.delay.set()
    assert {verified.caller.principal for verified in await asyncio.gather(*others)} == {"apiKeys/0"}
    assert server.keys.calls == 1
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.parametrize("name", ["apiKeys/0", "tenants/acme"])
async def test_dropped_keys_are_verified_again(server: Server, name: str):
    """A change of a key, or of its tenant, takes effect at its next call; other keys stay in the cache."""
    key_string, other = server.keys.add(tenant="acme"), server.keys.add(tenant="other")
    assert [await server.call(bearer(key)) for key in (key_string, other)] == ["OK", "OK"]
    response = server.keys.keys.pop(key_string)
    assert await server.call(bearer(key_string)) == "OK"
    server.credentials.drop(name)
    assert await server.call(bearer(key_string)) == "CREDENTIAL_INVALID"
    server.keys.keys[key_string] = response
    server.credentials.drop(name)
    assert await server.call(bearer(key_string)) == "OK"
    assert await server.call(bearer(other)) == "OK"
    assert server.keys.calls == 4


@pytest.mark.parametrize("name", ["apiKeys/0", "tenants/acme"])
async def test_streams_of_a_changed_key_end(server: Server, name: str):
    """A stream ends when its key or tenant changes, so that its caller connects again; others go on."""
    stub: Any = job_service_pb2_grpc.JobServiceStub(server.channel)
    request = job_service_pb2.WatchJobRequest(name="jobs/1")
    watch, other = (
        stub.WatchJob(request, metadata=[bearer(server.keys.add(tenant=tenant))])
        for tenant in ("acme", "other")
    )
    for stream in (watch, other):
        assert await stream.read() == job_service_pb2.WatchJobResponse()
    server.credentials.drop(name)
    with pytest.raises(aio.AioRpcError) as failure:
        await watch.read()
    assert reason_of(failure.value) == "SERVICE_UNAVAILABLE"
    assert not other.done()
    other.cancel()


@pytest.mark.parametrize("how", ["expired", "revoked", "lowered", "ticket"])
async def test_streams_end_without_a_notice(server: Server, monkeypatch: pytest.MonkeyPatch, how: str):
    """A stream ends when its credential expires, or was revoked while the broker was away."""
    monkeypatch.setattr("reelhaul_runtime.rpc.running_streams.CHECK_SECONDS", 0.02)
    end = int(server.time.seconds) + 300 if how in ("expired", "ticket") else 0
    key_string = server.keys.add(expire_time=end)
    response = server.keys.keys[key_string]
    metadata: list[tuple[str, str | bytes]] = [bearer(key_string)]
    if how == "ticket":
        metadata = [SUITE, FORWARDED, (CALLER_KEY, response.SerializeToString())]
    stub: Any = job_service_pb2_grpc.JobServiceStub(server.channel)
    watch = stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/1"), metadata=metadata)
    assert await watch.read() == job_service_pb2.WatchJobResponse()
    ending = asyncio.create_task(watch.read())
    if how != "ticket":
        server.keys.available = False
        server.keys.called.clear()
        server.credentials.clear()
        await server.keys.called.wait()
        assert not ending.done()
        server.keys.available = True
    server.time.seconds += 300
    if how == "revoked":
        del server.keys.keys[key_string]
    elif how == "lowered":
        response.api_key.permission = PermissionLevel.PERMISSION_LEVEL_UNSPECIFIED
    elif how == "expired":
        del server.keys.keys[key_string]  # as the verifier refuses it then
    with pytest.raises(aio.AioRpcError) as failure:
        await ending
    assert reason_of(failure.value) == "SERVICE_UNAVAILABLE"


async def test_stream_of_a_key_that_is_revoked_while_it_is_verified(server: Server):
    """A stream whose key changes before the stream begins ends at once: it missed the notice."""
    key_string = server.keys.add()
    server.keys.delay = asyncio.Event()
    stub: Any = job_service_pb2_grpc.JobServiceStub(server.channel)
    request = job_service_pb2.WatchJobRequest(name="jobs/1")
    reading = asyncio.create_task(stub.WatchJob(request, metadata=[bearer(key_string)]).read())
    await server.keys.called.wait()
    del server.keys.keys[key_string]
    server.credentials.drop("apiKeys/0")
    server.keys.delay.set()
    with pytest.raises(aio.AioRpcError) as failure:
        await reading
    assert reason_of(failure.value) == "SERVICE_UNAVAILABLE"


async def test_expired_caller_of_a_ticket(server: Server):
    """A caller that the gateway reports is refused once its key has expired."""
    response = server.keys.keys[server.keys.add(expire_time=int(server.time.seconds) + 10)]
    reported = (CALLER_KEY, response.SerializeToString())
    assert await server.call(SUITE, FORWARDED, reported) == "OK"
    server.time.seconds += 10
    assert await server.call(SUITE, FORWARDED, reported) == "CREDENTIAL_INVALID"


async def test_reflection_and_health(server: Server):
    """Reflection needs a key that may read; health answers anyone."""
    request = reflection_pb2.ServerReflectionRequest(list_services="*")
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ServerReflectionInfo(iter([request])).read()
    assert reason_of(failure.value) == "CREDENTIAL_MISSING"
    for metadata in ([bearer(server.keys.add(READ_ONLY))], [SUITE]):
        response = await stub.ServerReflectionInfo(iter([request]), metadata=metadata).read()
        assert response.list_services_response.service
    health: Any = health_pb2_grpc.HealthStub(server.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status


async def test_change_during_a_verification(server: Server):
    """A key that is revoked while it is being verified does not enter the cache."""
    key_string = server.keys.add()
    server.keys.delay = asyncio.Event()
    running = asyncio.create_task(server.credentials.resolve(key_string))
    await server.keys.called.wait()
    del server.keys.keys[key_string]
    server.credentials.drop("apiKeys/0")
    # What arrives after the change does not share the verification from before it.
    later = asyncio.create_task(server.credentials.resolve(key_string))
    await asyncio.sleep(0)
    server.keys.delay.set()
    await running
    with pytest.raises(errors.ReelhaulError):
        await later
    assert await server.call(bearer(key_string)) == "CREDENTIAL_INVALID"


@pytest.mark.parametrize(("accepts_tokens", "calls"), [(False, 0), (True, 1)])
async def test_tokens_are_verified_if_there_is_an_issuer(accepts_tokens: bool, calls: int):
    """A token goes to the verifier if an identity provider is configured; other texts never do."""
    keys = KeyTable()
    verifier = CredentialVerifier(keys, {}, accepts_tokens=accepts_tokens)
    for credential in ("a.b.c", "a.b", "rh_live_a.b.c", "rh_a.b.c"):
        with pytest.raises(errors.ReelhaulError):
            await verifier.verify(credential)
    assert keys.calls == calls


async def test_bounds_of_the_cache():
    """The cache keeps a bounded number of keys, and unknown keys displace no known ones."""
    keys, clock = KeyTable(), Time()
    cache = CredentialCache(
        CredentialVerifier(keys, {}).verify, clock=clock, now=clock, max_credentials=3, max_rejections=3
    )
    known = [keys.add() for _ in range(3)]
    for key in known:
        await cache.resolve(key)
    for _ in range(10):
        with pytest.raises(errors.ReelhaulError):
            await cache.resolve(api_keys.create_key_string())
    calls = keys.calls
    for key in known:
        await cache.resolve(key)
    assert keys.calls == calls
    await cache.resolve(keys.add())
    await cache.resolve(known[-1])
    assert keys.calls == calls + 1
    await cache.resolve(known[0])
    assert keys.calls == calls + 2


async def test_changes_by_the_broker(server: Server, nats_url: str):
    """A key is refused at its next call after jobs published its change on the broker."""
    key_string = server.keys.add()
    dropped = asyncio.Event()

    class Recording(CredentialCache):
        def drop(self, name: str) -> None:
            server.credentials.drop(name)
            dropped.set()

        def clear(self) -> None:
            subscribed.set()

    subscribed = asyncio.Event()
    following = asyncio.create_task(
        follow_changes(nats_url, "test", Recording(CredentialVerifier(server.keys, {}).verify))
    )
    try:
        async with asyncio.timeout(10), nats_client.connect(nats_url, "jobs") as client:
            await subscribed.wait()
            assert await server.call(bearer(key_string)) == "OK"
            del server.keys.keys[key_string]
            await client.publish(ACCESS_CHANGED, b"apiKeys/0")
            await dropped.wait()
        assert await server.call(bearer(key_string)) == "CREDENTIAL_INVALID"
    finally:
        following.cancel()


async def test_errors_hold_no_key(server: Server):
    """What a caller is told about its credential repeats nothing of it."""
    key = server.keys.add(cidrs=("192.0.2.0/24",))
    stub: Any = job_service_pb2_grpc.JobServiceStub(server.channel)
    for metadata in (
        [bearer(key)],
        [bearer(key[:-1] + "_")],
        [bearer(key), ("x-api-key", api_keys.create_key_string())],
        [("authorization", f"Basic {key}")],
    ):
        with pytest.raises(aio.AioRpcError) as failure:
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), metadata=metadata)
        assert failure.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        assert key[8:20] not in str(failure.value.trailing_metadata()) + str(failure.value.details())
