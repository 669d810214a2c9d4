"""Turns what the transactions of jobs and schedules wrote into the outbox into events and deliveries."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from reelhaul_jobs.filters import JOB_FIELDS, job_facts
from reelhaul_jobs.model import ids
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.schedule import Schedule
from reelhaul_jobs.model.webhook import BATCH_FINISHED, Webhook
from reelhaul_jobs.model.webhook_delivery import Event, FinishedBatch, NewEvent, OutboxEntry
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.webhooks import WebhookDeliveryStore
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.filters.ast import Node
from reelhaul_runtime.filters.evaluate import Facts, matches
from reelhaul_runtime.filters.parser import parse

log = logging.getLogger(__name__)

# Each entry becomes up to a hundred deliveries, in one transaction.
_BATCH = 100

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
        facts = job_facts(subject) if isinstance(subject, Job) else None
        wanted = [each.id for each in by_tenant[entry.tenant] if _wants(each, entry.type, facts)]
        event = Event(
            id=ids.new_id(now),
            tenant=entry.tenant,
            type=entry.type,
            time=entry.time,
            subject=subject.name,
            data=self._encode(subject) if wanted else b"",
        )
        return NewEvent(event=event, webhooks=tuple(wanted))

    def _batch_event(
        self, batch: FinishedBatch, by_tenant: Mapping[str, Sequence[Webhook]], now: datetime
    ) -> NewEvent:
        wanted = [each.id for each in by_tenant[batch.tenant] if _wants(each, BATCH_FINISHED, None)]
        event = Event(
            id=ids.new_id(now),
            tenant=batch.tenant,
            type=BATCH_FINISHED,
            time=now,
            subject=f"batches/{batch.batch_id}",
            data=self._encode(batch),
        )
        return NewEvent(event=event, webhooks=tuple(wanted))


def _wants(webhook: Webhook, event_type: str, facts: Facts | None) -> bool:
    """Return whether an event, about the job with *facts* if it is about one, is sent to *webhook*."""
    if not webhook.wants_type(event_type):
        return False
    try:
        where = _parse_filter(webhook.filter)
    except ReelhaulError as error:
        # Stored by a version that had other fields. It must not hold up the events of all tenants.
        extra = {"tenant": webhook.tenant, "webhook": webhook.name, "cause": error.text}
        log.error("the filter of a webhook is not valid: its events are not sent", extra=extra)
        return facts is None
    return facts is None or where is None or matches(where, facts)


@lru_cache(maxsize=1000)
def _parse_filter(text: str) -> Node | None:
    return parse(text, JOB_FIELDS)
