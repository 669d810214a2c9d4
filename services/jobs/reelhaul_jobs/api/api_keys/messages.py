"""Conversion between the messages of ApiKeyService and the model."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from google.protobuf import field_mask_pb2

from reelhaul.admin.v1 import api_key_pb2, api_key_service_pb2, tenant_pb2
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.tenants.messages import tenant_to_proto
from reelhaul_jobs.model.api_key import ApiKey, KeyString, Manager
from reelhaul_jobs.model.credential import Principal
from reelhaul_runtime import identity
from reelhaul_runtime.errors import FieldInvalid, NotFound
from reelhaul_runtime.identity import Caller

#: The caller's own key, in place of an id.
ME = "me"

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COLLECTION = "apiKeys/"
_TENANT = re.compile(r"(?:tenants/)?([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)")
_EXPIRATION = ("expire_time", "ttl")
# Fields that callers cannot change; they may be in the mask of an update nevertheless (AIP-203).
_UNCHANGING = ("name", "etag", "tenant")


def parse_key_id(name: str, field: str = "name") -> str:
    """Return the id of ``apiKeys/{api_key}``, or of the id alone."""
    key_id = name.removeprefix(_COLLECTION)
    if not _ID.fullmatch(key_id):
        raise FieldInvalid(field, "must have the form apiKeys/{api_key}, {api_key} a lower-case UUID")
    return key_id


def readable_key_id(name: str) -> str:
    """Return the id of the key *name*, which may be ``apiKeys/me``, if the caller may read it.

    Raises ``NotFound`` for another's key below ADMIN, and if the caller has no key of its own.
    """
    caller = identity.caller()
    own = own_key_id(caller)
    key_id = name.removeprefix(_COLLECTION)
    if key_id == ME:
        if not own:
            raise NotFound(f"{_COLLECTION}{ME}")
        return own
    key_id = parse_key_id(name)
    if caller.level < PermissionLevel.PERMISSION_LEVEL_ADMIN and key_id != own:
        raise NotFound(f"{_COLLECTION}{key_id}")
    return key_id


def own_key_id(caller: Caller) -> str:
    """Return the id of the key that *caller* presented; empty if it has none of ours."""
    return caller.principal.removeprefix(_COLLECTION) if caller.principal.startswith(_COLLECTION) else ""


def manager_of(caller: Caller) -> Manager:
    """Return what *caller* may do with keys."""
    return Manager(caller.level, () if caller.api_key is None else tuple(caller.api_key.grants))


def key_from_proto(
    message: api_key_pb2.ApiKey, key_id: str, string: KeyString, caller_tenant: str, now: datetime
) -> ApiKey:
    """Return the new key that the validated *message* describes, by default of the caller's tenant."""
    return ApiKey(
        id=key_id,
        tenant=parse_tenant(message.tenant) if message.tenant else caller_tenant,
        hash=string.hash,
        key_prefix=string.prefix,
        create_time=now,
        update_time=now,
        **_changeable_values(message, now),
    )


def updated_from_proto(key: ApiKey, message: api_key_pb2.ApiKey, now: datetime) -> ApiKey:
    """Return *key* with the values of the validated *message*, which has all that stay the same too."""
    if message.tenant and parse_tenant(message.tenant) != key.tenant:
        raise FieldInvalid("api_key.tenant", "cannot be changed: create a key of the other tenant")
    return replace(key, **_changeable_values(message, now))


def key_to_proto(key: ApiKey, now: datetime, string: KeyString | None = None) -> api_key_pb2.ApiKey:
    """Return the key that callers see at *now*, with its *string* if it is new."""
    return api_key_pb2.ApiKey(
        name=key.name,
        display_name=key.display_name,
        permission=key.permission,
        tenant=f"tenants/{key.tenant}",
        quota=key.quota if key.quota.ByteSize() else None,
        disabled=key.disabled,
        expire_time=fields.to_timestamp(key.expire_time),
        allowed_cidrs=key.allowed_cidrs,
        key_string=string.text if string else "",
        key_prefix=key.key_prefix,
        grants=key.grants,
        allowed_sites=key.allowed_sites,
        denied_sites=key.denied_sites,
        state=cast("api_key_pb2.ApiKey.State.ValueType", key.state(now)),
        last_use_time=fields.to_timestamp(key.last_use_time),
        delete_time=fields.to_timestamp(key.delete_time),
        purge_time=fields.to_timestamp(key.purge_time),
        create_time=fields.to_timestamp(key.create_time),
        update_time=fields.to_timestamp(key.update_time),
        etag=key.etag,
    )


