"""API keys: their states, who may manage them, and what each change makes of one."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from reelhaul import api_keys
from reelhaul.admin.v1 import api_key_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import Grant, PermissionLevel
from reelhaul_jobs.model.tenant import Tenant, TenantState
from reelhaul_runtime.errors import FieldInvalid, QuotaExceeded, ReelhaulError, StateConflict, Violation

#: Keys per tenant, the deleted ones included until they are purged.
MAX_PER_TENANT = 1000

#: How long a deleted key can be undeleted.
UNDELETE_PERIOD = timedelta(days=30)

#: How long the string before a rotation may continue to work.
MAX_GRACE = timedelta(days=7)

#: The fields that an update may change.
CHANGEABLE = (
    "display_name",
    "permission",
    "grants",
    "quota",
    "allowed_cidrs",
    "allowed_sites",
    "denied_sites",
    "disabled",
    "expire_time",
)

_FULL_ACCESS = PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS


class KeyState(IntEnum):
    """Whether a key works; numbered as ApiKey.State."""

    ACTIVE = 1
    #: Disabled by a user.
    DISABLED = 2
    #: Past expire_time.
    EXPIRED = 3
    #: Soft-deleted.
    DELETED = 4


@dataclass(frozen=True, slots=True)
class KeyString:
    """A new key string, and what is stored of it."""

    text: str = field(default_factory=api_keys.create_key_string, repr=False)

    @property
    def hash(self) -> bytes:
        """SHA-256 of the string."""
        return api_keys.hash_key_string(self.text)

    @property
    def prefix(self) -> str:
        """The beginning of the string, to tell keys apart."""
        return self.text[: api_keys.SHOWN_LENGTH]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A credential of a tenant."""

    id: str
    #: Id of the tenant.
    tenant: str
    display_name: str = ""
    permission: PermissionLevel.ValueType
    grants: tuple[Grant.ValueType, ...] = ()
    quota: api_key_pb2.Quota = field(default_factory=api_key_pb2.Quota)
    allowed_cidrs: tuple[str, ...] = ()
    allowed_sites: tuple[str, ...] = ()
    denied_sites: tuple[str, ...] = ()
    #: SHA-256 of the string, and its beginning.
    hash: bytes = field(repr=False)
    key_prefix: str
    #: SHA-256 of the string before the last rotation, which works until then.
    previous_hash: bytes | None = field(default=None, repr=False)
    previous_expire_time: datetime | None = None
    disabled: bool = False
    expire_time: datetime | None = None
    delete_time: datetime | None = None
    #: To the minute.
    last_use_time: datetime | None = None
    revision: int = 1
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"apiKeys/{self.id}"

    @property
    def etag(self) -> str:
        """The strong entity tag, quoted: the revision."""
        return f'"{self.revision}"'

    @property
    def purge_time(self) -> datetime | None:
        """When it is deleted for good; None unless it is soft-deleted."""
        return None if self.delete_time is None else self.delete_time + UNDELETE_PERIOD

    def state(self, now: datetime) -> KeyState:
        """Return whether it works at *now*."""
        if self.delete_time is not None:
            return KeyState.DELETED
        if self.disabled:
            return KeyState.DISABLED
        expired = self.expire_time is not None and self.expire_time <= now
        return KeyState.EXPIRED if expired else KeyState.ACTIVE

    def matches(self, key_hash: bytes, now: datetime) -> bool:
        """Return whether *key_hash* is that of its string, or of the one before during its grace."""
        is_current = hmac.compare_digest(key_hash, self.hash)
        in_grace = self.previous_expire_time is not None and now < self.previous_expire_time
        is_previous = hmac.compare_digest(key_hash, self.previous_hash or b"")
        return is_current or (in_grace and is_previous)

    def works_until(self, key_hash: bytes) -> datetime | None:
        """Return when the string with *key_hash* stops working by itself; None: never."""
        times = [self.expire_time]
        if not hmac.compare_digest(key_hash, self.hash):
            times.append(self.previous_expire_time)
        return min((time for time in times if time is not None), default=None)

    def bump(self, now: datetime, **fields: Any) -> ApiKey:
        """Return this key with other *fields* and the next revision."""
        return replace(self, revision=self.revision + 1, update_time=now, **fields)


