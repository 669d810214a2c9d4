"""Rate limits: exact in one process, shared through a real Redis, and by address without a credential."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from tests.redis_server import RedisServer
from tests.servers import wait_until_listening

from reelhaul.admin.v1 import api_key_pb2, tenant_pb2
from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import MethodPolicy, PermissionLevel
from reelhaul_runtime.auth.address_limits import FAILURE_COST, AddressLimits
from reelhaul_runtime.auth.calls import IncomingCall
from reelhaul_runtime.auth.counters import Counters, MemoryCounters
from reelhaul_runtime.auth.level_quotas import level_quotas
from reelhaul_runtime.auth.peers import Peer
from reelhaul_runtime.auth.rate_limits import RateLimits
from reelhaul_runtime.auth.redis_counters import open_redis_counters
from reelhaul_runtime.errors import RateLimitExceeded, ReelhaulError
from reelhaul_runtime.identity import ANONYMOUS, SYSTEM_TENANT, Caller, NoAuthentication
from reelhaul_runtime.rpc.server import serving

LOGGER = "reelhaul_runtime.auth.redis_counters"
DOWNLOAD = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
READ_ONLY = PermissionLevel.PERMISSION_LEVEL_READ_ONLY
FULL_ACCESS = PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS


class Clock:
    """Seconds since the epoch that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rate_limits(clock: Clock, counters: Counters | None = None, *, anonymous: int = 120) -> RateLimits:
    """Return rate limits with the levels' defaults."""
    addresses = AddressLimits(anonymous, clock)
    return RateLimits(counters or MemoryCounters(), addresses, level_quotas({}), clock)


def key(units: int = 0, *, name: str = "apiKeys/a", tenant_units: int = 0, level: int = DOWNLOAD) -> Caller:
    """Return the caller of a key with a limit of *units* per minute, of a tenant with *tenant_units*."""
    quota = api_key_pb2.Quota(requests_per_minute=units)
    tenant = tenant_pb2.Tenant(name="tenants/t", quota={"requests_per_minute": tenant_units})
    resource = api_key_pb2.ApiKey(name=name, quota=quota)
    return Caller("t", level, principal=name, api_key=resource, tenant_resource=tenant)


def call(
    caller: Caller | None = None, *, cost: int = 0, address: str = "192.0.2.1", service: str = ""
) -> IncomingCall:
    """Return a call of *caller* that costs *cost* units."""
    peer = Peer(address, service)
    return IncomingCall("/x.Y/Z", MethodPolicy(quota_cost=cost), None, peer, caller)


async def count_admitted(limits: RateLimits, calls: Iterable[IncomingCall]) -> int:
    """Return how many of *calls* are admitted."""
    admitted = 0
    for each in calls:
        try:
            await limits.admit(each)
        except RateLimitExceeded:
            continue
        admitted += 1
    return admitted


@pytest.mark.parametrize(
    ("caller", "cost", "admitted"),
    [
        (key(30), 0, 30),
        (key(30), 1, 30),
        (key(30), 7, 4),
        (key(30), 50, 1),
        (key(-1), 1, 1000),
        (key(level=READ_ONLY), 1, 300),
        (key(level=DOWNLOAD), 10, 60),
        (key(level=FULL_ACCESS), 1, 1000),
        (key(30, tenant_units=20), 1, 20),
        (key(-1, tenant_units=20), 1, 20),
        (Caller("t", READ_ONLY, principal="users/u"), 1, 300),
    ],
)
async def test_a_key_has_its_limit_or_that_of_its_level(
    clock: Clock, caller: Caller, cost: int, admitted: int
):
    """A minute admits as many units as the key, its level or its tenant allows, whatever a call costs."""
    limits = rate_limits(clock)
    assert await count_admitted(limits, [call(caller, cost=cost)] * 1000) == admitted


async def test_a_refused_call_takes_nothing(clock: Clock):
    """After a call that costs more than is left, cheaper calls use the rest."""
    limits = rate_limits(clock)
    await limits.admit(call(key(10), cost=8))
    with pytest.raises(RateLimitExceeded, match=r"costs 5 of 10 units .* of which 2 are left"):
        await limits.admit(call(key(10), cost=5))
    assert await count_admitted(limits, [call(key(10))] * 5) == 2


