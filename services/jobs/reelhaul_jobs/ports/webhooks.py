"""The stores of webhooks and of their deliveries, and the endpoints that they are sent to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from reelhaul_jobs.model.webhook import Webhook
from reelhaul_jobs.model.webhook_delivery import (
    Delivery,
    FinishedBatch,
    NewEvent,
    OutboxEntry,
    TryResult,
)
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_runtime.filters.ast import Node

#: Returns the changed webhook. Pure: it may be called again. So are the other rules.
WebhookRule = Callable[[Webhook], Webhook]

#: Returns the changed delivery.
DeliveryRule = Callable[[Delivery], Delivery]

#: Returns the events of finished batches.
BatchRule = Callable[[Sequence[FinishedBatch]], Sequence[NewEvent]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryQuery:
    """Selects one page of the deliveries of a webhook, by keyset."""

    tenant: str
    webhook: str
    limit: int
    descending: bool = True
    #: Time and id of the last delivery of the page before.
    after: tuple[datetime, str] | None = None
    #: None: all.
    where: Node | None = None


class WebhookStore(Protocol):
    """Stores webhooks; those of other tenants are not found."""

    async def add(self, webhook: Webhook, request: IdempotencyKey | None = None) -> Webhook:
        """Store a new webhook. A repeated *request* returns the first one's webhook as it is now.

        Raises RESOURCE_EXISTS, QUOTA_EXCEEDED above ``webhook.MAX_PER_TENANT``, REQUEST_ID_REUSED.
        """

    async def get(self, tenant: str, webhook_id: str) -> Webhook:
        """Return the webhook. Raises ``NotFound``."""

    async def list_all(self, tenant: str) -> Sequence[Webhook]:
        """Return all webhooks of *tenant*, in no order."""

    async def change(self, tenant: str, webhook_id: str, rule: WebhookRule) -> Webhook:
        """Store what *rule* returns; a webhook that is not enabled any more has no pending deliveries.

        If *rule* raises, nothing changes. Raises ``NotFound``.
        """

    async def delete(self, tenant: str, webhook_id: str) -> None:
        """Delete the webhook and its deliveries. Raises ``NotFound``."""


class WebhookDeliveryStore(Protocol):
    """Stores events and their deliveries."""

    async def list_outbox(self, limit: int) -> Sequence[OutboxEntry]:
        """Return the oldest changes that are not events yet; those of one subject in their order."""

    async def list_enabled(self, tenants: Collection[str]) -> Sequence[Webhook]:
        """Return the enabled webhooks of *tenants*."""

    async def record_events(
        self, entries: Sequence[OutboxEntry], events: Sequence[NewEvent], rule: BatchRule, now: datetime
    ) -> bool:
        """Replace *entries* by *events*, those of *rule* for batches that ended with them, and deliveries.

        One transaction; it numbers the events. Returns False, and changes nothing, if another replica has
        done so with some of *entries*.
        """

    async def add_delivery(self, delivery: Delivery, now: datetime) -> Delivery:
        """Store *delivery* with its event, which gets its number. Raises ``NotFound``: no such webhook."""

    async def list_due(self, now: datetime, per_webhook: int, limit: int) -> Sequence[tuple[str, str, int]]:
        """Return tenant and id of at most *limit* enabled webhooks, and how many deliveries each could send.

        They are counted up to *per_webhook*. In random order, so that each webhook has its turn.
        """

    async def claim_next(
        self, tenant: str, webhook_id: str, sender: str, now: datetime
    ) -> tuple[Webhook, Delivery] | None:
        """Give the next delivery that may be sent to *sender*; None if there is none.

        No earlier delivery of the same subject is pending, or it holds later ones no longer.
        """

    async def release_claims(self, sender: str, now: datetime) -> None:
        """Make what *sender* held due at once: the process of this name has restarted."""

    async def complete(
        self, claimed: Delivery, result: TryResult, rule: DeliveryRule, webhook_rule: WebhookRule
    ) -> Delivery | None:
        """Store what *rule* returns, and *webhook_rule*, unless the sender has lost *claimed*: None."""

    async def get_delivery(self, tenant: str, webhook_id: str, delivery_id: str) -> Delivery:
        """Return the delivery with its event. Raises ``NotFound``."""

    async def change_delivery(
        self, tenant: str, webhook_id: str, delivery_id: str, rule: DeliveryRule
    ) -> Delivery:
        """Store what *rule* returns. Raises ``NotFound``."""

    async def list_deliveries(self, query: DeliveryQuery) -> Sequence[Delivery]:
        """Return the page that *query* selects, and one more delivery if there is one; without ``data``."""

    async def get_traceparent(self, job: str) -> str:
        """Return the trace context of *job*, ``jobs/{id}``; empty if it has none, or there is no such job."""

    async def delete_old_events(self, before: datetime, limit: int) -> int:
        """Delete at most *limit* events that were recorded before this time, with their deliveries.

        Return how many.
        """


class WebhookEndpoints(Protocol):
    """Sends requests to the endpoints of webhooks, at addresses that the operator allows."""

    async def check_url(self, url: str) -> None:
        """Raise URL_INVALID or URL_FORBIDDEN unless events may be sent to *url*."""

    async def send(
        self, webhook: Webhook, secrets: Sequence[str], event_id: str, time: datetime, body: str
    ) -> TryResult:
        """POST *body*, signed with all *secrets*, within TRY_SECONDS. Failures are part of the result."""
