"""ListApiKeys: its filter, order and pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from reelhaul.admin.v1 import api_key_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.api_keys.messages import key_to_proto
from reelhaul_jobs.model.api_key import ApiKey, KeyState
from reelhaul_jobs.ports.api_keys import NEVER_USED, KeyOrder, KeyPage, KeyQuery
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.filters.ast import Field, FieldKind
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size

_LEVELS = {name: number for name, number in PermissionLevel.items() if number}
_FIELDS: Mapping[str, Field] = {
    "tenant": Field(FieldKind.TEXT),
    # Also without the prefix that the enum's names have.
    "permission": Field(
        FieldKind.ENUM,
        _LEVELS | {name.removeprefix("PERMISSION_LEVEL_"): level for name, level in _LEVELS.items()},
    ),
    "state": Field(FieldKind.ENUM, {state.name: int(state) for state in KeyState}),
    "display_name": Field(FieldKind.PATTERN),
    "key_prefix": Field(FieldKind.PATTERN),
    "create_time": Field(FieldKind.TIME),
    "last_use_time": Field(FieldKind.TIME),
}


def query_from_request(
    request: api_key_service_pb2.ListApiKeysRequest, tokens: PageTokens, now: datetime
) -> KeyQuery:
    """Return the requested page. FILTER_INVALID, ORDER_BY_INVALID, PAGE_TOKEN_INVALID, FIELD_INVALID."""
    order, descending = _parse_order(request.order_by)
    after = tokens.read(_arguments(request), request.page_token)
    return KeyQuery(
        limit=limit_page_size(request.page_size),
        order=order,
        descending=descending,
        after=None if after is None else (after[0], after[1]),
        where=parse(request.filter, _FIELDS),
        show_deleted=request.show_deleted,
        now=now,
    )


def list_response(
    request: api_key_service_pb2.ListApiKeysRequest, query: KeyQuery, page: KeyPage, tokens: PageTokens
) -> api_key_service_pb2.ListApiKeysResponse:
    """Return *page* as a message, with fewer keys where they would be too large."""
    sent, token = fields.fit_into_response(key_to_proto(key, query.now) for key in page.keys), ""
    if page.has_more or len(sent) < len(page.keys):
        token = tokens.create(_arguments(request), *_position(page.keys[len(sent) - 1], query.order))
    return api_key_service_pb2.ListApiKeysResponse(api_keys=sent, next_page_token=token)


def _parse_order(text: str) -> tuple[KeyOrder, bool]:
    """Return the order that *text* asks for, and whether it is descending."""
    words = text.split() or [KeyOrder.CREATED.value, "desc"]
    orders = {order.value: order for order in KeyOrder}
    if words[0] not in orders or words[1:] not in ([], ["asc"], ["desc"]):
        description = "keys are ordered by create_time or last_use_time, each also with desc"
        raise ReelhaulError(ErrorReason.ORDER_BY_INVALID, description, metadata={"field": text[:64]})
    return orders[words[0]], words[1:] == ["desc"]


def _arguments(request: api_key_service_pb2.ListApiKeysRequest) -> str:
    """Return what must stay the same from page to page."""
    return repr(("api_keys", request.filter, request.order_by.split(), request.show_deleted))


def _position(key: ApiKey, order: KeyOrder) -> tuple[datetime, str]:
    time = key.create_time if order is KeyOrder.CREATED else key.last_use_time
    return time or NEVER_USED, key.id
