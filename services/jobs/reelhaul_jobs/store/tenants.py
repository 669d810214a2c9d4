"""The rows of tenants."""

from __future__ import annotations

import json
from datetime import timedelta

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.model.tenant import Tenant
from reelhaul_jobs.store.rows import Row, from_micros, from_micros_or_none


def tenant_from_row(row: Row) -> Tenant:
    """Return the tenant of a row with all columns."""
    return Tenant(
        id=row["id"],
        display_name=row["display_name"],
        contact=row["contact"],
        quota=api_key_pb2.Quota.FromString(row["quota"]),
        allowed_sites=tuple(json.loads(row["allowed_sites"])),
        denied_sites=tuple(json.loads(row["denied_sites"])),
        retention=None if row["retention"] is None else timedelta(microseconds=row["retention"]),
        disabled=bool(row["disabled"]),
        delete_time=from_micros_or_none(row["delete_time"]),
        revision=row["revision"],
        create_time=from_micros(row["create_time"]),
        update_time=from_micros(row["update_time"]),
    )
