"""Parses filter, order_by and page_size of ListArtifacts into a Query.

The filter is a subset of AIP-160: comparisons with ``=``, joined by AND.
"""

from __future__ import annotations

import re

from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_storage.model import Query

_MAX_FILTER = 2000
_TERM = re.compile(r'\s*(?P<field>[a-z_]+)\s*=\s*(?:"(?P<quoted>[^"\\]*)"|(?P<bare>[\w./+-]+))\s*')
_AND = re.compile(r"AND\b")
_FIELDS = {"job": str, "epoch": int, "kind": "kind", "media_type": str, "size_bytes": int, "tenant": str}
_COLUMNS = {"size_bytes": "size"}
_ORDERS = {"create_time": "create_time", "expire_time": "expire_time", "size_bytes": "size"}


def query_from_proto(request: pb.ListArtifactsRequest, limit: int) -> Query:
    """Return the query of *request* for at most *limit* artifacts.

    Raises FILTER_INVALID, ORDER_BY_INVALID.
    """
    terms = dict(_parse_filter(request.filter))
    tenant = terms.pop("tenant", None)
    order, descending = _parse_order_by(request.order_by)
    return Query(
        limit=limit,
        tenant=None if tenant is None else str(tenant),
        equal=tuple((_COLUMNS.get(name, name), value) for name, value in terms.items()),
        order=order,
        descending=descending,
    )


def _parse_filter(text: str) -> list[tuple[str, str | int]]:
    if len(text) > _MAX_FILTER:
        raise _filter_invalid(f"must have at most {_MAX_FILTER} characters", _MAX_FILTER)
    if (nul := text.find("\0")) >= 0:
        raise _filter_invalid("must not contain NUL", nul)
    terms: list[tuple[str, str | int]] = []
    position = 0
    while text.strip() and position <= len(text):
        term = _TERM.match(text, position)
        if term is None:
            raise _filter_invalid('must be like job = "jobs/…" AND kind = VIDEO', position)
        terms.append((term["field"], _parse_value(term)))
        position = term.end()
        if position == len(text):
            break
        conjunction = _AND.match(text, position)
        if conjunction is None:
            raise _filter_invalid("must join its terms with AND", position)
        position = conjunction.end()
    if len(dict(terms)) < len(terms):
        raise _filter_invalid("must not name a field twice", 0)
    return terms


def _parse_value(term: re.Match[str]) -> str | int:
    text = term["quoted"] if term["bare"] is None else term["bare"]
    field_type = _FIELDS.get(term["field"])
    if field_type is None:
        message = f"supports the fields {', '.join(_FIELDS)}; not {term['field']}"
        raise _filter_invalid(message, term.start("field"))
    if field_type is str:
        return text
    if field_type == "kind" and text in ArtifactInfo.Kind.keys():
        return int(ArtifactInfo.Kind.Value(text))
    if field_type is int and text.isdecimal() and len(text) <= 18:
        return int(text)
    raise _filter_invalid(f"has {text!r}, which is not a valid {term['field']}", term.start("field"))


def _parse_order_by(text: str) -> tuple[str, bool]:
    words = text.split() or ["create_time", "desc"]
    if words[0] not in _ORDERS or words[1:] not in ([], ["asc"], ["desc"]):
        raise ReelhaulError(
            ErrorReason.ORDER_BY_INVALID,
            f"order_by must be one of {', '.join(_ORDERS)}, optionally followed by asc or desc",
            metadata={"field": words[0][:64]},
        )
    return _ORDERS[words[0]], words[1:] == ["desc"]


def _filter_invalid(problem: str, position: int) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.FILTER_INVALID, f"filter {problem}", metadata={"position": str(position)}
    )
