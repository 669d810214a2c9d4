"""Back-off: how long to wait before the next try."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TypeVar

FIRST_SECONDS, LONGEST_SECONDS = 0.2, 5.0

# More would overflow a timedelta, and is past any longest delay.
_MAX_DOUBLINGS = 32

T = TypeVar("T", float, timedelta)


def exponential_delay(tries: int, first: T, longest: T) -> T:
    """Return the delay after *tries* earlier ones: *first*, doubled each time, at most *longest*."""
    return min(first * (1 << min(tries, _MAX_DOUBLINGS)), longest)


class Backoff:
    """Delays that double from *first* to *longest* seconds, until ``reset``.

    Each is shortened at random by up to the share *jitter* (0 to 1), so that all who were cut off
    together do not come back together.
    """

    def __init__(
        self, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS, *, jitter: float = 0.0
    ) -> None:
        self._first, self._longest, self._jitter = first, longest, jitter
        self._tries = 0

    def next_delay(self) -> float:
        """Return the seconds to wait now; the next ones are twice as many."""
        delay = exponential_delay(self._tries, self._first, self._longest)
        self._tries += 1
        return delay * random.uniform(1 - self._jitter, 1)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Begin with the first delay again."""
        self._tries = 0
