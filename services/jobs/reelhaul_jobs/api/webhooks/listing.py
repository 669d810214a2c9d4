"""The lists of webhooks, of which a tenant has few, and of deliveries, which are paged by the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reelhaul.jobs.v1 import webhook_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api.webhooks.messages import delivery_to_proto, webhook_to_proto
from reelhaul_jobs.model.webhook import Webhook
from reelhaul_jobs.model.webhook_delivery import Delivery, DeliveryState
from reelhaul_jobs.ports.webhooks import DeliveryQuery
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.filters.ast import Field, FieldKind
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size

_FIELDS: Mapping[str, Field] = {
    "state": Field(FieldKind.ENUM, {state.name: int(state) for state in DeliveryState}),
    "event_type": Field(FieldKind.TEXT),
    "event_id": Field(FieldKind.TEXT),
    "create_time": Field(FieldKind.TIME),
}


def list_webhooks_response(
    request: webhook_service_pb2.ListWebhooksRequest, webhooks: Sequence[Webhook], tokens: PageTokens
) -> webhook_service_pb2.ListWebhooksResponse:
    """Return the requested page of a tenant's *webhooks*, newest first. PAGE_TOKEN_INVALID."""
    size, arguments = limit_page_size(request.page_size), repr(("webhooks",))
    ordered = sorted(webhooks, key=lambda each: (each.create_time, each.id), reverse=True)
    if last := tokens.read(arguments, request.page_token):
        ordered = [each for each in ordered if (each.create_time, each.id) < last]
    page = ordered[:size]
    return webhook_service_pb2.ListWebhooksResponse(
        webhooks=[webhook_to_proto(each) for each in page],
        next_page_token=tokens.create(arguments, page[-1].create_time, page[-1].id) if ordered[size:] else "",
    )


def delivery_query(
    request: webhook_service_pb2.ListDeliveriesRequest, tenant: str, webhook_id: str, tokens: PageTokens
) -> DeliveryQuery:
    """Return what *request* selects. FILTER_INVALID, ORDER_BY_INVALID, PAGE_TOKEN_INVALID."""
    return DeliveryQuery(
        tenant=tenant,
        webhook=webhook_id,
        limit=limit_page_size(request.page_size),
        descending=_is_descending(request.order_by),
        after=tokens.read(_arguments(request), request.page_token),
        where=parse(request.filter, _FIELDS),
    )


def list_deliveries_response(
    request: webhook_service_pb2.ListDeliveriesRequest,
    found: Sequence[Delivery],
    limit: int,
    tokens: PageTokens,
) -> webhook_service_pb2.ListDeliveriesResponse:
    """Return the page of *limit* deliveries from *found*, which has one more if there is one."""
    page = found[:limit]
    more = found[limit:]
    return webhook_service_pb2.ListDeliveriesResponse(
        deliveries=[delivery_to_proto(each, with_event=False) for each in page],
        next_page_token=tokens.create(_arguments(request), page[-1].event.time, page[-1].id) if more else "",
    )


def _arguments(request: webhook_service_pb2.ListDeliveriesRequest) -> str:
    return repr(("deliveries", request.parent, request.filter, request.order_by.split()))


def _is_descending(text: str) -> bool:
    words = text.split() or ["create_time", "desc"]
    if words[0] != "create_time" or words[1:] not in ([], ["asc"], ["desc"]):
        raise ReelhaulError(
            ErrorReason.ORDER_BY_INVALID,
            "deliveries are ordered by create_time, also with desc",
            metadata={"field": text[:64]},
        )
    return words[1:] == ["desc"]
