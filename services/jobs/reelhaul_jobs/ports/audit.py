"""The store of the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from reelhaul.admin.v1.audit_entry_pb2 import AuditEntry
from reelhaul_runtime.filters.ast import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Selects one page of entries, newest first."""

    limit: int
    #: Time and id of the last entry of the page before.
    after: tuple[datetime, str] | None = None
    where: Node | None = None


class AuditStore(Protocol):
    """Stores audit entries, which never change. The database refuses to."""

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """Store *entries*; those whose names are stored already are ignored."""

    async def get(self, entry_id: str) -> AuditEntry:
        """Return the entry (by id). Raises ``NotFound``."""

    async def list_page(self, query: AuditQuery) -> Sequence[AuditEntry]:
        """Return the entries of a page, and one more if others follow. Raises REQUEST_TIMED_OUT."""

    async def purge(self, before: datetime, limit: int) -> int:
        """Delete at most *limit* entries of calls before then; return their number.

        The database keeps those of the last day in any case.
        """
