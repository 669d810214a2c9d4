"""Parses filter, order_by and page_size of ListArtifacts and its like into a Query."""

from __future__ import annotations

from collections.abc import Mapping

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.filters.ast import Field, FieldKind, Node, mentions_field, required_value
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.identity import Caller
from reelhaul_storage.model import Query

#: The fields listed at ListArtifactsRequest.filter in storage_service.proto.
FIELDS: Mapping[str, Field] = {
    "job": Field(FieldKind.TEXT),
    "epoch": Field(FieldKind.NUMBER),
    "kind": Field(FieldKind.ENUM, dict(ArtifactInfo.Kind.items())),
    "language_code": Field(FieldKind.TEXT),
    "labels": Field(FieldKind.MAP),
    "media_type": Field(FieldKind.PATTERN),
    "file_name": Field(FieldKind.PATTERN),
    "size_bytes": Field(FieldKind.NUMBER),
    "create_time": Field(FieldKind.TIME),
    "expire_time": Field(FieldKind.TIME),
    "verify_time": Field(FieldKind.TIME),
    "damage_time": Field(FieldKind.TIME),
}

#: The fields for callers who see the artifacts of all tenants.
ADMIN_FIELDS: Mapping[str, Field] = {**FIELDS, "tenant": Field(FieldKind.TEXT)}

# More than elsewhere: one filter may select the artifacts of many jobs.
_MAX_TERMS = 200
_ORDERS = {"create_time": "create_time", "expire_time": "expire_time", "size_bytes": "size"}


def query_from_proto(request: pb.ListArtifactsRequest, limit: int, caller: Caller) -> Query:
    """Return the query of *request* for at most *limit* artifacts.

    Raises FILTER_INVALID, ORDER_BY_INVALID.
    """
    tenant, where = parse_filter(request.filter, caller)
    order, descending = _parse_order_by(request.order_by)
    return Query(limit=limit, tenant=tenant, where=where, order=order, descending=descending)


def parse_filter(text: str, caller: Caller) -> tuple[str | None, Node | None]:
    """Return the tenant whose artifacts a filter selects from, None for all, and its conditions.

    The caller's own, except for callers who may see every tenant's and name ``tenant``, and for the
    suite's own services. Raises FILTER_INVALID.
    """
    where = parse(text, ADMIN_FIELDS if caller.sees_all_tenants else FIELDS, max_terms=_MAX_TERMS)
    if tenant := required_value(where, "tenant"):
        return tenant, where
    everyone = caller.suite or (where is not None and mentions_field(where, "tenant"))
    return None if everyone else caller.tenant, where


def _parse_order_by(text: str) -> tuple[str, bool]:
    words = text.split() or ["create_time", "desc"]
    if words[0] not in _ORDERS or words[1:] not in ([], ["asc"], ["desc"]):
        raise ReelhaulError(
            ErrorReason.ORDER_BY_INVALID,
            f"order_by must be one of {', '.join(_ORDERS)}, optionally followed by asc or desc",
            metadata={"field": words[0][:64]},
        )
    return _ORDERS[words[0]], words[1:] == ["desc"]
