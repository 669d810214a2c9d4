"""ListTenants: its filter and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reelhaul.admin.v1 import tenant_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.tenants.messages import tenant_to_proto
from reelhaul_jobs.model.tenant import Tenant, TenantState
from reelhaul_jobs.ports.tenants import TenantQuery
from reelhaul_runtime.filters.ast import Field, FieldKind
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size

_FIELDS: Mapping[str, Field] = {
    "state": Field(FieldKind.ENUM, {state.name: int(state) for state in TenantState}),
    "display_name": Field(FieldKind.PATTERN),
    "contact": Field(FieldKind.PATTERN),
    "create_time": Field(FieldKind.TIME),
}


def query_from_request(request: tenant_service_pb2.ListTenantsRequest, tokens: PageTokens) -> TenantQuery:
    """Return the requested page. FILTER_INVALID, PAGE_TOKEN_INVALID, FIELD_INVALID."""
    position = tokens.read(_arguments(request), request.page_token)
    return TenantQuery(
        limit=limit_page_size(request.page_size),
        after=position[0] if position else "",
        where=parse(request.filter, _FIELDS),
    )


def list_response(
    request: tenant_service_pb2.ListTenantsRequest,
    query: TenantQuery,
    tenants: Sequence[Tenant],
    tokens: PageTokens,
) -> tenant_service_pb2.ListTenantsResponse:
    """Return the first of *tenants* that the page has, or a response can hold; a token if there are more."""
    sent = fields.fit_into_response(map(tenant_to_proto, tenants[: query.limit]))
    more = len(tenants) > len(sent)
    return tenant_service_pb2.ListTenantsResponse(
        tenants=sent,
        next_page_token=tokens.create(_arguments(request), tenants[len(sent) - 1].id) if more else "",
    )


def _arguments(request: tenant_service_pb2.ListTenantsRequest) -> str:
    """Return what must stay the same from page to page."""
    return repr(("tenants", request.filter))