async def test_a_call_that_the_tenant_refuses_takes_nothing_of_the_key(clock: Clock):
    """While all keys of a tenant have used up its limit, none of them loses units of its own."""
    limits = rate_limits(clock)
    assert await count_admitted(limits, [call(key(90, name="apiKeys/b", tenant_units=100))] * 99) == 90
    assert await count_admitted(limits, [call(key(50, tenant_units=100))] * 40) == 10
    headers = dict(await limits.admit(call(key(50))))
    assert headers["ratelimit"].startswith('"key";r=39;')


async def test_the_budget_returns_after_a_minute(clock: Clock):
    """RetryInfo says when the budget is whole again: a moment earlier it is not, then it is."""
    limits = rate_limits(clock)
    assert await count_admitted(limits, [call(key(3))] * 5) == 3
    with pytest.raises(RateLimitExceeded) as refused:
        await limits.admit(call(key(3)))
    assert refused.value.retry_delay is not None
    seconds = refused.value.retry_delay.total_seconds()
    assert 0 < seconds <= 60
    clock.seconds += seconds - 1.5
    assert await count_admitted(limits, [call(key(3))] * 5) == 0
    clock.seconds += 1.5
    assert await count_admitted(limits, [call(key(3))] * 5) == 3


async def test_counters_in_memory_are_deleted(clock: Clock):
    """A counter lives for its minute, and memory does not grow with the minutes and keys that were."""
    counters = MemoryCounters(clock)
    for minute in range(5):
        for number in range(100):
            assert await counters.add([f"{minute}/{number}"], 2) == [2]
        clock.seconds += 59
        assert await counters.add([f"{minute}/0"], 1) == [3]
        clock.seconds += 1
    assert len(counters) <= 200


async def test_what_a_caller_sees(clock: Clock):
    """Metadata states policy and state of key and tenant; a refusal has them too, with whose limit it is."""
    limits = rate_limits(clock)
    headers = dict(await limits.admit(call(key(5, tenant_units=7), cost=2)))
    assert headers["ratelimit-policy"] == '"key";q=5;w=60, "tenant";q=7;w=60'
    states = dict(part.split(";", 1) for part in headers["ratelimit"].split(", "))
    assert states['"key"'].startswith("r=3;t=")
    assert states['"tenant"'].startswith("r=5;t=")
    refused = call(key(5, tenant_units=7), cost=4)
    with pytest.raises(RateLimitExceeded) as failure:
        await limits.admit(refused)
    violation = failure.value.quota_violation
    assert violation is not None
    assert (violation.subject, violation.id, violation.value) == (
        "apiKeys/a",
        "requests_per_minute/apiKeys",
        5,
    )
    assert dict(refused.limits)["ratelimit"].startswith('"key";r=3;')
    assert failure.value.metadata == {"quotaMetric": "requests_per_minute"}


async def test_calls_within_the_suite_cost_nothing(clock: Clock):
    """Calls of services, and those that the gateway passes on, take nothing; direct calls do."""
    limits = rate_limits(clock, anonymous=2)
    service = Caller(SYSTEM_TENANT, FULL_ACCESS, suite=True, principal="services/jobs")
    forwarded = [call(who, service="gateway") for who in (key(2), ANONYMOUS, service)]
    assert await count_admitted(limits, forwarded * 9) == 27
    assert await count_admitted(limits, [call(key(2))] * 9) == 2
    assert await count_admitted(limits, [call(ANONYMOUS)] * 9) == 2


def fail(limits: RateLimits, reason: ErrorReason.ValueType, address: str = "192.0.2.1") -> Any:
    """Return the coroutine that counts a failed authentication."""
    return limits.admit_failure(call(address=address), ReelhaulError(reason, "no"))


async def test_failed_authentication_costs_ten_times_as_much(clock: Clock):
    """Twelve wrong keys, or 120 calls without one, use up the budget of an address for this minute."""
    for reason, attempts in ((ErrorReason.CREDENTIAL_INVALID, 12), (ErrorReason.CREDENTIAL_MISSING, 120)):
        limits = rate_limits(clock)
        for _ in range(attempts):
            await fail(limits, reason)
        with pytest.raises(RateLimitExceeded, match="too many calls without a valid credential") as refused:
            await fail(limits, reason)
        violation = refused.value.quota_violation
        assert violation is not None
        assert (violation.subject, violation.value) == ("addresses/192.0.2.1", 120)
        assert await count_admitted(limits, [call(ANONYMOUS)]) == 0
        assert await count_admitted(limits, [call(ANONYMOUS, address="192.0.2.2")]) == 1
        clock.seconds += 60
        assert await count_admitted(limits, [call(ANONYMOUS)]) == 1


