"""Rate limits: units of calls per minute of keys, tenants and addresses, and how callers see them."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from zlib import crc32

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.auth.address_limits import FAILURE_COST, AddressLimits
from reelhaul_runtime.auth.calls import IncomingCall
from reelhaul_runtime.auth.counters import Counters, MemoryCounters
from reelhaul_runtime.auth.level_quotas import LevelQuotas, level_quotas
from reelhaul_runtime.errors import RateLimitExceeded, ReelhaulError
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.metrics.instruments import RATE_LIMITED
from reelhaul_runtime.settings import SuiteSettings

#: Metadata of a response, and names of HTTP headers:
#: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
POLICY_KEY, STATE_KEY = "ratelimit-policy", "ratelimit"

_WINDOW_SECONDS = 60
# Load balancers call it: it must not fail because of other callers behind their address.
_FREE = frozenset({"/reelhaul.system.v1.SystemService/CheckHealth"})


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of units per minute."""

    #: Name of the policy in headers: ``key`` or ``tenant``.
    name: str
    #: Resource name of the key, the user or the tenant.
    subject: str
    units: int


class RateLimits:
    """Takes the cost of calls from the budgets of their callers.

    A budget is of one minute, a fixed window; each subject's windows begin at another second, so that clients
    who wait for the next one do not all return at once. As with a token bucket, the calls in any 60 seconds
    may reach twice the limit, at the end of one window and the begin of the next.
    """

    def __init__(
        self,
        counters: Counters,
        addresses: AddressLimits,
        levels: LevelQuotas,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._counters, self._addresses, self._levels, self._now = counters, addresses, levels, now

    def check_attempt(self, call: IncomingCall, is_known: Callable[[], bool]) -> None:
        """Raise RATE_LIMIT_EXCEEDED if too many calls from the address of *call* had no valid credential.

        Not if *is_known* returns True.
        """
        if not call.peer.service and self._addresses.is_used_up(call.peer.address) and not is_known():
            raise self._addresses.exceeded(call.peer.address)

    async def admit(self, call: IncomingCall) -> Sequence[tuple[str, str]]:
        """Take the cost of *call* from the budget of its caller; return its limits as metadata.

        Calls that a service of the suite sends or passes on cost nothing: they were counted where they
        entered the suite. Raises RATE_LIMIT_EXCEEDED.
        """
        if call.peer.service or call.caller is None or call.path in _FREE:
            return ()
        try:
            return await self._admit(call.caller, call.peer.address, call.policy.quota_cost or 1)
        except RateLimitExceeded as error:
            call.limits = error.headers
            raise

    async def admit_failure(self, call: IncomingCall, error: ReelhaulError) -> None:
        """Count a call whose authentication failed with *error* for its address.

        Raises RATE_LIMIT_EXCEEDED, which the caller gets in place of *error*.
        """
        if not call.peer.service:
            missing = error.reason == ErrorReason.CREDENTIAL_MISSING
            self._addresses.take(call.peer.address, 1 if missing else FAILURE_COST)

    async def _admit(self, caller: Caller, address: str, cost: int) -> Sequence[tuple[str, str]]:
        if not caller.principal:
            self._addresses.take(address, cost)
            return ()
        limits = self._limits_of(caller)
        return await self._take(limits, cost) if limits else ()

    def _limits_of(self, caller: Caller) -> list[Limit]:
        limits = []
        units = caller.api_key.quota.requests_per_minute if caller.api_key is not None else 0
        if not units and (level := self._levels.get(caller.level)) is not None:
            units = level.requests_per_minute
        if units > 0:
            limits.append(Limit("key", caller.principal, units))
        if caller.tenant_resource is not None and caller.tenant_resource.quota.requests_per_minute > 0:
            units = caller.tenant_resource.quota.requests_per_minute
            limits.append(Limit("tenant", caller.tenant_resource.name, units))
        return limits

    async def _take(self, limits: Sequence[Limit], cost: int) -> Sequence[tuple[str, str]]:
        # A call that costs more than a limit is admitted if the whole budget is left.
        cost = min(cost, *(limit.units for limit in limits))
        windows = [self._window(limit.subject) for limit in limits]
        keys = [f"{limit.subject}/{number}" for limit, (number, _) in zip(limits, windows, strict=True)]
        counts = await self._counters.add(keys, cost)
        exceeded = [index for index, limit in enumerate(limits) if counts[index] > limit.units]
        if exceeded:
            await self._counters.add(keys, -cost)
            counts = [count - cost for count in counts]
        left = [max(0, limit.units - count) for limit, count in zip(limits, counts, strict=True)]
        headers = _headers(limits, left, [seconds for _, seconds in windows])
        if exceeded:
            # The one that lasts longest: until then the call fails.
            longest = max(exceeded, key=lambda index: windows[index][1])
            raise _exceeded(limits[longest], left[longest], cost, windows[longest][1], headers)
        return headers

    def _window(self, subject: str) -> tuple[int, int]:
        """Return the number of the window of *subject*, and the seconds until it ends."""
        time_in_windows = self._now() + crc32(subject.encode()) % _WINDOW_SECONDS
        number = int(time_in_windows // _WINDOW_SECONDS)
        return number, max(1, math.ceil((number + 1) * _WINDOW_SECONDS - time_in_windows))


@asynccontextmanager
async def open_rate_limiter(settings: SuiteSettings) -> AsyncIterator[RateLimits | None]:
    """Open the rate limiter that *settings* select until the block exits; None without authentication."""
    if settings.auth == "none":
        yield None
        return
    async with AsyncExitStack() as stack:
        counters: Counters = MemoryCounters()
        if settings.rate_limit_url:
            # Its libraries take a tenth of a second to import.
            from reelhaul_runtime.auth.redis_counters import open_redis_counters

            counters = await stack.enter_async_context(open_redis_counters(settings.rate_limit_url))
        addresses = AddressLimits(settings.anonymous_requests_per_minute)
        yield RateLimits(counters, addresses, level_quotas(settings.level_quotas))


def _headers(
    limits: Sequence[Limit], left: Sequence[int], seconds: Sequence[int]
) -> tuple[tuple[str, str], tuple[str, str]]:
    policies = ", ".join(f'"{limit.name}";q={limit.units};w={_WINDOW_SECONDS}' for limit in limits)
    states = ", ".join(
        f'"{limit.name}";r={units};t={reset}'
        for limit, units, reset in zip(limits, left, seconds, strict=True)
    )
    return (POLICY_KEY, policies), (STATE_KEY, states)


def _exceeded(
    limit: Limit, left: int, cost: int, seconds: int, headers: Sequence[tuple[str, str]]
) -> RateLimitExceeded:
    RATE_LIMITED.labels(limit.name).inc()
    whose = "this key" if limit.name == "key" else "all keys of this tenant together"
    return RateLimitExceeded(
        limit.subject,
        limit.units,
        f"this call costs {cost} of {limit.units} units per minute of {whose}, of which {left} are left:"
        f" wait {seconds} seconds",
        retry_delay=timedelta(seconds=seconds),
        headers=headers,
    )
