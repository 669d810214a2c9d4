"""The store of API keys and tickets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from reelhaul_jobs.model.api_key import ApiKey
from reelhaul_jobs.model.credential import Ticket
from reelhaul_jobs.model.tenant import Tenant
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_runtime.filters.ast import Node

#: Returns the changed key. Pure: it may be called again.
KeyRule = Callable[[ApiKey], ApiKey]


#: Sorts in place of the last use of a key that was never used: earlier than any.
NEVER_USED = datetime(1970, 1, 1, tzinfo=UTC)


class KeyOrder(Enum):
    """The time that keys are sorted by; those of the same time by id."""

    CREATED = "create_time"
    USED = "last_use_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyQuery:
    """Selects one page of the keys of all tenants, by keyset."""

    limit: int
    order: KeyOrder = KeyOrder.CREATED
    descending: bool = True
    #: Time (or NEVER_USED) and id of the last key of the page before.
    after: tuple[datetime, str] | None = None
    where: Node | None = None
    show_deleted: bool = False
    #: For the states of keys.
    now: datetime


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Keys, and whether more follow."""

    keys: Sequence[ApiKey]
    has_more: bool


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key after a change, and whether this call made it: False if its request was made before."""

    key: ApiKey
    is_new: bool


class ApiKeyStore(Protocol):
    """Stores the keys of all tenants. One FULL_ACCESS key without an expiry works at all times.

    That is, once there is one: a change after which there would be none raises STATE_CONFLICT, also if two
    changes at the same time would do it together.
    """

    async def add(self, key: ApiKey, request: IdempotencyKey | None = None) -> KeyChange:
        """Store a new key. A repeated *request* returns the first one's key as it is now.

        Raises FIELD_INVALID if its tenant does not exist, STATE_CONFLICT if the tenant is being deleted,
        QUOTA_EXCEEDED above ``api_key.MAX_PER_TENANT``, REQUEST_ID_REUSED.
        """

    async def add_first(self, key: ApiKey, now: datetime) -> bool:
        """Store *key* unless a FULL_ACCESS key works at *now*; return whether it was stored."""

    async def has_full_access(self, now: datetime) -> bool:
        """Return whether a FULL_ACCESS key works at *now*."""

    async def get(self, key_id: str) -> ApiKey:
        """Return the key, also a deleted one. Raises ``NotFound``."""

    async def find(self, key_hash: bytes) -> tuple[ApiKey, Tenant] | None:
        """Return the key that has or had the string with *key_hash*, and its tenant, whatever their state."""

    async def find_by_id(self, key_id: str) -> tuple[ApiKey, Tenant] | None:
        """Return the key and its tenant, whatever their state."""

    async def find_tenant(self, tenant: str) -> Tenant | None:
        """Return the tenant (by id)."""

    async def list_page(self, query: KeyQuery) -> KeyPage:
        """Return a page of keys. Raises REQUEST_TIMED_OUT if that takes too long."""

    async def change(
        self, key_id: str, rule: KeyRule, now: datetime, request: IdempotencyKey | None = None
    ) -> KeyChange:
        """Store what *rule* returns. If *rule* raises, nothing changes.

        A repeated *request* returns the key as it is now. Raises ``NotFound``, REQUEST_ID_REUSED.
        """

    async def record_uses(self, uses: Mapping[str, datetime]) -> None:
        """Store the time of the last use by id of the key, where it is later than the stored one."""

    async def purge(self, deleted_before: datetime, limit: int) -> int:
        """Delete at most *limit* keys that were soft-deleted before then; return their number."""

    async def add_ticket(self, ticket: Ticket, now: datetime) -> None:
        """Store a ticket, and delete those that have expired at *now*."""

    async def take_ticket(self, ticket_hash: bytes) -> Ticket | None:
        """Delete the ticket and return it: of concurrent calls one gets it. None if there is none."""
