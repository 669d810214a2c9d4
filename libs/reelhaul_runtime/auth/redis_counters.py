"""Counters of rate limits in a Redis or Valkey, which processes on several machines share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from limits.aio.storage import RedisStorage
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from reelhaul_runtime.auth.counters import LIFETIME_SECONDS, MemoryCounters
from reelhaul_runtime.logs import Outage
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

# Longest that a call waits for Redis: more than a busy process takes to notice a response. Only the calls
# that run when Redis stops answering wait so long.
_TIMEOUT_SECONDS = 1.0
_RETRY_SECONDS = 0.5
# A call takes a fraction of a millisecond; opening a connection takes many times as long.
_CONNECTIONS = 4
_KEY_PREFIX = "reelhaul"
_CHECK_KEY = "check"


@dataclass(slots=True)
class _Addition:
    """What a call adds to a counter."""

    amount: int
    #: The sum that the counter has then; None if Redis does not answer.
    sum: asyncio.Future[int | None]


class RedisCounters:
    """Counters in a Redis; while it does not answer, those in the memory of this process.

    What calls add to a counter while a request for it runs is added together by the next one: a busy process
    sends few requests. A call that finds Redis away waits at most a second, and those after it do not wait:
    `watch` notices when Redis is back.
    """

    def __init__(self, storage: RedisStorage) -> None:
        self._storage, self._memory = storage, MemoryCounters()
        self._outage = Outage()
        self._is_away = asyncio.Event()
        #: What calls wait to add, by the counters for which a request runs.
        self._waiting: dict[str, list[_Addition]] = {}
        self._requests = set[asyncio.Task[None]]()

    async def add(self, keys: Sequence[str], amount: int) -> list[int]:
        """Add *amount* to each counter; return the sums of all processes."""
        if not self._is_away.is_set():
            additions = [self._begin(key, amount) for key in keys]
            sums = [await addition.sum for addition in additions]
            counts = [count for count in sums if count is not None]
            if len(counts) == len(keys):
                return counts
        return await self._memory.add(keys, amount)

    def _begin(self, key: str, amount: int) -> _Addition:
        addition = _Addition(amount, asyncio.get_running_loop().create_future())
        if key in self._waiting:
            self._waiting[key].append(addition)
        else:
            self._waiting[key] = [addition]
            request = asyncio.create_task(self._send(key))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)
        return addition

    async def _send(self, key: str) -> None:
        """Add to the counter *key* until nothing waits for it."""
        while additions := self._waiting[key]:
            self._waiting[key] = []
            total = sum(addition.amount for addition in additions)
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    count = await self._storage.incr(key, LIFETIME_SECONDS, total) - total
            except Exception as error:  # whatever it is: calls must not wait for ever
                self._note_failure(error)
                for addition in [*additions, *self._waiting[key]]:
                    if not addition.sum.done():
                        addition.sum.set_result(None)
                break
            for addition in additions:
                count += addition.amount
                if not addition.sum.done():
                    addition.sum.set_result(count)
        del self._waiting[key]

    async def watch(self) -> None:
        """Try to reach Redis while it is away, for ever."""
        while True:
            await self._is_away.wait()
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await self.check()
            except Exception as error:
                self._note_failure(error)
            else:
                log.info("Redis answers again: rate limits are those of all processes together")

    async def check(self) -> None:
        """Use Redis from now on. Raises RedisError, OSError or TimeoutError if it does not answer."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await self._storage.incr(_CHECK_KEY, LIFETIME_SECONDS, 0)
        self._is_away.clear()
        self._outage.end()

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
