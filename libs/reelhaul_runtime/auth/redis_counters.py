"""Counters of rate limits in a Redis or Valkey, which processes on several machines share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from limits.aio.storage import RedisStorage
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from reelhaul_runtime.auth.counters import LIFETIME_SECONDS, MemoryCounters
from reelhaul_runtime.logs import Outage
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

# Longest that a call waits for Redis: more than a busy process takes to notice a response. Only the calls
# that run when Redis stops answering wait so long.
_TIMEOUT_SECONDS = 0.5
_RETRY_SECONDS = 0.5
# A call takes a fraction of a millisecond; opening a connection takes many times as long.
_CONNECTIONS = 4
_KEY_PREFIX = "reelhaul"
_CHECK_KEY = "check"
_FAILURES = (RedisError, OSError, TimeoutError)


class RedisCounters:
    """Counters in a Redis; while it does not answer, those in the memory of this process.

    A call that finds Redis away waits at most half a second, and those after it do not wait: `watch` notices
    when Redis is back.
    """

    def __init__(self, storage: RedisStorage) -> None:
        self._storage, self._memory = storage, MemoryCounters()
        self._outage = Outage()
        self._is_away = asyncio.Event()

    async def add(self, keys: Sequence[str], amount: int) -> list[int]:
        """Add *amount* to each counter, in one round trip."""
        if not self._is_away.is_set():
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    return await self._add(keys, amount)
            except _FAILURES as error:
                self._note_failure(error)
        return await self._memory.add(keys, amount)

    async def watch(self) -> None:
        """Try to reach Redis while it is away, for ever."""
        while True:
            await self._is_away.wait()
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await self.check()
            except _FAILURES as error:
                self._note_failure(error)
            else:
                log.info("Redis answers again: rate limits are those of all processes together")

    async def check(self) -> None:
        """Raise one of _FAILURES unless Redis answers."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await self._add([_CHECK_KEY], 0)
        self._is_away.clear()
        self._outage.end()

    async def _add(self, keys: Sequence[str], amount: int) -> list[int]:
        if len(keys) == 1:
            return [await self._storage.incr(keys[0], LIFETIME_SECONDS, amount)]
        return await asyncio.gather(*(self._storage.incr(key, LIFETIME_SECONDS, amount) for key in keys))

    def _note_failure(self, error: Exception) -> None:
        self._is_away.set()
        if (level := self._outage.level()) is not None:
            # The error of a refused password does not contain it.
            text = "Redis does not answer: each process limits rates by itself"
            log.log(level, text, extra={"cause": repr(error)})


@asynccontextmanager
async def open_redis_counters(url: str) -> AsyncIterator[RedisCounters]:
    """Open the counters in the Redis at *url*, ``redis://…`` or ``rediss://…`` (TLS)."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_TIMEOUT_SECONDS,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    # The pool has the address; of this URL only the scheme counts.
    storage = RedisStorage(
        "redis://",
        implementation="redispy",
        key_prefix=_KEY_PREFIX,
        connection_pool=pool,  # type: ignore[arg-type]  # limits annotates the options of text and numbers only
    )
    counters = RedisCounters(storage)
    watching = asyncio.create_task(counters.watch())
    try:
        # No caller waits for the first connection, and a wrong address is logged at once.
        await counters.add([_CHECK_KEY], 0)
        yield counters
    finally:
        await cancel_and_wait(watching)
        await pool.aclose()