def preview_to_proto(key: ApiKey, now: datetime) -> api_key_pb2.ApiKey:
    """Return what the key would be if it were created, without what only a key that exists has."""
    message = key_to_proto(key, now)
    for field in ("name", "key_prefix", "etag"):
        message.ClearField(field)
    return message


def principal_to_proto(principal: Principal, now: datetime) -> api_key_service_pb2.VerifyApiKeyResponse:
    """Return the response for a credential of *principal*."""
    key, tenant = principal.key, principal.tenant
    message = key_to_proto(key, now) if isinstance(key, ApiKey) else key
    return api_key_service_pb2.VerifyApiKeyResponse(
        api_key=message,
        max_age=fields.to_duration(principal.max_age),
        tenant=tenant_pb2.Tenant(name=message.tenant) if tenant is None else tenant_to_proto(tenant),
    )


def grantee_of(caller: Caller) -> api_key_pb2.ApiKey | None:
    """Return what *caller* may do, named by its principal; None if it has a key of ours."""
    if own_key_id(caller):
        return None
    grantee = api_key_pb2.ApiKey()
    if caller.api_key is not None:
        grantee.CopyFrom(caller.api_key)
    grantee.name = caller.principal
    grantee.permission = caller.level
    grantee.tenant = f"tenants/{caller.tenant}"
    return grantee


def merge_update(
    key: ApiKey, request: api_key_service_pb2.UpdateApiKeyRequest, now: datetime
) -> api_key_pb2.ApiKey:
    """Return *key* with the fields of *request* that its mask names; without a mask, all set ones."""
    wanted = request.api_key
    mask = fields.resolve_update_mask(request.update_mask, wanted, _UNCHANGING)
    merged = key_to_proto(key, now)
    rest = [path for path in mask.paths if path not in _EXPIRATION]
    field_mask_pb2.FieldMask(paths=rest).MergeMessage(wanted, merged, True, True)
    if len(rest) < len(mask.paths):
        # Both are one value: naming either sets what the request has, or nothing.
        merged.ClearField("expire_time")
        if wanted.HasField("ttl"):
            merged.ttl.CopyFrom(wanted.ttl)
        elif wanted.HasField("expire_time"):
            merged.expire_time.CopyFrom(wanted.expire_time)
    is_named = not request.update_mask.paths or {"tenant", "*"}.intersection(request.update_mask.paths)
    merged.tenant = wanted.tenant if is_named else ""
    return merged


def parse_tenant(name: str) -> str:
    """Return the id of ``tenants/{tenant}``, or of the id alone."""
    match = _TENANT.fullmatch(name)
    if match is None:
        raise FieldInvalid("api_key.tenant", "must have the form tenants/{tenant}")
    return match[1]


def _changeable_values(message: api_key_pb2.ApiKey, now: datetime) -> dict[str, Any]:
    """Return the values of ``api_key.CHANGEABLE`` that *message* has."""
    return {
        "display_name": message.display_name,
        "permission": message.permission,
        "grants": tuple(message.grants),
        "quota": message.quota,
        "allowed_cidrs": tuple(message.allowed_cidrs),
        "allowed_sites": tuple(message.allowed_sites),
        "denied_sites": tuple(message.denied_sites),
        "disabled": message.disabled,
        "expire_time": _expire_time(message, now),
    }


def _expire_time(message: api_key_pb2.ApiKey, now: datetime) -> datetime | None:
    if message.HasField("ttl"):
        return now + message.ttl.ToTimedelta()
    return fields.to_datetime(message.expire_time) if message.HasField("expire_time") else None
