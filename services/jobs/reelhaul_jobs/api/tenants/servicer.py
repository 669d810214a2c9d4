"""TenantService: converts each request, calls one use case, and converts its result."""

from __future__ import annotations

import uuid

from reelhaul.admin.v1 import api_key_pb2, tenant_pb2, tenant_service_pb2, tenant_service_pb2_grpc
from reelhaul_jobs.api import fields, usage
from reelhaul_jobs.api.tenants import listing, messages
from reelhaul_jobs.api.tenants.validation import check_new_id, validate_and_normalize
from reelhaul_jobs.model.tenant import check_etag
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.quotas import Quotas
from reelhaul_jobs.service.tenants import Tenants
from reelhaul_runtime import identity
from reelhaul_runtime.errors import StateConflict
from reelhaul_runtime.page_tokens import PageTokens


class TenantServicer(tenant_service_pb2_grpc.TenantServiceServicer):
    """reelhaul.admin.v1.TenantService."""

    def __init__(self, tenants: Tenants, quotas: Quotas, page_tokens: PageTokens, now: Clock) -> None:
        self._tenants = tenants
        self._quotas = quotas
        self._page_tokens = page_tokens
        self._now = now

    async def CreateTenant(
        self, request: tenant_service_pb2.CreateTenantRequest, context: object
    ) -> tenant_pb2.Tenant:
        now = self._now()
        key = fields.idempotency_key(request, "CreateTenant", identity.caller().tenant, now)
        tenant_id = check_new_id(request.tenant_id or f"t-{uuid.uuid4()}")
        tenant = messages.tenant_from_proto(validate_and_normalize(request.tenant), tenant_id, now)
        if request.validate_only:
            await self._tenants.check_new(tenant)
            return messages.tenant_to_proto(tenant)
        return messages.tenant_to_proto(await self._tenants.create(tenant, key))

    async def GetTenant(
        self, request: tenant_service_pb2.GetTenantRequest, context: object
    ) -> tenant_pb2.Tenant:
        return messages.tenant_to_proto(await self._tenants.get(messages.readable_tenant_id(request.name)))

    async def ListTenants(
        self, request: tenant_service_pb2.ListTenantsRequest, context: object
    ) -> tenant_service_pb2.ListTenantsResponse:
        query = listing.query_from_request(request, self._page_tokens)
        tenants = await self._tenants.list_page(query)
        return listing.list_response(request, query, tenants, self._page_tokens)

    async def UpdateTenant(
        self, request: tenant_service_pb2.UpdateTenantRequest, context: object
    ) -> tenant_pb2.Tenant:
        present = await self._tenants.get(messages.parse_tenant_id(request.tenant.name, "tenant.name"))
        check_etag(present, request.tenant.etag)
        message = validate_and_normalize(messages.merge_update(present, request))
        if message.disabled and present.id == identity.caller().tenant:
            text = f"{present.name} is your own: you would lock yourself out"
            raise StateConflict(present.name, present.state.name, text)
        wanted = messages.tenant_from_proto(message, present.id, present.create_time)
        return messages.tenant_to_proto(await self._tenants.update(present, wanted))

    async def DeleteTenant(
        self, request: tenant_service_pb2.DeleteTenantRequest, context: object
    ) -> tenant_pb2.Tenant:
        tenant_id = messages.parse_tenant_id(request.name)
        if tenant_id == identity.caller().tenant:
            text = f"tenants/{tenant_id} is your own: use a key of another tenant"
            raise StateConflict(f"tenants/{tenant_id}", "ACTIVE", text)
        tenant = await self._tenants.delete(tenant_id, request.etag, force=request.force)
        return messages.tenant_to_proto(tenant)

    async def GetTenantUsage(
        self, request: tenant_service_pb2.GetTenantUsageRequest, context: object
    ) -> api_key_pb2.Usage:
        tenant = await self._tenants.get(messages.readable_tenant_id(usage.parent_of(request.name)))
        return usage.usage_to_proto(tenant.name, await self._quotas.get_usage(tenant.name))