async def test_a_known_key_does_not_suffer_from_its_neighbours(clock: Clock):
    """Behind an address with many failures unknown keys are refused unverified; known ones are not."""
    limits = rate_limits(clock, anonymous=FAILURE_COST)
    limits.check_attempt(call(), lambda: False)
    await fail(limits, ErrorReason.CREDENTIAL_INVALID)
    with pytest.raises(RateLimitExceeded):
        limits.check_attempt(call(), lambda: False)
    limits.check_attempt(call(), lambda: True)
    limits.check_attempt(call(address="192.0.2.2"), lambda: False)
    limits.check_attempt(call(service="gateway"), lambda: False)
    assert await count_admitted(limits, [call(key(5))] * 9) == 5


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "", True),
        ("", "192.0.2.1", False),
    ],
)
def test_what_counts_as_one_address(clock: Clock, first: str, second: str, shared: bool):
    """An IPv4 address, in either form, and an IPv6 /64 have one budget each."""
    limits = AddressLimits(1, clock)
    limits.take(first, 1)
    assert limits.is_used_up(second) is shared


def test_many_addresses_take_no_memory(clock: Clock):
    """A network with a many thousand addresses neither grows the table nor clears another's state."""
    limits = AddressLimits(1000, clock)
    limits.take("192.0.2.1", 1000)
    size = limits.memory_bytes
    for number in range(20_000):
        # One that shares the slot of the first address is refused.
        with suppress(RateLimitExceeded):
            limits.take(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", 1)
    assert limits.memory_bytes == size < 1 << 20
    assert limits.is_used_up("192.0.2.1")


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    """Answers GetJob and WatchJob."""

    async def GetJob(self, request, context):
        return job_pb2.Job(name=request.name)

    async def WatchJob(self, request, context):
        yield job_service_pb2.WatchJobResponse()
        yield job_service_pb2.WatchJobResponse()


class OneKey(NoAuthentication):
    """Authenticates everyone as *caller*."""

    def __init__(self, caller: Caller) -> None:
        super().__init__("")
        self._caller = caller

    def identify_peer(self, metadata, connection, auth_context):
        return Peer("192.0.2.1")

    async def identify(self, metadata, peer):
        return self._caller


async def open_stub(stack: AsyncExitStack, limits: RateLimits, caller: Caller) -> Any:
    """Serve jobs with *limits* until *stack* closes; return a stub of *caller*."""
    servicers = [
        (job_service_pb2_grpc.add_JobServiceServicer_to_server, Jobs(), "reelhaul.jobs.v1.JobService")
    ]
    server = serving(
        "127.0.0.1:0", servicers, authenticator=OneKey(caller), rate_limiter=limits, drain_seconds=1
    )
    port = await stack.enter_async_context(server)
    channel = await stack.enter_async_context(aio.insecure_channel(f"127.0.0.1:{port}"))
    return job_service_pb2_grpc.JobServiceStub(channel)


async def send_calls(stubs: list[Any], callers: int, calls: int) -> list[str]:
    """Send *calls* calls from each of *callers* at the same time to *stubs*; return their outcomes."""

    async def send(stub: Any) -> list[str]:
        outcomes = []
        for _ in range(calls):
            try:
                await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
                outcomes.append("OK")
            except aio.AioRpcError as error:
                outcomes.append(error.code().name)
        return outcomes

    results = await asyncio.gather(*(send(stubs[index % len(stubs)]) for index in range(callers)))
    return [outcome for outcomes in results for outcome in outcomes]


async def test_fifty_callers_get_exactly_the_limit_of_one_server(clock: Clock):
    """Of 1000 calls that 50 callers send at the same time, exactly the limit is admitted."""
    async with AsyncExitStack() as stack:
        stub = await open_stub(stack, rate_limits(clock), key(400))
        outcomes = await send_calls([stub], 50, 20)
    assert outcomes.count("OK") == 400
    assert outcomes.count("RESOURCE_EXHAUSTED") == 600


async def test_metadata_of_calls(clock: Clock):
    """Answered, streaming and refused calls state the limits; a refusal has RetryInfo and QuotaFailure.

    A stream costs once, however many messages it has.
    """
    async with AsyncExitStack() as stack:
        stub = await open_stub(stack, rate_limits(clock), key(3))
        unary = stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
        await unary
        assert dict(await unary.trailing_metadata())["ratelimit"].startswith('"key";r=2;t=')
        stream = stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/1"))
        assert len([message async for message in stream]) == 2
        assert dict(await stream.trailing_metadata())["ratelimit"].startswith('"key";r=0;t=')
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"))
    trailing = dict(refused.value.trailing_metadata() or ())
    assert trailing["ratelimit-policy"] == '"key";q=3;w=60'
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])  # type: ignore[arg-type]
    kinds = [detail.type_url.rpartition(".")[2] for detail in status.details]
    assert kinds == ["ErrorInfo", "RetryInfo", "QuotaFailure"]
    failure = error_details_pb2.QuotaFailure()
    status.details[2].Unpack(failure)
    assert failure.violations[0].quota_value == 3


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    server = RedisServer()
    with server.running():
        await wait_until_listening(server.port)
        yield server


