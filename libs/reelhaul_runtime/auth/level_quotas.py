"""Quotas by level: the limits of a key that sets none, and the limits that apply to a caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from reelhaul.admin.v1 import api_key_pb2
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel

#: Value of a quota's field without a limit (Quota in api_key.proto).
UNLIMITED = -1

Level = Literal["READ_ONLY", "DOWNLOAD", "ADMIN", "FULL_ACCESS"]
QuotaField = Literal[
    "requests_per_minute",
    "jobs_per_day",
    "concurrent_jobs",
    "bytes_per_day",
    "stored_bytes",
    "bytes_per_job",
    "seconds_per_job",
]
#: Value of REELHAUL_LEVEL_QUOTAS: a limit, or -1 for none, by level and field of Quota.
LevelQuotaSetting = dict[Level, dict[QuotaField, Annotated[int, Field(ge=UNLIMITED, lt=1 << 63)]]]
LevelQuotas = Mapping[PermissionLevel.ValueType, api_key_pb2.Quota]

_FIELDS = [field.name for field in api_key_pb2.Quota.DESCRIPTOR.fields]
_DEFAULTS: Mapping[Level, Mapping[QuotaField, int]] = {
    "READ_ONLY": {"requests_per_minute": 300},
    "DOWNLOAD": {"requests_per_minute": 600, "jobs_per_day": 10_000, "concurrent_jobs": 100},
    "ADMIN": {},
    "FULL_ACCESS": {},
}
_NO_LIMITS = api_key_pb2.Quota()


def level_quotas(setting: LevelQuotaSetting) -> LevelQuotas:
    """Return the quota of each level: the defaults, where *setting* has no field of that name."""
    return {
        PermissionLevel.Value(f"PERMISSION_LEVEL_{level}"): api_key_pb2.Quota(
            **{**defaults, **setting.get(level, {})}
        )
        for level, defaults in _DEFAULTS.items()
    }


def effective_quota(
    level: PermissionLevel.ValueType,
    key: api_key_pb2.Quota,
    tenant: api_key_pb2.Quota,
    levels: LevelQuotas,
) -> api_key_pb2.Quota:
    """Return the quota that applies to a key of *level*, every field a limit or -1.

    A field of *key* that is 0 takes the default of its level; no field exceeds that of *tenant*.
    """
    default = levels.get(level, _NO_LIMITS)
    limits = {
        name: smallest_limit(getattr(key, name) or getattr(default, name), getattr(tenant, name))
        for name in _FIELDS
    }
    return api_key_pb2.Quota(**limits)


def smallest_limit(*limits: int) -> int:
    """Return the smallest of *limits* that is one, above 0; -1 if none is."""
    return min((limit for limit in limits if limit > 0), default=UNLIMITED)
