"""ListAuditEntries: its filter and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC

from reelhaul.admin.v1 import audit_service_pb2
from reelhaul.admin.v1.audit_entry_pb2 import AuditEntry
from reelhaul_jobs.ports.audit import AuditQuery
from reelhaul_runtime.filters.ast import Field, FieldKind
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size

_FIELDS: Mapping[str, Field] = {
    "api_key": Field(FieldKind.TEXT),
    "principal": Field(FieldKind.TEXT),
    "tenant": Field(FieldKind.TEXT),
    "method": Field(FieldKind.PATTERN),
    "resource": Field(FieldKind.PATTERN),
    "address": Field(FieldKind.TEXT),
    "status.code": Field(FieldKind.NUMBER),
    "create_time": Field(FieldKind.TIME),
}


def query_from_request(request: audit_service_pb2.ListAuditEntriesRequest, tokens: PageTokens) -> AuditQuery:
    """Return the requested page. FILTER_INVALID, PAGE_TOKEN_INVALID, FIELD_INVALID."""
    position = tokens.read(_arguments(request), request.page_token)
    return AuditQuery(
        limit=limit_page_size(request.page_size),
        after=(position[0], position[1]) if position else None,
        where=parse(request.filter, _FIELDS),
    )


def list_response(
    request: audit_service_pb2.ListAuditEntriesRequest,
    query: AuditQuery,
    entries: Sequence[AuditEntry],
    tokens: PageTokens,
) -> audit_service_pb2.ListAuditEntriesResponse:
    """Return the first of *entries* that the page has, and a token if there are more."""
    page, token = entries[: query.limit], ""
    if len(entries) > query.limit:
        last = page[-1]
        time = last.create_time.ToDatetime(UTC)
        token = tokens.create(_arguments(request), time, last.name.removeprefix("auditEntries/"))
    return audit_service_pb2.ListAuditEntriesResponse(audit_entries=page, next_page_token=token)


def _arguments(request: audit_service_pb2.ListAuditEntriesRequest) -> str:
    """Return what must stay the same from page to page."""
    return repr(("auditEntries", request.filter))
