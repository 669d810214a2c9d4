"""Conversion between the messages of TenantService and the model."""

from __future__ import annotations

import re
from datetime import datetime
from typing import cast

from reelhaul.admin.v1 import tenant_pb2, tenant_service_pb2
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.tenants.validation import ME
from reelhaul_jobs.model.tenant import Tenant
from reelhaul_runtime import identity
from reelhaul_runtime.errors import FieldInvalid, NotFound

_COLLECTION = "tenants/"
_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
# Fields that callers cannot change; they may be in the mask of an update nevertheless (AIP-203).


def parse_tenant_id(name: str, field: str = "name") -> str:
    """Return the id of ``tenants/{tenant}``, or of the id alone."""
    tenant_id = name.removeprefix(_COLLECTION)
    if not _ID.fullmatch(tenant_id):
        raise FieldInvalid(field, "must have the form tenants/{tenant}")
    return tenant_id


def readable_tenant_id(name: str, field: str = "name") -> str:
    """Return the id of the tenant *name*, which may be ``tenants/me``, if the caller may read it.

    Raises ``NotFound`` for another tenant below ADMIN.
    """
    caller, tenant_id = identity.caller(), parse_tenant_id(name, field)
    if tenant_id in (ME, caller.tenant):
        return caller.tenant
    if caller.level < PermissionLevel.PERMISSION_LEVEL_ADMIN:
        raise NotFound(f"{_COLLECTION}{tenant_id}")
    return tenant_id


def tenant_from_proto(message: tenant_pb2.Tenant, tenant_id: str, create_time: datetime) -> Tenant:
    """Return the tenant that the validated *message* describes."""
    return Tenant(
        id=tenant_id,
        display_name=message.display_name,
        contact=message.contact,
        quota=message.quota,
        allowed_sites=tuple(message.allowed_sites),
        denied_sites=tuple(message.denied_sites),
        retention=message.retention.ToTimedelta() if message.HasField("retention") else None,
        disabled=message.disabled,
        create_time=create_time,
        update_time=create_time,
    )


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


def merge_update(tenant: Tenant, request: tenant_service_pb2.UpdateTenantRequest) -> tenant_pb2.Tenant:
    """Return *tenant* with the fields of *request* that its mask names; without a mask, all set ones."""
    wanted = request.tenant
    mask = fields.resolve_update_mask(request.update_mask, wanted)
    merged = tenant_to_proto(tenant)
    mask.MergeMessage(wanted, merged, True, True)
    return merged
