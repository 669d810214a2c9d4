"""Tenants: the users of the suite, to whom keys and everything else belong."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum

from reelhaul.admin.v1 import api_key_pb2


class TenantState(IntEnum):
    """Whether the tenant's keys work; numbered as Tenant.State."""

    ACTIVE = 1
    #: Disabled by a user.
    DISABLED = 2
    #: Being deleted with everything that it owns.
    DELETING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A user of the suite: a person, a team or a program."""

    id: str
    display_name: str = ""
    contact: str = ""
    #: Limits of all its keys together; 0 is no limit.
    quota: api_key_pb2.Quota = field(default_factory=api_key_pb2.Quota)
    allowed_sites: tuple[str, ...] = ()
    denied_sites: tuple[str, ...] = ()
    #: How long jobs and artifacts are kept at most; None: as long as the server allows.
    retention: timedelta | None = None
    disabled: bool = False
    #: When its deletion began.
    delete_time: datetime | None = None
    revision: int = 1
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"tenants/{self.id}"

    @property
    def etag(self) -> str:
        """The strong entity tag, quoted: the revision."""
        return f'"{self.revision}"'

    @property
    def state(self) -> TenantState:
        """Whether its keys work."""
        if self.delete_time is not None:
            return TenantState.DELETING
        return TenantState.DISABLED if self.disabled else TenantState.ACTIVE
