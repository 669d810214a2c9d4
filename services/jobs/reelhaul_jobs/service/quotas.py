"""Quotas: what a key or a tenant used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from reelhaul_jobs.model import quota
from reelhaul_jobs.ports.quotas import QuotaStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_runtime.auth.level_quotas import UNLIMITED


@dataclass(frozen=True, slots=True)
class Metric:
    """One limit and what is used of it."""

    #: Field of Quota.
    name: str
    used: int
    #: -1 for none.
    limit: int
    #: When ``used`` returns to 0; None if it does not by itself.
    reset_time: datetime | None = None


class Quotas:
    """Reads what keys and tenants used of their quotas."""

    def __init__(self, store: QuotaStore, now: Clock) -> None:
        self._store = store
        self._now = now

    async def get_usage(self, account: str) -> Sequence[Metric]:
        """Return what *account*, the resource name of a key or a tenant, used of each limit.

        Not of ``requests_per_minute``, which each gateway counts.
        """
        now = self._now()
        usage = await self._store.get_usage(account, now)
        limits, reset_time = usage.limits, quota.day_end(quota.day_of(now))
        return [
            Metric("jobs_per_day", usage.today.jobs, limits.jobs_per_day or UNLIMITED, reset_time),
            Metric("concurrent_jobs", usage.running, limits.concurrent_jobs or UNLIMITED),
            Metric("bytes_per_day", usage.today.used, limits.bytes_per_day or UNLIMITED, reset_time),
            Metric("stored_bytes", usage.total.stored + usage.total.live, limits.stored_bytes or UNLIMITED),
            # Limits of each job: none is used up.
            Metric("bytes_per_job", 0, limits.bytes_per_job or UNLIMITED),
            Metric("seconds_per_job", 0, limits.seconds_per_job or UNLIMITED),
        ]