@dataclass(frozen=True, slots=True)
class Manager:
    """Who manages keys: the level and the grants of a caller."""

    level: PermissionLevel.ValueType
    grants: Collection[Grant.ValueType] = ()

    def check_level(self, level: PermissionLevel.ValueType, field_path: str = "") -> None:
        """Raise PERMISSION_INSUFFICIENT unless it may manage keys of *level*: ADMIN up to DOWNLOAD."""
        highest = _FULL_ACCESS if self.level >= _FULL_ACCESS else PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
        if level > highest:
            text = f"keys of level {_level_name(level)} are managed with FULL_ACCESS"
            raise self._insufficient("FULL_ACCESS", text, field_path)

    def check_grants(self, grants: Collection[Grant.ValueType], field_path: str) -> None:
        """Raise PERMISSION_INSUFFICIENT if it lacks one of *grants*; FULL_ACCESS has all."""
        missing = sorted(set(grants) - set(self.grants))
        if missing and self.level < _FULL_ACCESS:
            name = Grant.Name(missing[0]).removeprefix("GRANT_")
            raise self._insufficient(name, f"a caller without the grant {name} cannot give it", field_path)

    def check_quota(self, field_path: str) -> None:
        """Raise PERMISSION_INSUFFICIENT unless it may set the quota of keys."""
        if self.level < _FULL_ACCESS:
            raise self._insufficient("FULL_ACCESS", "quotas are set with FULL_ACCESS", field_path)

    def check_new(self, key: ApiKey) -> None:
        """Raise PERMISSION_INSUFFICIENT unless it may create *key*."""
        self.check_level(key.permission, "api_key.permission")
        self.check_grants(key.grants, "api_key.grants")
        if key.quota.ByteSize():
            self.check_quota("api_key.quota")

    def check_update(self, before: ApiKey, after: ApiKey) -> None:
        """Raise PERMISSION_INSUFFICIENT unless it may make *after* of *before*."""
        self.check_level(before.permission)
        self.check_level(after.permission, "api_key.permission")
        self.check_grants(set(after.grants) - set(before.grants), "api_key.grants")
        if after.quota != before.quota:
            self.check_quota("api_key.quota")

    def _insufficient(self, required: str, text: str, field_path: str) -> ReelhaulError:
        return ReelhaulError(
            ErrorReason.PERMISSION_INSUFFICIENT,
            f"{field_path}: {text}" if field_path else text,
            metadata={"required": required, "granted": _level_name(self.level)},
            violations=[Violation(field_path, text)] if field_path else (),
        )


def update(key: ApiKey, wanted: ApiKey, now: datetime) -> ApiKey:
    """Return *key* with what a user may change taken from *wanted*. Raises STATE_CONFLICT if deleted."""
    if key.delete_time is not None:
        raise StateConflict(key.name, "DELETED", f"{key.name} is deleted: undelete it first")
    return key.bump(now, **{name: getattr(wanted, name) for name in CHANGEABLE})


def delete(key: ApiKey, now: datetime) -> ApiKey:
    """Return *key* soft-deleted; unchanged if it is already."""
    return key if key.delete_time is not None else key.bump(now, delete_time=now)


def undelete(key: ApiKey, now: datetime) -> ApiKey:
    """Return *key* as before its deletion. Raises STATE_CONFLICT if it is not deleted."""
    if key.delete_time is None:
        raise StateConflict(key.name, key.state(now).name, f"{key.name} is not deleted")
    return key.bump(now, delete_time=None)


def rotate(key: ApiKey, new: KeyString, grace: timedelta, now: datetime) -> ApiKey:
    """Return *key* with the string *new*; the string before it works for *grace* more.

    A string from before an earlier rotation stops working. Raises STATE_CONFLICT if the key is deleted or
    expired.
    """
    if (state := key.state(now)) in (KeyState.DELETED, KeyState.EXPIRED):
        raise StateConflict(key.name, state.name, f"{key.name} is {state.name.lower()}: it cannot be rotated")
    return key.bump(
        now,
        hash=new.hash,
        key_prefix=new.prefix,
        previous_hash=key.hash if grace else None,
        previous_expire_time=now + grace if grace else None,
    )


def check_etag(key: ApiKey, etag: str) -> None:
    """Raise ETAG_MISMATCH unless *etag* is empty or that of *key*."""
    if etag and etag != key.etag:
        raise ReelhaulError(
            ErrorReason.ETAG_MISMATCH,
            f"{key.name} has changed since: read it again",
            metadata={"resource": key.name, "etag": key.etag},
        )


def check_tenant(tenant: Tenant | None) -> None:
    """Raise why *tenant*, None if it does not exist, gets no keys: FIELD_INVALID or STATE_CONFLICT."""
    if tenant is None:
        raise FieldInvalid("api_key.tenant", "names a tenant that does not exist")
    if tenant.state is TenantState.DELETING:
        raise StateConflict(tenant.name, tenant.state.name, f"{tenant.name} is being deleted")


def last_full_access(name: str, state: str) -> ReelhaulError:
    """Return the error for a change after which nobody could manage the suite."""
    text = (
        f"without {name} no FULL_ACCESS key would work for good: create another one first, without an expiry"
    )
    return StateConflict(name, state, text)


def quota_exceeded(key: ApiKey) -> ReelhaulError:
    """Return the error for a new key of a tenant at its limit."""
    text = f"a tenant has at most {MAX_PER_TENANT} keys; deleted ones count until they are purged"
    return QuotaExceeded("api_keys", text, subject=f"tenants/{key.tenant}", limit=MAX_PER_TENANT)


def credential_invalid(text: str) -> ReelhaulError:
    """Return the error for a key or ticket that does not work."""
    return ReelhaulError(ErrorReason.CREDENTIAL_INVALID, text)


def _level_name(level: PermissionLevel.ValueType) -> str:
    return PermissionLevel.Name(level).removeprefix("PERMISSION_LEVEL_")
