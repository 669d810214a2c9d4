"""Sends the deliveries of webhooks that are due, some of each webhook at once."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs import metrics
from reelhaul_jobs.model import webhook as webhooks
from reelhaul_jobs.model import webhook_delivery as deliveries
from reelhaul_jobs.model.retries import error_reason
from reelhaul_jobs.model.webhook import Webhook
from reelhaul_jobs.model.webhook_delivery import Delivery, Event, TryResult
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.webhooks import WebhookDeliveryStore, WebhookEndpoints
from reelhaul_jobs.service.webhook_secrets import WebhookSecrets
from reelhaul_runtime import logs
from reelhaul_runtime.errors import ReelhaulError, to_status
from reelhaul_runtime.tasks import cancel_and_wait
from reelhaul_runtime.tracing import spans
from reelhaul_runtime.tracing.spans import Kind, Span

log = logging.getLogger(__name__)

#: Requests that one replica has under way at once, in total, to the webhooks of one tenant, and to one
#: webhook: a slow endpoint delays no other.
MAX_RUNNING, MAX_PER_TENANT, MAX_PER_WEBHOOK = 256, 32, 4
_MAX_LISTED = 500
# After this time a task gives its place to another webhook.
_TURN_SECONDS = 10.0

#: Returns the body of an event.
EncodeEvent = Callable[[Event], str]


@dataclass(frozen=True, slots=True)
class WebhookTries:
    """Makes one try of a delivery, and records its result."""

    store: WebhookDeliveryStore
    endpoints: WebhookEndpoints
    secrets: WebhookSecrets
    encode: EncodeEvent
    now: Clock

    async def try_delivery(self, webhook: Webhook, claimed: Delivery) -> Delivery | None:
        """Send *claimed* to *webhook*; return it as it is then, None if it was taken away meanwhile."""
        traceparent = await self._get_traceparent(claimed.event)
        with spans.continuing(traceparent), spans.start("POST webhook", Kind.CLIENT) as span:
            with metrics.WEBHOOK_DELIVERY_SECONDS.time():
                result = await self._send(webhook, claimed)
            if span.recorded:
                _describe(span, webhook, claimed, result)
        now = self.now()
        fields = {"webhook": webhook.name, "event": claimed.event.id, "status": result.http_status}
        if result.error is not None:
            log.info("webhook delivery failed", extra=fields | {"cause": result.error.message})
        after = await self.store.complete(
            claimed,
            result,
            lambda delivery: deliveries.complete(delivery, result, now, random.random),
            lambda present: (
                webhooks.record_success(present)
                if result.error is None
                else webhooks.record_failure(present, now, gone=result.gone)
            ),
        )
        given_up = after is not None and after.state is deliveries.DeliveryState.FAILED
        outcome = "delivered" if result.error is None else "given_up" if given_up else "failed"
        metrics.WEBHOOK_DELIVERIES.labels(outcome).inc()
        return after

    async def _get_traceparent(self, event: Event) -> str:
        """Return the trace context of the job of *event*, else of the request; empty if tracing is off."""
        if not spans.is_on():
            return ""
        if not event.subject.startswith("jobs/"):
            return logs.traceparent.get()
        return await self.store.get_traceparent(event.subject)

    async def _send(self, webhook: Webhook, claimed: Delivery) -> TryResult:
        now = self.now()
        try:
            secrets = [
                await self.secrets.unseal(webhook.name, sealed) for sealed in webhook.sealed_secrets(now)
            ]
        except ReelhaulError as error:
            return TryResult(error=to_status(error))
        event = claimed.event
        body = self.encode(event)
        try:
            return await self.endpoints.send(webhook, secrets, event.id, now, body)
        except Exception:
            # Tenants choose what answers. A failed try is retried less and less often, and suspends its
            # webhook in the end; without a result it would be sent again whenever its lease ends.
            log.exception("webhook delivery interrupted", extra={"webhook": webhook.name, "event": event.id})
            return TryResult(error=to_status(_interrupted(webhook)))


def _describe(span: Span, webhook: Webhook, claimed: Delivery, result: TryResult) -> None:
    """Set the attributes of *span*, without the URL, which may have a secret.

    https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client
    """
    span.set(
        {
            "http.request.method": "POST",
            "http.request.resend_count": claimed.attempts - 1,
            "reelhaul.webhook": webhook.name,
            "reelhaul.event": claimed.event.type,
            "reelhaul.job": claimed.event.subject,
        }
    )
    if result.http_status:
        span.set({"http.response.status_code": result.http_status})
    if result.error is not None:
        span.fail(ErrorReason.Name(error_reason(result.error)))


def _interrupted(webhook: Webhook) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.DESTINATION_UNAVAILABLE,
        "the response could not be read",
        metadata={"destination": webhook.name},
    )


class WebhookSender:
    """Starts tasks for webhooks with deliveries that are due. They outlive the leadership.

    Each delivery is held by a lease: if this process dies, another one sends it again.
    """

    def __init__(self, store: WebhookDeliveryStore, tries: WebhookTries, now: Clock, replica: str) -> None:
        """*replica*: the name of this replica, the same after a restart."""
        self._replica = replica
        self._store = store
        self._tries = tries
        self._now = now
        # With the tenant and the id of the webhook of each.
        self._tasks: dict[asyncio.Task[None], tuple[str, str]] = {}

    async def release_claims(self) -> None:
        """Send at once what an earlier process of this replica was about to send when it ended."""
        if not self._tasks:
            await self._store.release_claims(self._replica, self._now())

    async def step(self) -> bool:
        """Start tasks for what is due; return False: no more is due at once."""
        if len(self._tasks) >= MAX_RUNNING:
            return False
        due = await self._store.list_due(self._now(), MAX_PER_WEBHOOK, _MAX_LISTED)
        running = Counter(self._tasks.values())
        of_tenant = Counter(tenant for tenant, _ in self._tasks.values())
        for turn in range(MAX_PER_WEBHOOK):
            for tenant, webhook, number in due:
                key = (tenant, webhook)
                if turn >= number or running[key] >= MAX_PER_WEBHOOK or of_tenant[tenant] >= MAX_PER_TENANT:
                    continue
                if running.total() >= MAX_RUNNING:
                    return False
                running[key] += 1
                of_tenant[tenant] += 1
                task = asyncio.create_task(self._send_next(tenant, webhook))
                self._tasks[task] = key
                task.add_done_callback(self._finished)
        return False

    async def wait(self) -> None:
        """Wait until the requests that are under way have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop all requests; they are sent again when their leases end."""
        await cancel_and_wait(*self._tasks)

    async def _send_next(self, tenant: str, webhook_id: str) -> None:
        """Send what is due of one webhook, one delivery after the other."""
        end = time.monotonic() + _TURN_SECONDS
        while time.monotonic() < end:
            claimed = await self._store.claim_next(tenant, webhook_id, self._replica, self._now())
            if claimed is None:
                return
            await self._tries.try_delivery(*claimed)

    def _finished(self, task: asyncio.Task[None]) -> None:
        tenant, webhook = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()):
            # The lease ends, and it is tried again.
            expected = isinstance(error, ReelhaulError)
            log.log(
                logging.WARNING if expected else logging.ERROR,
                "webhook delivery interrupted",
                exc_info=None if expected else error,
                extra={"tenant": tenant, "webhook": f"webhooks/{webhook}", "cause": repr(error)},
            )
