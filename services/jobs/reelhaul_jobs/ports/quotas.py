"""The quota ledger as its readers see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.model.quota import LedgerRow


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUsage:
    """What a key or a tenant used of its quota."""

    #: Its limits; 0 and -1 are none.
    limits: api_key_pb2.Quota
    today: LedgerRow = field(default_factory=LedgerRow)
    total: LedgerRow = field(default_factory=LedgerRow)
    #: Its jobs that run, or that a worker is about to get.
    running: int = 0


class QuotaStore(Protocol):
    """Reads the quota ledger."""

    async def get_usage(self, account: str, now: datetime) -> AccountUsage:
        """Return what *account*, the resource name of a key or a tenant, used; nothing if it is unknown."""

    async def find_full_account(self, tenant: str, api_key: str) -> tuple[str, int] | None:
        """Return which of the key and the tenant is at its limit of concurrent jobs, and that limit.

        None: neither.
        """
