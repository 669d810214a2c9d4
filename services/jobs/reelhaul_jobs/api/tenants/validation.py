"""Validation of a tenant before it is stored."""

from __future__ import annotations

import re
from datetime import timedelta

from reelhaul.admin.v1 import tenant_pb2
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.validation import access, fields
from reelhaul_runtime.validation.violations import FieldViolations

#: The caller's own tenant, in place of an id.
ME = "me"

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_MAX_NAME, _MAX_CONTACT = 100, 254
_MIN_RETENTION, _MAX_RETENTION = timedelta(seconds=1), timedelta(days=3660)


def validate_and_normalize(message: tenant_pb2.Tenant) -> tenant_pb2.Tenant:
    """Return a copy of *message* as it may be stored: lists in one form, OUTPUT_ONLY fields cleared.

    Raises FIELD_INVALID with every field that is wrong, e.g. ``tenant.contact``.
    """
    tenant = tenant_pb2.Tenant()
    tenant.CopyFrom(message)
    fields.clear_output(tenant)
    violations = FieldViolations()
    for name, limit in (("display_name", _MAX_NAME), ("contact", _MAX_CONTACT)):
        value = getattr(tenant, name)
        if len(value) > limit or not value.isprintable():
            violations.add(f"tenant.{name}", f"must have at most {limit} printable characters")
    access.check_quota(tenant.quota, "tenant.quota", violations)
    for name in ("allowed_sites", "denied_sites"):
        sites = getattr(tenant, name)
        sites[:] = access.normalize_sites(sites, f"tenant.{name}", violations)
    if tenant.HasField("retention"):
        violations.check_duration("tenant.retention", tenant.retention, _MIN_RETENTION, _MAX_RETENTION)
    violations.raise_if_any()
    return tenant


def check_new_id(tenant_id: str) -> str:
    """Return *tenant_id* if a new tenant may have it."""
    if not _ID.fullmatch(tenant_id) or tenant_id == ME:
        raise FieldInvalid("tenant_id", f"must match ^[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?$, and not be {ME}")
    return tenant_id
