"""AuditService: converts each request, calls the store, and converts its result."""

from __future__ import annotations

import re

from reelhaul.admin.v1 import audit_entry_pb2, audit_service_pb2, audit_service_pb2_grpc
from reelhaul_jobs.api.audit import listing
from reelhaul_jobs.ports.audit import AuditStore
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.page_tokens import PageTokens

_NAME = re.compile(r"(?:auditEntries/)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_MAX_ENTRIES = 1000


class AuditServicer(audit_service_pb2_grpc.AuditServiceServicer):
    """reelhaul.admin.v1.AuditService."""

    def __init__(self, store: AuditStore, page_tokens: PageTokens) -> None:
        self._store = store
        self._page_tokens = page_tokens

    async def GetAuditEntry(
        self, request: audit_service_pb2.GetAuditEntryRequest, context: object
    ) -> audit_entry_pb2.AuditEntry:
        return await self._store.get(_parse_id(request.name, "name"))

    async def ListAuditEntries(
        self, request: audit_service_pb2.ListAuditEntriesRequest, context: object
    ) -> audit_service_pb2.ListAuditEntriesResponse:
        query = listing.query_from_request(request, self._page_tokens)
        return listing.list_response(request, query, await self._store.list_page(query), self._page_tokens)

    async def RecordAuditEntries(
        self, request: audit_service_pb2.RecordAuditEntriesRequest, context: object
    ) -> audit_service_pb2.RecordAuditEntriesResponse:
        if not 1 <= len(request.audit_entries) <= _MAX_ENTRIES:
            raise FieldInvalid("audit_entries", f"must have between 1 and {_MAX_ENTRIES} elements")
        for entry in request.audit_entries:
            _parse_id(entry.name, "audit_entries.name")
        await self._store.add(request.audit_entries)
        return audit_service_pb2.RecordAuditEntriesResponse()


def _parse_id(name: str, field: str) -> str:
    """Return the id of ``auditEntries/{audit_entry}``, or of the id alone."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise FieldInvalid(field, "must have the form auditEntries/{audit_entry}")
    return match[1]