async def test_two_servers_share_a_limit(clock: Clock, redis: RedisServer):
    """Of 1000 calls of 50 callers at two servers with one Redis, the limit is admitted within 2 %."""
    async with AsyncExitStack() as stack:
        stubs = [
            await open_stub(
                stack,
                rate_limits(clock, await stack.enter_async_context(open_redis_counters(redis.url))),
                key(400, tenant_units=5000),
            )
            for _ in range(2)
        ]
        outcomes = await send_calls(stubs, 50, 20)
    assert 392 <= outcomes.count("OK") <= 408
    assert set(outcomes) == {"OK", "RESOURCE_EXHAUSTED"}


class LogWatcher(logging.Handler):
    """Sets *second* at the second line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.second = 0, asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        if self.lines == 2:
            self.second.set()


async def test_calls_go_on_while_redis_is_away(
    clock: Clock, redis: RedisServer, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
):
    """If Redis dies, each process counts for itself, logs it once, and shares again when Redis is back."""
    caplog.set_level(logging.INFO, LOGGER)
    log = LogWatcher()
    logging.getLogger(LOGGER).addHandler(log)
    request.addfinalizer(partial(logging.getLogger(LOGGER).removeHandler, log))
    async with open_redis_counters(redis.url) as counters:
        limits = rate_limits(clock, counters)
        assert await count_admitted(limits, [call(key(60))] * 40) == 40
        redis.kill()
        assert await count_admitted(limits, [call(key(60))] * 100) == 60
        assert caplog.messages == ["Redis does not answer: each process limits rates by itself"]
        with redis.running():
            async with asyncio.timeout(30):
                await log.second.wait()
            # The new Redis is empty.
            assert await count_admitted(limits, [call(key(60))] * 100) == 60
    assert caplog.messages[1:] == ["Redis answers again: rate limits are those of all processes together"]


async def test_password_and_tls(clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A Redis may need a password and TLS; a wrong password is an outage, and is not logged."""
    caplog.set_level(logging.INFO, LOGGER)
    authority, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    redis = RedisServer("s3cret")
    with redis.running():
        await wait_until_listening(redis.port)
        async with await asyncio.start_server(partial(pass_on, redis.port), "127.0.0.1", 0, ssl=tls) as proxy:
            host = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
            for password, outages in (("s3cret", 0), ("wr0ng", 1)):
                async with open_redis_counters(f"rediss://:{password}@{host}") as counters:
                    limits = rate_limits(clock, counters)
                    assert await count_admitted(limits, [call(key(60))] * 100) == 60
                assert len(caplog.messages) == outages
    assert "wr0ng" not in str([vars(record) for record in caplog.records])


async def pass_on(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass the bytes of a connection to *port* and back."""
    server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
        target.close()

    await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))


async def test_a_silent_redis_keeps_no_caller_waiting(clock: Clock):
    """A server that accepts connections and never answers delays the start by a second, and no call."""
    done = asyncio.Event()

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    server = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, open_redis_counters(f"redis://127.0.0.1:{port}") as counters:
        limits = rate_limits(clock, counters)
        # Not one of them waits for anything: no other task gets its turn meanwhile.
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        assert await count_admitted(limits, [call(key(60))] * 100) == 60
        assert turns == []
        done.set()
