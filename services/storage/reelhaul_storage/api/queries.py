"""ListArtifacts' filter and order, as a Query.

The filter is the part of AIP-160 that lists need: comparisons by ``=``, joined by AND.
"""

from __future__ import annotations

import re

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError
from reelhaul_storage.model import Query

_MAX_FILTER = 2000
_TERM = re.compile(r'\s*(?P<field>[a-z_]+)\s*=\s*(?:"(?P<quoted>[^"\\]*)"|(?P<bare>[\w./+-]+))\s*')
_AND = re.compile(r"AND\b")
_FIELDS = {"job": str, "epoch": int, "kind": "kind", "media_type": str, "size_bytes": int, "tenant": str}
_COLUMNS = {"size_bytes": "size"}
_ORDERS = {"create_time": "create_time", "expire_time": "expire_time", "size_bytes": "size"}


def query_from_proto(request: pb.ListArtifactsRequest, limit: int) -> Query:
    """What *request* asks for, with *limit* artifacts at most. FILTER_INVALID, ORDER_BY_INVALID."""
    terms = dict(_terms(request.filter))
    tenant = terms.pop("tenant", None)
    order, descending = _order(request.order_by)
    return Query(
        limit=limit,
        tenant=None if tenant is None else str(tenant),
        equal=tuple((_COLUMNS.get(name, name), value) for name, value in terms.items()),
        order=order,
        descending=descending,
    )


def page_size_from_proto(asked: int) -> int:
    """How many are told on one page: 0 means 50, and none has more than 1000."""
    if asked < 0:
        raise FieldInvalid("page_size", "must not be negative")
    return min(asked, 1000) or 50


def _terms(text: str) -> list[tuple[str, str | int]]:
    if len(text) > _MAX_FILTER:
        raise _filter_invalid(f"must have at most {_MAX_FILTER} characters", _MAX_FILTER)
    terms: list[tuple[str, str | int]] = []
    at = 0
    while text.strip() and at <= len(text):
        term = _TERM.match(text, at)
        if term is None:
            raise _filter_invalid('must be like job = "jobs/…" AND kind = VIDEO', at)
        terms.append((term["field"], _value(term)))
        at = term.end()
        if at == len(text):
            break
        joined = _AND.match(text, at)
        if joined is None:
            raise _filter_invalid("joins by AND only", at)
        at = joined.end()
    if len(dict(terms)) < len(terms):
        raise _filter_invalid("names a field twice", 0)
    return terms


def _value(term: re.Match[str]) -> str | int:
    text = term["quoted"] if term["bare"] is None else term["bare"]
    kind = _FIELDS.get(term["field"])
    if kind is None:
        raise _filter_invalid(f"knows {', '.join(_FIELDS)}; not {term['field']}", term.start("field"))
    if kind is str:
        return text
    if kind == "kind" and text in ArtifactInfo.Kind.keys():
        return int(ArtifactInfo.Kind.Value(text))
    if kind is int and text.isdecimal() and len(text) <= 18:
        return int(text)
    raise _filter_invalid(f"{text!r} is no {term['field']}", term.start("field"))


def _order(text: str) -> tuple[str, bool]:
    words = text.split() or ["create_time", "desc"]
    if words[0] not in _ORDERS or words[1:] not in ([], ["asc"], ["desc"]):
        raise ReelhaulError(
            ErrorReason.ORDER_BY_INVALID,
            f"order_by is one of {', '.join(_ORDERS)}, each with desc",
            metadata={"field": words[0][:64]},
        )
    return _ORDERS[words[0]], words[1:] == ["desc"]


def _filter_invalid(text: str, position: int) -> ReelhaulError:
    return ReelhaulError(ErrorReason.FILTER_INVALID, f"filter {text}", metadata={"position": str(position)})
