"""WebhookService: converts each request, calls one use case, and converts its result."""

from __future__ import annotations

from dataclasses import replace

from google.protobuf import empty_pb2

from reelhaul.jobs.v1 import webhook_pb2, webhook_service_pb2, webhook_service_pb2_grpc
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.webhooks import listing, messages
from reelhaul_jobs.api.webhooks.validation import validate
from reelhaul_jobs.model.webhook import check_etag
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.webhooks import Webhooks
from reelhaul_runtime import identity
from reelhaul_runtime.page_tokens import PageTokens


class WebhookServicer(webhook_service_pb2_grpc.WebhookServiceServicer):
    """reelhaul.jobs.v1.WebhookService."""

    def __init__(self, webhooks: Webhooks, page_tokens: PageTokens, now: Clock) -> None:
        self._webhooks = webhooks
        self._page_tokens = page_tokens
        self._now = now

    async def CreateWebhook(
        self, request: webhook_service_pb2.CreateWebhookRequest, context: object
    ) -> webhook_pb2.Webhook:
        now, tenant = self._now(), identity.caller().tenant
        key = fields.idempotency_key(request, "CreateWebhook", tenant, now)
        validate(request.webhook)
        webhook_id = messages.new_webhook_id(request.webhook_id)
        webhook = messages.webhook_from_proto(request.webhook, webhook_id, tenant, now)
        await self._webhooks.check_url(webhook.url)
        if request.validate_only:
            return messages.webhook_to_proto(webhook)
        return messages.webhook_to_proto(*await self._webhooks.create(webhook, key))

    async def GetWebhook(
        self, request: webhook_service_pb2.GetWebhookRequest, context: object
    ) -> webhook_pb2.Webhook:
        tenant, webhook_id = identity.caller().tenant, messages.parse_webhook_id(request.name)
        return messages.webhook_to_proto(await self._webhooks.get(tenant, webhook_id))

    async def ListWebhooks(
        self, request: webhook_service_pb2.ListWebhooksRequest, context: object
    ) -> webhook_service_pb2.ListWebhooksResponse:
        webhooks = await self._webhooks.all(identity.caller().tenant)
        return listing.list_webhooks_response(request, webhooks, self._page_tokens)

    async def UpdateWebhook(
        self, request: webhook_service_pb2.UpdateWebhookRequest, context: object
    ) -> webhook_pb2.Webhook:
        now, tenant = self._now(), identity.caller().tenant
        webhook_id = messages.parse_webhook_id(request.webhook.name, "webhook.name")
        present = await self._webhooks.get(tenant, webhook_id)
        check_etag(present, request.webhook.etag)
        merged, state = messages.merge_update(present, request)
        validate(merged)
        wanted = replace(messages.webhook_from_proto(merged, webhook_id, tenant, now), state=state)
        if wanted.url != present.url:
            await self._webhooks.check_url(wanted.url)
        return messages.webhook_to_proto(await self._webhooks.update(present, wanted))

    async def DeleteWebhook(
        self, request: webhook_service_pb2.DeleteWebhookRequest, context: object
    ) -> empty_pb2.Empty:
        await self._webhooks.delete(identity.caller().tenant, messages.parse_webhook_id(request.name))
        return empty_pb2.Empty()

    async def TestWebhook(
        self, request: webhook_service_pb2.TestWebhookRequest, context: object
    ) -> webhook_pb2.Delivery:
        tenant, webhook_id = identity.caller().tenant, messages.parse_webhook_id(request.name)
        return messages.delivery_to_proto(await self._webhooks.test(tenant, webhook_id), with_event=True)

    async def RotateWebhookSecret(
        self, request: webhook_service_pb2.RotateWebhookSecretRequest, context: object
    ) -> webhook_pb2.Webhook:
        tenant, webhook_id = identity.caller().tenant, messages.parse_webhook_id(request.name)
        grace = messages.parse_grace(request)
        return messages.webhook_to_proto(*await self._webhooks.rotate_secret(tenant, webhook_id, grace))

    async def ListDeliveries(
        self, request: webhook_service_pb2.ListDeliveriesRequest, context: object
    ) -> webhook_service_pb2.ListDeliveriesResponse:
        tenant, webhook_id = identity.caller().tenant, messages.parse_webhook_id(request.parent, "parent")
        query = listing.delivery_query(request, tenant, webhook_id, self._page_tokens)
        found = await self._webhooks.list_deliveries(query)
        return listing.list_deliveries_response(request, found, query.limit, self._page_tokens)

    async def GetDelivery(
        self, request: webhook_service_pb2.GetDeliveryRequest, context: object
    ) -> webhook_pb2.Delivery:
        webhook_id, delivery_id = messages.parse_delivery_name(request.name)
        delivery = await self._webhooks.get_delivery(identity.caller().tenant, webhook_id, delivery_id)
        return messages.delivery_to_proto(delivery, with_event=True)

    async def RedeliverDelivery(
        self, request: webhook_service_pb2.RedeliverDeliveryRequest, context: object
    ) -> webhook_pb2.Delivery:
        webhook_id, delivery_id = messages.parse_delivery_name(request.name)
        delivery = await self._webhooks.redeliver(identity.caller().tenant, webhook_id, delivery_id)
        return messages.delivery_to_proto(delivery, with_event=True)
