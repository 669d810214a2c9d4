"""Validation of a key before it is stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from reelhaul.admin.v1 import api_key_pb2
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.model.api_key import ApiKey
from reelhaul_runtime.validation import access, fields
from reelhaul_runtime.validation.violations import FieldViolations

_MAX_NAME = 100
_MAX_LIFETIME = timedelta(days=3660)
_MIN_TTL = timedelta(seconds=1)
_LEVELS = (
    PermissionLevel.PERMISSION_LEVEL_READ_ONLY,
    PermissionLevel.PERMISSION_LEVEL_DOWNLOAD,
    PermissionLevel.PERMISSION_LEVEL_ADMIN,
    PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS,
)


def validate_and_normalize(
    message: api_key_pb2.ApiKey, now: datetime, present: ApiKey | None = None
) -> api_key_pb2.ApiKey:
    """Return a copy of *message* as it may be stored: lists in one form, OUTPUT_ONLY fields cleared.

    An expiry that *present*, the key before an update, has already is not checked again. Raises
    FIELD_INVALID with every field that is wrong, e.g. ``api_key.permission``.
    """
    key = api_key_pb2.ApiKey()
    key.CopyFrom(message)
    fields.clear_output(key)
    violations = FieldViolations()
    fields.check_enums(key, "api_key", violations)
    if key.permission not in _LEVELS:
        names = ", ".join(PermissionLevel.Name(level) for level in _LEVELS)
        violations.add("api_key.permission", f"is required: one of {names}")
    if len(key.display_name) > _MAX_NAME or not key.display_name.isprintable():
        violations.add("api_key.display_name", f"must have at most {_MAX_NAME} printable characters")
    if 0 in key.grants or len(set(key.grants)) < len(key.grants):
        violations.add("api_key.grants", "must be grants, each once")
    access.check_quota(key.quota, "api_key.quota", violations)
    key.allowed_cidrs[:] = access.normalize_networks(key.allowed_cidrs, "api_key.allowed_cidrs", violations)
    key.allowed_sites[:] = access.normalize_sites(key.allowed_sites, "api_key.allowed_sites", violations)
    key.denied_sites[:] = access.normalize_sites(key.denied_sites, "api_key.denied_sites", violations)
    _check_expiry(key, now, present, violations)
    violations.raise_if_any()
    return key


def _check_expiry(
    key: api_key_pb2.ApiKey, now: datetime, present: ApiKey | None, violations: FieldViolations
) -> None:
    if key.HasField("ttl"):
        violations.check_duration("api_key.ttl", key.ttl, _MIN_TTL, _MAX_LIFETIME)
    elif key.HasField("expire_time") and not _is_unchanged(key, present):
        violations.check_time(
            "api_key.expire_time", key.expire_time, not_before=now, not_after=now + _MAX_LIFETIME
        )


def _is_unchanged(key: api_key_pb2.ApiKey, present: ApiKey | None) -> bool:
    if present is None or present.expire_time is None:
        return False
    try:
        return key.expire_time.ToDatetime(UTC) == present.expire_time
    except (ValueError, OverflowError):
        return False
