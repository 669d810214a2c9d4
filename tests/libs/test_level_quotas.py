"""The limits that apply to a caller, from its key, its level and its tenant."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from reelhaul.admin.v1.api_key_pb2 import Quota
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.auth.level_quotas import (
    LevelQuotaSetting,
    effective_quota,
    level_quotas,
    smallest_limit,
)

READ_ONLY = PermissionLevel.PERMISSION_LEVEL_READ_ONLY
DOWNLOAD = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
FULL_ACCESS = PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS


@pytest.mark.parametrize(
    ("key", "tenant", "limit"),
    [(0, 0, 20), (0, 9, 9), (0, 99, 20), (50, 0, 50), (50, 9, 9), (-1, 0, -1), (-1, 9, 9), (5, -1, 5)],
)
def test_key_then_level_within_tenant(key: int, tenant: int, limit: int):
    """A key's own limit replaces that of its level, and no key has more than its tenant."""
    levels = level_quotas({"DOWNLOAD": {"jobs_per_day": 20}})
    quota = effective_quota(DOWNLOAD, Quota(jobs_per_day=key), Quota(jobs_per_day=tenant), levels)
    assert quota.jobs_per_day == limit


def test_defaults():
    """READ_ONLY and DOWNLOAD have a rate by default; FULL_ACCESS has no limit at all."""
    levels = level_quotas({})
    assert effective_quota(READ_ONLY, Quota(), Quota(), levels).requests_per_minute == 300
    assert effective_quota(DOWNLOAD, Quota(), Quota(), levels).requests_per_minute == 600
    fields = effective_quota(FULL_ACCESS, Quota(), Quota(), levels).ListFields()
    assert {value for _, value in fields} == {-1}
    assert len(fields) == len(Quota.DESCRIPTOR.fields)


def test_setting_changes_one_field():
    """A field of the setting replaces that default; the others stay, and -1 removes one."""
    levels = level_quotas({"DOWNLOAD": {"requests_per_minute": -1, "bytes_per_job": 7}})
    quota = effective_quota(DOWNLOAD, Quota(), Quota(), levels)
    assert (quota.requests_per_minute, quota.bytes_per_job, quota.jobs_per_day) == (-1, 7, 10_000)


@pytest.mark.parametrize(
    "setting",
    [
        {"OWNER": {}},
        {"ADMIN": {"jobs": 1}},
        {"ADMIN": {"jobs_per_day": -2}},
        {"ADMIN": {"jobs_per_day": 1 << 63}},
    ],
)
def test_wrong_settings(setting: object):
    """Unknown levels, unknown fields and impossible limits are refused at start; a known one is not."""
    adapter = TypeAdapter(LevelQuotaSetting)
    with pytest.raises(ValidationError):
        adapter.validate_python(setting)
    assert adapter.validate_json('{"ADMIN": {"jobs_per_day": 1}}')


def test_every_field_can_be_set():
    """Every field of Quota is a field of the setting."""
    everything = {field.name: 5 for field in Quota.DESCRIPTOR.fields}
    assert TypeAdapter(LevelQuotaSetting).validate_python({"ADMIN": everything}) == {"ADMIN": everything}


def test_smallest_limit():
    """0 and -1 are no limits."""
    assert smallest_limit(0, 7, -1, 9) == 7
    assert smallest_limit(0, -1) == -1
