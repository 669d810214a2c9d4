"""Tenants: the users of the suite, to whom keys and everything else belong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from reelhaul.admin.v1 import api_key_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError, StateConflict


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

    def bump(self, now: datetime, **fields: Any) -> Tenant:
        """Return this tenant with other *fields* and the next revision."""
        return replace(self, revision=self.revision + 1, update_time=now, **fields)


def update(tenant: Tenant, wanted: Tenant, now: datetime) -> Tenant:
    """Return *tenant* with the fields of *wanted* that users set. Raises STATE_CONFLICT."""
    if tenant.state is TenantState.DELETING:
        raise StateConflict(tenant.name, tenant.state.name, f"{tenant.name} is being deleted")
    after = replace(wanted, revision=tenant.revision, update_time=tenant.update_time)
    return tenant if after == tenant else after.bump(now)


def delete(tenant: Tenant, now: datetime) -> Tenant:
    """Return *tenant* as it is while everything that it owns is deleted; no change if it is already."""
    return tenant if tenant.state is TenantState.DELETING else tenant.bump(now, delete_time=now)


def check_etag(tenant: Tenant, etag: str) -> None:
    """Raise ETAG_MISMATCH unless *etag* is empty or that of *tenant*."""
    if etag and etag != tenant.etag:
        raise ReelhaulError(
            ErrorReason.ETAG_MISMATCH,
            f"{tenant.name} has changed since: read it again",
            metadata={"resource": tenant.name, "etag": tenant.etag},
        )


def already_exists(tenant: Tenant) -> ReelhaulError:
    """Return the error for an id that is taken."""
    text = f"{tenant.name} exists"
    return ReelhaulError(ErrorReason.RESOURCE_EXISTS, text, metadata={"resource": tenant.name})


def in_use(tenant: Tenant) -> ReelhaulError:
    """Return the error for the deletion of a tenant that owns resources."""
    text = f"{tenant.name} owns keys, jobs or other resources: set force to delete them too"
    return StateConflict(tenant.name, tenant.state.name, text)
