"""Webhooks: their use cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import ids, webhook_delivery
from reelhaul_jobs.model import webhook as model
from reelhaul_jobs.model.webhook import TEST, Webhook, check_enabled, check_etag
from reelhaul_jobs.model.webhook_delivery import Delivery, DeliveryState, Event
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.webhooks import (
    DeliveryQuery,
    WebhookDeliveryStore,
    WebhookEndpoints,
    WebhookStore,
)
from reelhaul_jobs.service.webhook_secrets import WebhookSecrets
from reelhaul_jobs.service.webhook_sender import WebhookTries
from reelhaul_runtime.errors import ReelhaulError, to_status

# Test events that one replica sends at once: each waits for its endpoint.
_MAX_TESTS = 32


class Webhooks:
    """Creates, reads and changes one tenant's webhooks; another tenant's raise ``NotFound``."""

    def __init__(
        self,
        store: WebhookStore,
        deliveries: WebhookDeliveryStore,
        endpoints: WebhookEndpoints,
        secrets: WebhookSecrets,
        tries: WebhookTries,
        now: Clock,
    ) -> None:
        self._store = store
        self._deliveries = deliveries
        self._endpoints = endpoints
        self._secrets = secrets
        self._tries = tries
        self._now = now
        self._tests = 0

    async def check_url(self, url: str) -> None:
        """Raise URL_INVALID or URL_FORBIDDEN unless events may be sent to *url*."""
        await self._endpoints.check_url(url)

    async def create(self, webhook: Webhook, key: IdempotencyKey | None) -> tuple[Webhook, str]:
        """Store *webhook* with a new secret; return both, without the secret for a repeated request.

        Raises RESOURCE_EXISTS, QUOTA_EXCEEDED, REQUEST_ID_REUSED.
        """
        secret, sealed = await self._secrets.create()
        stored = await self._store.add(replace(webhook, sealed_secret=sealed), key)
        return stored, secret if stored.sealed_secret == sealed else ""

    async def get(self, tenant: str, webhook_id: str) -> Webhook:
        """Return the webhook."""
        return await self._store.get(tenant, webhook_id)

    async def all(self, tenant: str) -> Sequence[Webhook]:
        """Return all webhooks of *tenant*, in no particular order."""
        return await self._store.list_all(tenant)

    async def update(self, present: Webhook, wanted: Webhook) -> Webhook:
        """Change *present* to *wanted*. Raises ETAG_MISMATCH if it has changed since it was read."""
        now = self._now()

        def rule(webhook: Webhook) -> Webhook:
            check_etag(webhook, present.etag)
            enabled_again = wanted.state is not webhook.state and wanted.state is model.WebhookState.ENABLED
            return webhook.bump(
                now,
                url=wanted.url,
                event_types=wanted.event_types,
                filter=wanted.filter,
                state=wanted.state,
                # Otherwise the next failure would suspend it again.
                failing_since=None if enabled_again else webhook.failing_since,
            )

        return await self._store.change(present.tenant, present.id, rule)

    async def delete(self, tenant: str, webhook_id: str) -> None:
        """Delete the webhook and its deliveries."""
        await self._store.delete(tenant, webhook_id)

    async def rotate_secret(self, tenant: str, webhook_id: str, grace: timedelta) -> tuple[Webhook, str]:
        """Give the webhook a new secret, which is returned; the old one signs too until *grace* ends."""
        secret, sealed = await self._secrets.create()
        now = self._now()
        webhook = await self._store.change(
            tenant, webhook_id, lambda webhook: model.rotate(webhook, sealed, grace, now)
        )
        return webhook, secret

    async def test(self, tenant: str, webhook_id: str) -> Delivery:
        """Send a webhook.test event, once, and return its delivery. Raises OVERLOADED."""
        webhook = await self._store.get(tenant, webhook_id)
        if self._tests >= _MAX_TESTS:
            raise ReelhaulError(
                ErrorReason.OVERLOADED,
                "too many webhooks are tested at once",
                retry_delay=timedelta(seconds=webhook_delivery.TRY_SECONDS),
            )
        self._tests += 1
        try:
            return await self._test(webhook)
        finally:
            self._tests -= 1

    async def _test(self, webhook: Webhook) -> Delivery:
        now = self._now()
        event = Event(id=ids.new_id(now), tenant=webhook.tenant, type=TEST, time=now, subject="", data=b"")
        # Failed until its result is known: it is not retried, also if this process dies.
        interrupted = ReelhaulError(
            ErrorReason.DESTINATION_UNAVAILABLE,
            "the test was interrupted",
            metadata={"destination": webhook.name},
        )
        delivery = Delivery(
            id=ids.new_id(now),
            tenant=webhook.tenant,
            webhook=webhook.id,
            event=event,
            state=DeliveryState.FAILED,
            attempts=1,
            error=to_status(interrupted),
            sender=TEST,
        )
        stored = await self._deliveries.add_delivery(delivery, now)
        tested = await self._tries.try_delivery(webhook, stored)
        # Without a result it was redelivered, or the webhook was deleted meanwhile.
        return tested or await self.get_delivery(webhook.tenant, webhook.id, delivery.id)

    async def list_deliveries(self, query: DeliveryQuery) -> Sequence[Delivery]:
        """Return the page that *query* selects, and one more delivery if there is one."""
        await self._store.get(query.tenant, query.webhook)
        return await self._deliveries.list_deliveries(query)

    async def get_delivery(self, tenant: str, webhook_id: str, delivery_id: str) -> Delivery:
        """Return the delivery with its event."""
        return await self._deliveries.get_delivery(tenant, webhook_id, delivery_id)

    async def redeliver(self, tenant: str, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a delivery again. Raises STATE_CONFLICT unless the webhook is enabled."""
        check_enabled(await self._store.get(tenant, webhook_id))
        now = self._now()
        return await self._deliveries.change_delivery(
            tenant, webhook_id, delivery_id, lambda delivery: webhook_delivery.redeliver(delivery, now)
        )
