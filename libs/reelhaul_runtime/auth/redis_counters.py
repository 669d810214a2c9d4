"""Counters of rate limits in a Redis or Valkey, which processes on several machines share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from limits.aio.storage import RedisStorage
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from reelhaul_runtime.auth.counters import LIFETIME_SECONDS, MemoryCounters
from reelhaul_runtime.logs import Outage

log = logging.getLogger(__name__)

#: Longest that a call waits for Redis, and how long none tries again after a failure.
_TIMEOUT_SECONDS = 0.1
_RETRY_SECONDS = 1.0
_KEY_PREFIX = "reelhaul"


class RedisCounters:
    """Counters in a Redis; while it does not answer, those in the memory of this process.

    A call waits at most a tenth of a second for Redis. After a failure Redis is tried again once a second, by
    one call; the others do not wait.
    """

    def __init__(self, storage: RedisStorage, now: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._now = storage, now
        self._memory = MemoryCounters()
        self._retry_time = 0.0
        self._outage = Outage()

    async def add(self, keys: Sequence[str], amount: int) -> list[int]:
        """Add *amount* to each counter, in one round trip."""
        if self._outage.logged:
            if self._now() < self._retry_time:
                return await self._memory.add(keys, amount)
            self._retry_time = self._now() + _RETRY_SECONDS
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                counts = await self._add(keys, amount)
        except (RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)
            return await self._memory.add(keys, amount)
        if self._outage.logged:
            log.info("Redis answers again: rate limits are those of all processes together")
            self._outage.end()
        return counts

    async def _add(self, keys: Sequence[str], amount: int) -> list[int]:
        if len(keys) == 1:
            return [await self._storage.incr(keys[0], LIFETIME_SECONDS, amount)]
        return await asyncio.gather(*(self._storage.incr(key, LIFETIME_SECONDS, amount) for key in keys))

    def _note_failure(self, error: Exception) -> None:
        self._retry_time = self._now() + _RETRY_SECONDS
        if (level := self._outage.level()) is not None:
            # The error of a refused password does not contain it.
            text = "Redis does not answer: each process limits rates by itself"
            log.log(level, text, extra={"cause": repr(error)})


@asynccontextmanager
async def open_redis_counters(url: str) -> AsyncIterator[RedisCounters]:
    """Open the counters in the Redis at *url*, ``redis://…`` or ``rediss://…`` (TLS)."""
    pool = ConnectionPool.from_url(
        url,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    # The pool has the address; of this URL only the scheme counts.
    storage = RedisStorage("redis://", implementation="redispy", key_prefix=_KEY_PREFIX, connection_pool=pool)
    try:
        yield RedisCounters(storage)
    finally:
        await pool.aclose()
