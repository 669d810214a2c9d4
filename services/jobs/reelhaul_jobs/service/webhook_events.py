"""Turns what the transactions of jobs and schedules wrote into the outbox into events and deliveries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from reelhaul_jobs.filters import JOB_FIELDS, job_facts
from reelhaul_jobs.model import ids
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.schedule import Schedule
from reelhaul_jobs.model.webhook import BATCH_FINISHED, Webhook
from reelhaul_jobs.model.webhook_delivery import Event, FinishedBatch, NewEvent, OutboxEntry
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.webhooks import WebhookDeliveryStore
from reelhaul_runtime.filters.evaluate import matches
from reelhaul_runtime.filters.parser import parse

_BATCH = 200

#: Returns the serialized jobs.v1.Event.Data of the subject of an event.
EncodeSubject = Callable[[Job | Schedule | FinishedBatch], bytes]


class WebhookOutboxRelay:
    """Replaces the entries of the outbox by events with deliveries to the webhooks that want them."""

    def __init__(self, store: WebhookDeliveryStore, encode: EncodeSubject, now: Clock) -> None:
        self._store = store
        self._encode = encode
        self._now = now

    async def step(self) -> bool:
        """Replace the oldest entries; return whether there are more."""
        entries = await self._store.list_outbox(_BATCH)
        if not entries:
            return False
        now = self._now()
        by_tenant: defaultdict[str, list[Webhook]] = defaultdict(list)
        for webhook in await self._store.list_enabled({entry.tenant for entry in entries}):
            by_tenant[webhook.tenant].append(webhook)
        # Without a webhook that is still enabled, a tenant's entries end here.
        events = [self._event(entry, by_tenant, now) for entry in entries if by_tenant[entry.tenant]]

        def on_finished(batches: Sequence[FinishedBatch]) -> Sequence[NewEvent]:
            return [self._batch_event(each, by_tenant, now) for each in batches if by_tenant[each.tenant]]

        await self._store.record_events(entries, events, on_finished, now)
        return len(entries) == _BATCH

    def _event(
        self, entry: OutboxEntry, by_tenant: Mapping[str, Sequence[Webhook]], now: datetime
    ) -> NewEvent:
        subject = entry.subject
        event = Event(
            id=ids.new_id(now),
            tenant=entry.tenant,
            type=entry.type,
            time=entry.time,
            subject=subject.name,
            data=self._encode(subject),
        )
        job = subject if isinstance(subject, Job) else None
        webhooks = (webhook.id for webhook in by_tenant[entry.tenant] if _wants(webhook, entry.type, job))
        return NewEvent(event=event, webhooks=tuple(webhooks))

    def _batch_event(
        self, batch: FinishedBatch, by_tenant: Mapping[str, Sequence[Webhook]], now: datetime
    ) -> NewEvent:
        event = Event(
            id=ids.new_id(now),
            tenant=batch.tenant,
            type=BATCH_FINISHED,
            time=now,
            subject=f"batches/{batch.batch_id}",
            data=self._encode(batch),
        )
        wanted = (each.id for each in by_tenant[batch.tenant] if each.wants_type(BATCH_FINISHED))
        return NewEvent(event=event, webhooks=tuple(wanted))


def _wants(webhook: Webhook, event_type: str, job: Job | None) -> bool:
    """Return whether an event, about *job* if it is about one, is sent to *webhook*."""
    if not webhook.wants_type(event_type):
        return False
    where = parse(webhook.filter, JOB_FIELDS)
    return job is None or where is None or matches(where, job_facts(job))
