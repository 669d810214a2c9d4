"""API keys and tenants: what administrators manage, for async clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from reelhaul._core import methods
from reelhaul._core.resource_requests import (
    PAGE_SIZE,
    Call,
    iterate_pages,
    new_request_id,
    resource_name,
    to_duration,
    to_mask,
    to_message,
)
from reelhaul.admin.v1 import api_key_service_pb2 as keys
from reelhaul.admin.v1 import tenant_service_pb2 as tenants
from reelhaul.admin.v1.api_key_pb2 import ApiKey, Usage
from reelhaul.admin.v1.tenant_pb2 import Tenant


class AsyncKeys:
    """API keys, named ``apiKeys/{id}`` or by id; most methods need a key of level ADMIN.

    ``key_string`` is set only in what ``create`` and ``rotate`` return.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    async def create(self, key: ApiKey | Mapping[str, Any]) -> ApiKey:
        """Create a key."""
        # A call that is repeated after a lost response has no string: then the key is of no use.
        request = keys.CreateApiKeyRequest(api_key=to_message(ApiKey, key), request_id=new_request_id())
        return await self._call(methods.CREATE_API_KEY, request)

    async def get(self, name: str = "me") -> ApiKey:
        """Return a key, by default that of this client."""
        return await self._call(
            methods.GET_API_KEY, keys.GetApiKeyRequest(name=resource_name("apiKeys", name))
        )

    async def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
        *,
        show_deleted: bool = False,
    ) -> AsyncGenerator[ApiKey, None]:
        """Yield the keys that match *filter* (AIP-160, ListApiKeysRequest.filter), newest first."""
        request = keys.ListApiKeysRequest(filter=filter, show_deleted=show_deleted, page_size=PAGE_SIZE)
        async for page in iterate_pages(self._call, methods.LIST_API_KEYS, request):
            for key in page.api_keys:
                yield key

    async def update(self, name: str, key: ApiKey | Mapping[str, Any], fields: Sequence[str]) -> ApiKey:
        """Change *fields* of a key to what *key* has, or to their defaults."""
        changed = to_message(ApiKey, key)
        changed.name = resource_name("apiKeys", name)
        request = keys.UpdateApiKeyRequest(api_key=changed, update_mask=to_mask(fields))
        return await self._call(methods.UPDATE_API_KEY, request)

    async def delete(self, name: str) -> ApiKey:
        """Delete a key: it stops working now, and can be undeleted for 30 days."""
        return await self._call(
            methods.DELETE_API_KEY, keys.DeleteApiKeyRequest(name=resource_name("apiKeys", name))
        )

    async def undelete(self, name: str) -> ApiKey:
        """Restore a deleted key."""
        return await self._call(
            methods.UNDELETE_API_KEY, keys.UndeleteApiKeyRequest(name=resource_name("apiKeys", name))
        )

    async def rotate(self, name: str, grace_seconds: float = 0) -> ApiKey:
        """Give a key a new string; the old one works for *grace_seconds* more."""
        request = keys.RotateApiKeyRequest(
            name=resource_name("apiKeys", name), grace=to_duration(grace_seconds), request_id=new_request_id()
        )
        return await self._call(methods.ROTATE_API_KEY, request)


class AsyncTenants:
    """Tenants, named ``tenants/{id}`` or by id; a key below level FULL_ACCESS sees only its own, ``me``."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def create(self, tenant: Tenant | Mapping[str, Any], tenant_id: str = "") -> Tenant:
        """Create a tenant. Without *tenant_id* the server chooses one."""
        request = tenants.CreateTenantRequest(
            tenant=to_message(Tenant, tenant), tenant_id=tenant_id, request_id=new_request_id()
        )
        return await self._call(methods.CREATE_TENANT, request)

    async def get(self, name: str = "me") -> Tenant:
        """Return a tenant, by default that of this client."""
        return await self._call(
            methods.GET_TENANT, tenants.GetTenantRequest(name=resource_name("tenants", name))
        )

    async def get_usage(self, name: str = "me") -> Usage:
        """Return the quota that a tenant has used."""
        request = tenants.GetTenantUsageRequest(name=resource_name("tenants", name) + "/usage")
        return await self._call(methods.GET_TENANT_USAGE, request)

    async def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
    ) -> AsyncGenerator[Tenant, None]:
        """Yield the tenants that match *filter* (AIP-160, ListTenantsRequest.filter), by name."""
        request = tenants.ListTenantsRequest(filter=filter, page_size=PAGE_SIZE)
        async for page in iterate_pages(self._call, methods.LIST_TENANTS, request):
            for tenant in page.tenants:
                yield tenant

    async def update(self, name: str, tenant: Tenant | Mapping[str, Any], fields: Sequence[str]) -> Tenant:
        """Change *fields* of a tenant to what *tenant* has, or to their defaults."""
        changed = to_message(Tenant, tenant)
        changed.name = resource_name("tenants", name)
        request = tenants.UpdateTenantRequest(tenant=changed, update_mask=to_mask(fields))
        return await self._call(methods.UPDATE_TENANT, request)

    async def delete(self, name: str, *, force: bool = False) -> Tenant:
        """Delete a tenant; with *force* also if it owns keys, jobs or other resources."""
        request = tenants.DeleteTenantRequest(name=resource_name("tenants", name), force=force)
        return await self._call(methods.DELETE_TENANT, request)
