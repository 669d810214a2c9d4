"""Keys, tenants, quotas and the audit log of the jobs service, put together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

from reelhaul.admin.v1 import (
    api_key_service_pb2,
    api_key_service_pb2_grpc,
    audit_service_pb2,
    audit_service_pb2_grpc,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
)
from reelhaul_jobs.api.api_keys.servicer import ApiKeyServicer
from reelhaul_jobs.api.audit.servicer import AuditServicer
from reelhaul_jobs.api.tenants.servicer import TenantServicer
from reelhaul_jobs.composition.backends import Backends, Part
from reelhaul_jobs.ports.tokens import TokenVerifier
from reelhaul_jobs.service.access_changes import AccessChanges
from reelhaul_jobs.service.api_keys import ApiKeys, DeletedKeyPurger
from reelhaul_jobs.service.credentials import Credentials
from reelhaul_jobs.service.first_key import create_first_key
from reelhaul_jobs.service.housekeeping import AuditPurger
from reelhaul_jobs.service.job_admission import JobAdmission
from reelhaul_jobs.service.loop_runner import Loop
from reelhaul_jobs.service.quotas import Quotas
from reelhaul_jobs.service.tenants import TenantDeleter, Tenants
from reelhaul_jobs.settings import Settings
from reelhaul_jobs.store.api_keys import SqlApiKeyStore
from reelhaul_jobs.store.audit import SqlAuditStore
from reelhaul_jobs.store.quotas import SqlQuotaStore
from reelhaul_jobs.store.tenants import SqlTenantStore
from reelhaul_runtime.auth.audit_log import AuditRecorder
from reelhaul_runtime.auth.calls import Authenticator
from reelhaul_runtime.auth.site_rules import SiteRules, site_rules
from reelhaul_runtime.auth.verification import open_authenticator

_API_KEY_SERVICE = api_key_service_pb2.DESCRIPTOR.services_by_name["ApiKeyService"].full_name
_TENANT_SERVICE = tenant_service_pb2.DESCRIPTOR.services_by_name["TenantService"].full_name
_AUDIT_SERVICE = audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name


@dataclass(frozen=True, slots=True)
class Access(Part):
    """The area of access, and what the other areas and the server need of it."""

    authenticator: Authenticator
    audit_recorder: AuditRecorder
    admission: JobAdmission
    quota_store: SqlQuotaStore
    server_sites: Sequence[SiteRules]


async def open_access(stack: AsyncExitStack, backends: Backends) -> Access:
    """Open what identifies and limits callers; create the first key if it is due. *stack* closes it."""
    settings, database, now = backends.settings, backends.database, backends.now
    tokens = await _open_tokens(stack, settings)
    key_store, access_changes = SqlApiKeyStore(database), AccessChanges(backends.bus)
    api_keys, credentials = ApiKeys(key_store, access_changes, now), Credentials(key_store, now, tokens)
    await stack.enter_async_context(credentials.writing_uses())
    if settings.auth == "keys" and settings.jobs_first_key_file is not None:
        await create_first_key(key_store, settings.jobs_first_key_file, now)

    tenant_store, audit_store = SqlTenantStore(database), SqlAuditStore(database)
    tenants = Tenants(tenant_store, backends.storage, access_changes, now)
    tenant_deleter = TenantDeleter(
        tenant_store, backends.store, backends.storage, backends.notifier, access_changes, now
    )
    quota_store = SqlQuotaStore(database, backends.ledger)
    quotas = Quotas(quota_store, now)
    audit_retention = timedelta(days=settings.jobs_audit_days)

    page_tokens = backends.page_tokens
    api_key_servicer = ApiKeyServicer(api_keys, credentials, quotas, page_tokens, now)
    # Keys are verified here without a call of this service by itself.
    authenticator = await stack.enter_async_context(open_authenticator(settings, "jobs", api_key_servicer))
    access_changes.subscribe(authenticator.forget)
    server_sites = site_rules("this server", settings.allowed_sites, settings.denied_sites)
    return Access(
        servicers=[
            (
                api_key_service_pb2_grpc.add_ApiKeyServiceServicer_to_server,
                api_key_servicer,
                _API_KEY_SERVICE,
            ),
            (
                tenant_service_pb2_grpc.add_TenantServiceServicer_to_server,
                TenantServicer(tenants, quotas, page_tokens, now),
                _TENANT_SERVICE,
            ),
            (
                audit_service_pb2_grpc.add_AuditServiceServicer_to_server,
                AuditServicer(audit_store, page_tokens),
                _AUDIT_SERVICE,
            ),
        ],
        loops=[
            Loop("key-purger", DeletedKeyPurger(key_store, now).step, 600.0),
            Loop("tenant-deleter", tenant_deleter.step, 2.0),
            Loop("audit-purger", AuditPurger(audit_store, now, audit_retention).step, 600.0),
        ],
        authenticator=authenticator,
        audit_recorder=AuditRecorder(audit_store.add),
        admission=JobAdmission(tenant_store, key_store, server_sites),
        quota_store=quota_store,
        server_sites=server_sites,
    )


async def _open_tokens(stack: AsyncExitStack, settings: Settings) -> TokenVerifier | None:
    """Open what verifies the tokens of an identity provider; None without one."""
    if not settings.oidc_issuer:
        return None
    # 10 MB, of cryptography.
    from reelhaul_jobs.oidc.tokens import OidcTokens

    return await stack.enter_async_context(OidcTokens.open(settings))
