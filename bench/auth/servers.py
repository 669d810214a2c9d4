"""The measured server: jobs that are constants, behind the interceptor of every service.

``python -m bench.auth.servers PORT none|keys|memory|REDIS_URL``: without authentication, with keys, and with
rate limits that are counted in memory or in Redis.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvloop

from reelhaul.admin.v1 import api_key_service_pb2
from reelhaul.jobs.v1 import job_pb2, job_service_pb2_grpc
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.auth.address_limits import AddressLimits
from reelhaul_runtime.auth.calls import Authenticator, RateLimiter
from reelhaul_runtime.auth.counters import Counters, MemoryCounters
from reelhaul_runtime.auth.credential_cache import CredentialCache
from reelhaul_runtime.auth.key_authentication import KeyAuthentication
from reelhaul_runtime.auth.level_quotas import level_quotas
from reelhaul_runtime.auth.peers import ServiceIdentifier
from reelhaul_runtime.auth.rate_limits import RateLimits
from reelhaul_runtime.auth.redis_counters import open_redis_counters
from reelhaul_runtime.auth.verification import CredentialVerifier
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.server import serving

#: Environment variable of the key that the server accepts. It opens nothing else.
KEY_VARIABLE = "BENCH_KEY"
_TOKEN = "bench"
# Large enough that no call of the benchmark is refused.
_UNITS_PER_MINUTE = 1_000_000_000
_JOB = job_pb2.Job(name="jobs/01890a5d-ac96-774b-bcce-b302099a8057", url="https://site.example/watch?v=1")


class OneKey:
    """Accepts one key, of level DOWNLOAD."""

    def __init__(self, key_string: str) -> None:
        self._key_string = key_string

    async def verify(self, key_string: str) -> api_key_service_pb2.VerifyApiKeyResponse:
        """Return the key."""
        assert key_string == self._key_string
        response = api_key_service_pb2.VerifyApiKeyResponse()
        response.api_key.name = "apiKeys/01890a5d-ac96-774b-bcce-b302099a8057"
        response.api_key.tenant = response.tenant.name = "tenants/local"
        response.api_key.permission = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
        response.api_key.quota.requests_per_minute = _UNITS_PER_MINUTE
        response.max_age.FromSeconds(60)
        return response


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    """Answers GetJob with a constant."""

    async def GetJob(self, request: Any, context: Any) -> job_pb2.Job:
        """Return the job."""
        return _JOB


def create_authenticator(mode: str, key_string: str) -> Authenticator:
    """Return the authenticator of *mode*."""
    if mode == "none":
        return NoAuthentication(_TOKEN)
    levels = level_quotas({})
    credentials = CredentialCache(CredentialVerifier(OneKey(key_string), levels).verify)
    return KeyAuthentication(ServiceIdentifier(_TOKEN), credentials, levels)


@asynccontextmanager
async def open_rate_limiter(mode: str) -> AsyncIterator[RateLimiter | None]:
    """Open the rate limiter of *mode*."""
    if mode in ("none", "keys"):
        yield None
        return
    async with AsyncExitStack() as stack:
        counters: Counters = MemoryCounters()
        if mode != "memory":
            counters = await stack.enter_async_context(open_redis_counters(mode))
        yield RateLimits(counters, AddressLimits(120), level_quotas({}))


async def serve(port: int, mode: str, key_string: str) -> None:
    """Serve until the process ends."""
    servicers = [
        (job_service_pb2_grpc.add_JobServiceServicer_to_server, Jobs(), "reelhaul.jobs.v1.JobService")
    ]
    async with (
        open_rate_limiter(mode) as rate_limiter,
        serving(
            f"127.0.0.1:{port}",
            servicers,
            authenticator=create_authenticator(mode, key_string),
            rate_limiter=rate_limiter,
        ),
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), sys.argv[2], os.environ[KEY_VARIABLE]))
