"""The store of tenants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from reelhaul_jobs.model.tenant import Tenant
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_runtime.filters.ast import Node

#: Returns the changed tenant. Pure: it may be called again.
TenantRule = Callable[[Tenant], Tenant]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantQuery:
    """Selects one page of tenants, by id."""

    limit: int
    #: Id of the last tenant of the page before.
    after: str = ""
    where: Node | None = None


class TenantStore(Protocol):
    """Stores tenants. One FULL_ACCESS key works at all times, as in ``ApiKeyStore``."""

    async def add(self, tenant: Tenant, request: IdempotencyKey | None = None) -> Tenant:
        """Store a new tenant. A repeated *request* returns the first one's tenant as it is now.

        Raises RESOURCE_EXISTS, REQUEST_ID_REUSED.
        """

    async def get(self, tenant: str) -> Tenant:
        """Return the tenant (by id). Raises ``NotFound``."""

    async def find(self, tenant: str) -> Tenant | None:
        """Return the tenant (by id); None if there is none."""

    async def list_page(self, query: TenantQuery) -> Sequence[Tenant]:
        """Return the tenants of a page, and one more if others follow."""

    async def change(self, tenant: str, rule: TenantRule, now: datetime) -> Tenant:
        """Store what *rule* returns. If *rule* raises, nothing changes.

        Raises ``NotFound``, and STATE_CONFLICT if no FULL_ACCESS key would work any more.
        """

    async def owns_resources(self, tenant: str) -> bool:
        """Return whether the tenant owns keys, schedules, webhooks, or jobs that are not deleted."""

    async def list_deleting(self, limit: int) -> Sequence[Tenant]:
        """Return tenants that are being deleted, the earliest first."""

    async def list_jobs(self, tenant: str, limit: int) -> Sequence[str]:
        """Return ids of jobs of the tenant that are not deleted."""

    async def delete_schedules(self, tenant: str) -> None:
        """Delete what would create more for the tenant: its schedules."""

    async def remove(self, tenant: str) -> bool:
        """Delete the tenant with all else that it owns; return False if it still has jobs.

        The jobs of a tenant that is being deleted vanish when storage has deleted their artifacts.
        """
