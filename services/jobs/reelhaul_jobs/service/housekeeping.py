"""Housekeeping loops: cancel the jobs of cancelled expansions, delete expired jobs and old records."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

from reelhaul_jobs.model import queue_transitions
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.model.webhook_delivery import RETENTION as WEBHOOK_RETENTION
from reelhaul_jobs.ports.audit import AuditStore
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.webhooks import WebhookDeliveryStore
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.watch.limits import EVENT_RETENTION
from reelhaul_runtime.errors import NotFound

_PARENTS = 20
_CHILDREN = 200
_EXPIRED = 100
_AUDIT_ENTRIES = 1000
_OLD_RECORDS = 5000

#: How long a repeated request_id returns the response of the first call.
REQUEST_RETENTION = timedelta(hours=24)

#: How long the rate limit of an unused site is kept.
RATE_LIMIT_RETENTION = timedelta(days=1)

#: How long the quota ledger keeps the use of each day.
USAGE_RETENTION = timedelta(days=35)

# A resume token expires by its age a little before its events are purged.
_EVENT_MARGIN = timedelta(hours=1)


class CascadeCanceller:
    """Cancels the jobs of expansions that were cancelled, until none of them is active."""

    def __init__(self, store: JobStore, queue: QueueStore, notifier: ChangeNotifier, now: Clock) -> None:
        self._store = store
        self._queue = queue
        self._notifier = notifier
        self._now = now

    async def step(self) -> bool:
        """Cancel some jobs of each such expansion; return whether more may be due at once."""
        parents = await self._queue.list_cascade_cancellations(_PARENTS)
        finished = [await self._cascade(parent) for parent in parents]
        return not all(finished) or len(parents) == _PARENTS

    async def _cascade(self, parent: Job) -> bool:
        """Cancel some jobs of *parent*; return whether none was left."""
        ids = await self._queue.list_active_children(parent.id, _CHILDREN)
        await asyncio.gather(*(self._cancel(job_id, parent) for job_id in ids))
        if not ids:
            # No more will be added: only a running expansion adds jobs.
            rule = partial(queue_transitions.complete_cascade, since=parent.cascade_time)
            await self._store.change(parent.id, rule)
        return not ids

    async def _cancel(self, job_id: str, parent: Job) -> None:
        def rule(job: Job) -> Transition:
            return queue_transitions.cancel_child(job, parent, self._now())

        try:
            transition = await self._store.change(job_id, rule)
        except NotFound:
            return
        await self._notifier.notify(transition)


class ExpiredJobDeleter:
    """Deletes expired jobs as their users could; ArtifactExpirySync then removes artifacts and rows."""

    def __init__(self, store: JobStore, queue: QueueStore, now: Clock) -> None:
        self._store = store
        self._queue = queue
        self._now = now

    async def step(self) -> bool:
        """Delete some expired jobs; return whether more may be due at once."""
        now = self._now()
        ids = await self._queue.list_expired(now, _EXPIRED)
        rule = partial(queue_transitions.expire, now=now)
        results = await asyncio.gather(
            *(self._store.change(job_id, rule) for job_id in ids), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, NotFound):
                raise result
        return len(ids) == _EXPIRED


class RetentionPurger:
    """Deletes old events, request ids and days of the quota ledger, and the rate limits of unused sites."""

    def __init__(self, queue: QueueStore, now: Clock) -> None:
        self._queue = queue
        self._now = now

    async def step(self) -> bool:
        """Delete some of what is old; return whether more may be due at once."""
        now = self._now()
        await self._queue.delete_idle_rate_limits(now - RATE_LIMIT_RETENTION)
        await self._queue.delete_old_usage(now - USAGE_RETENTION)
        return await self._queue.delete_old_records(
            now - EVENT_RETENTION - _EVENT_MARGIN, now - REQUEST_RETENTION, _OLD_RECORDS
        )


class WebhookEventPurger:
    """Deletes old events of webhooks, with their deliveries."""

    def __init__(self, store: WebhookDeliveryStore, now: Clock) -> None:
        self._store = store
        self._now = now

    async def step(self) -> bool:
        """Delete some of what is old; return whether more may be due at once."""
        before = self._now() - WEBHOOK_RETENTION
        return await self._store.delete_old_events(before, _OLD_RECORDS) == _OLD_RECORDS


class AuditPurger:
    """Deletes audit entries whose retention has ended."""

    def __init__(self, store: AuditStore, now: Clock, retention: timedelta) -> None:
        self._store = store
        self._now = now
        self._retention = retention

    async def step(self) -> bool:
        """Delete some entries; return whether more may be due at once."""
        return await self._store.purge(self._now() - self._retention, _AUDIT_ENTRIES) == _AUDIT_ENTRIES
