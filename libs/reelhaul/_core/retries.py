"""Retries: decides whether and when a failed operation is tried again. It does not sleep itself."""

from __future__ import annotations

import math
import time

from reelhaul._core.errors import CallFailed
from reelhaul.backoff import Backoff

# Rate limits are of a minute.
_RATE_LIMIT_SECONDS = 60.0


class Retries:
    """Counts the tries of one operation, at most *tries* in a row.

    Gives up *seconds* after the server last responded. A server's retry_delay (Retry-After) is honoured up
    to *max_retry_delay* seconds; if a rate limit is exceeded, up to a minute: sooner it is exceeded again.
    """

    def __init__(
        self, *, seconds: float = math.inf, tries: float = math.inf, max_retry_delay: float = math.inf
    ) -> None:
        self._seconds = seconds
        self._max_tries = tries
        self._max_retry_delay = min(max_retry_delay, seconds)
        self._backoff = Backoff(jitter=0.5)
        self.reset()

    def reset(self) -> None:
        """Note that the server has responded."""
        self._backoff.reset()
        self._tries = 0
        self._last_response = time.monotonic()

    def next_delay(self, failure: CallFailed, *, transient: bool | None = None) -> float:
        """Return the seconds to wait before the next try; raise *failure* if there should be none.

        *transient* overrides ``failure.transient``.
        """
        self._tries += 1
        expired = time.monotonic() - self._last_response > self._seconds or self._tries >= self._max_tries
        if expired or not (failure.transient if transient is None else transient):
            raise failure
        delay = self._backoff.next_delay()
        if failure.retry_delay is not None:
            longest = self._max_retry_delay
            if failure.reason == "RATE_LIMIT_EXCEEDED":
                longest = max(longest, _RATE_LIMIT_SECONDS)
            delay = max(delay, min(failure.retry_delay.total_seconds(), longest))
        return delay
