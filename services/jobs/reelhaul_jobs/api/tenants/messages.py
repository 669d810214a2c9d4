"""Conversion between the messages of TenantService and the model."""

from __future__ import annotations

from typing import cast

from reelhaul.admin.v1 import tenant_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.model.tenant import Tenant


def tenant_to_proto(tenant: Tenant) -> tenant_pb2.Tenant:
    """Return the tenant that callers see."""
    return tenant_pb2.Tenant(
        name=tenant.name,
        display_name=tenant.display_name,
        contact=tenant.contact,
        quota=tenant.quota if tenant.quota.ByteSize() else None,
        allowed_sites=tenant.allowed_sites,
        denied_sites=tenant.denied_sites,
        retention=None if tenant.retention is None else fields.to_duration(tenant.retention),
        disabled=tenant.disabled,
        state=cast("tenant_pb2.Tenant.State.ValueType", tenant.state),
        create_time=fields.to_timestamp(tenant.create_time),
        update_time=fields.to_timestamp(tenant.update_time),
        etag=tenant.etag,
    )
