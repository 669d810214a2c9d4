"""Limits by address: how many calls without a valid credential one address may send."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import secrets
import time
from array import array
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache

from reelhaul_runtime.addresses import unmap
from reelhaul_runtime.errors import RateLimitExceeded
from reelhaul_runtime.metrics.instruments import RATE_LIMITED

#: Units that one failed authentication takes; a call of a public method takes the cost of its policy.
FAILURE_COST = 10

_WINDOW_SECONDS = 60
# A table of fixed size: no number of addresses makes it grow, or removes what is stored of another one. Two
# addresses may share a slot; which ones is secret, so that nobody can use up the budget of a chosen other.
_SLOTS = 1 << 16
_IPV6_PREFIX = 64


class AddressLimits:
    """Budgets of units per minute of addresses, an IPv4 address or an IPv6 /64 each, in this process.

    A network with a million addresses may use up all budgets: calls without a valid credential are refused
    then, those with one are not, because they take nothing here.
    """

    def __init__(self, units_per_minute: int, now: Callable[[], float] = time.time) -> None:
        self._limit, self._now = units_per_minute, now
        self._secret = secrets.token_bytes(16)
        self._used, self._windows = array("I", bytes(4 * _SLOTS)), array("I", bytes(4 * _SLOTS))
        self._slot_of = lru_cache(maxsize=1024)(self._compute_slot)

    def take(self, address: str, cost: int) -> None:
        """Take *cost* units from the budget of *address*. Raises RATE_LIMIT_EXCEEDED if it is used up.

        The last call of a budget may take more than what is left.
        """
        if self.is_used_up(address):
            raise self.exceeded(address)
        self._used[self._slot_of(address)] += min(cost, self._limit)

    def is_used_up(self, address: str) -> bool:
        """Return whether nothing is left of the budget of *address*."""
        slot, window = self._slot_of(address), int(self._now() // _WINDOW_SECONDS)
        if self._windows[slot] != window:
            self._windows[slot], self._used[slot] = window, 0
        return self._used[slot] >= self._limit

    def exceeded(self, address: str) -> RateLimitExceeded:
        """Return the error for a call from *address*, whose budget is used up; count the refusal."""
        RATE_LIMITED.labels("address").inc()
        seconds = math.ceil(_WINDOW_SECONDS - self._now() % _WINDOW_SECONDS)
        return RateLimitExceeded(
            f"addresses/{address}",
            self._limit,
            f"too many calls without a valid credential from this address: wait {seconds} seconds,"
            " and send a valid API key",
            retry_delay=timedelta(seconds=seconds),
        )

    @property
    def memory_bytes(self) -> int:
        """Size of the table."""
        return sum(len(table) * table.itemsize for table in (self._used, self._windows))

    def _compute_slot(self, address: str) -> int:
        digest = hashlib.blake2b(_network(address), digest_size=4, key=self._secret).digest()
        return int.from_bytes(digest) % _SLOTS


def _network(address: str) -> bytes:
    """Return what stands for *address*: an IPv4 address, the /64 of an IPv6 address, else the text."""
    try:
        parsed = unmap(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return address.encode()
    return parsed.packed if parsed.version == 4 else parsed.packed[: _IPV6_PREFIX // 8]
