"""The webhooks of the jobs service, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack

from reelhaul.jobs.v1 import webhook_service_pb2, webhook_service_pb2_grpc
from reelhaul_jobs.api.webhooks import messages
from reelhaul_jobs.api.webhooks.servicer import WebhookServicer
from reelhaul_jobs.composition.backends import Backends, Part
from reelhaul_jobs.service.housekeeping import WebhookEventPurger
from reelhaul_jobs.service.loop_runner import Loop
from reelhaul_jobs.service.webhook_events import WebhookOutboxRelay
from reelhaul_jobs.service.webhook_secrets import WebhookSecrets
from reelhaul_jobs.service.webhook_sender import WebhookSender, WebhookTries
from reelhaul_jobs.service.webhooks import Webhooks
from reelhaul_jobs.store.webhook_deliveries import SqlWebhookDeliveryStore
from reelhaul_jobs.store.webhooks import SqlWebhookStore
from reelhaul_jobs.webhook_endpoints import HttpWebhookEndpoints

_WEBHOOK_SERVICE = webhook_service_pb2.DESCRIPTOR.services_by_name["WebhookService"].full_name


async def open_webhooks(stack: AsyncExitStack, backends: Backends) -> Part:
    """Open what sends events to webhooks; *stack* closes it."""
    settings, database, now = backends.settings, backends.database, backends.now
    store, deliveries = SqlWebhookStore(database), SqlWebhookDeliveryStore(database)
    endpoints = await stack.enter_async_context(
        HttpWebhookEndpoints.open(
            settings.jobs_webhook_networks, settings.jobs_webhook_ca_file, send_xray=settings.trace_xray
        )
    )
    secrets = WebhookSecrets(settings.load_seal_keys)
    tries = WebhookTries(deliveries, endpoints, secrets, messages.event_to_json, now)
    webhooks = Webhooks(store, deliveries, endpoints, secrets, tries, now)
    relay = WebhookOutboxRelay(deliveries, messages.encode_subject, now)
    sender = WebhookSender(deliveries, tries, now, backends.replica)
    stack.push_async_callback(sender.close)
    return Part(
        servicers=[
            (
                webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server,
                WebhookServicer(webhooks, backends.page_tokens, now),
                _WEBHOOK_SERVICE,
            )
        ],
        loops=[
            Loop("webhook-relay", relay.step, 0.25),
            Loop("webhook-sender", sender.step, 0.25, on_leadership_gained=sender.release_claims),
            Loop("webhook-purger", WebhookEventPurger(deliveries, now).step, 600.0),
        ],
    )
