"""Dispatcher: publishes ready jobs as work items, fairly between tenants and within all limits."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from reelhaul_jobs import metrics
from reelhaul_jobs.model import fair_scheduling, rate_limit
from reelhaul_jobs.model.fair_scheduling import FairOrder, InFlightCounts, ReadyJob, ServiceHistory
from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_jobs.ports.bus import JobBus
from reelhaul_jobs.ports.queue import Backlog, BacklogQuery, QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_runtime import failpoints

log = logging.getLogger(__name__)

# The number of drained items counts half as much after each such time.
_DRAIN_HALF_LIFE = timedelta(seconds=1)
# Where nothing could be published, tenants and sites that were not read are read after this time.
_UNREAD_DELAY = timedelta(seconds=1)
# More than the broker ever holds unclaimed.
_MAX_OUTSTANDING = 4096


def republish_delay(lease: timedelta) -> timedelta:
    """Return after how long the Reaper checks a published item that nobody claimed.

    By then JetStream has redelivered an item whose worker died.
    """
    return 2 * lease


class Dispatcher:
    """Keeps the broker's window of unclaimed work items full from the rows.

    A row is marked before its item is published, and by the leader only: so the rows alone say
    how many jobs of a site are in flight, and its limit holds. What a leader marked and could
    not publish any more, the next one publishes (``republish_outstanding``).
    """

    def __init__(
        self,
        queue: QueueStore,
        bus: JobBus,
        now: Clock,
        lease: timedelta,
        limits: SiteLimits | None = None,
        weights: Mapping[str, float] | None = None,
        *,
        leader: str | None = None,
        hub: EventHub | None = None,
    ) -> None:
        """*leader*: this replica's name in the leadership row; *hub*: asks for the next step."""
        self._queue = queue
        self._bus = bus
        self._now = now
        self._republish_delay = republish_delay(lease)
        self._limits = limits or SiteLimits()
        self._weights = weights or {}
        self._leader = leader
        self._hub = hub or EventHub()
        self._timer: asyncio.TimerHandle | None = None
        self._drained = 0.0
        self._drained_at = now()
        # The cursor: where there are more tenants or sites than one query lists, the next one
        # continues after these.
        self._after_tenant = ""
        self._after_sites: Mapping[str, str] = {}
        self._history = ServiceHistory()
        # Tenants that come last in the order, because none of their jobs could be published, and until when.
        self._deferred: set[str] = set()
        self._deferred_until = now()

    async def step(self) -> bool:
        """Publish what fits into the window; return whether more may fit soon."""
        now = self._now()
        # Until this step knows better: a place that becomes free meanwhile must not be missed.
        self._hub.dispatch_blocked = True
        query = self._query(now)
        backlog = await self._queue.get_backlog(query, now)
        if not backlog.room:
            return False
        unread = set(backlog.waiting) - set(backlog.tenants) - self._deferred
        selected = fair_scheduling.select_fairly(
            backlog.ready,
            backlog.room,
            in_flight=backlog.in_flight,
            free_slots={name: query.free_slots(site) for name, site in backlog.sites.items()},
            weights=self._weights,
            history=self._history,
            unread=unread,
        )
        ends_round = backlog.last_tenant <= self._after_tenant
        self._history.record(backlog.ready, selected, self._weights, unread=unread, ends_round=ends_round)
        self._defer_tenants(backlog, selected)
        has_unread = self._advance_cursor(backlog)
        # The room that these tenants leave is that of the others.
        room_for_others = bool(unread) and len(selected) < backlog.room
        if not selected:
            self._wake_later(backlog, now)
            self._hub.dispatch_blocked = bool(backlog.sites) or backlog.at_limit
            return has_unread or room_for_others
        stored = await self._publish(selected, now)
        self._drained += stored
        blocked = stored < len(selected) or bool(unread) or _may_have_more(query, backlog, len(selected))
        self._hub.dispatch_blocked = blocked or backlog.at_limit
        # A window that was half empty is soon empty again; otherwise the claims ask for the next step.
        half_empty = 2 * backlog.room > backlog.window
        return stored == len(selected) and (room_for_others or (blocked and half_empty))

    async def republish_outstanding(self) -> None:
        """Publish what is marked as published: the previous leader may not have done it.

        The broker drops what it has already, as a duplicate.
        """
        marked = await self._queue.list_published(_MAX_OUTSTANDING)
        stored = await self._bus.publish(marked, self._now())
        metrics.DISPATCHED.labels("again").inc(len(stored))
        if marked:
            log.info("took over the dispatch", extra={"published": len(marked), "stored": len(stored)})

    async def _publish(self, jobs: Sequence[ReadyJob], now: datetime) -> int:
        """Mark and publish *jobs*; return how many are stored. The others become ready again."""
        marked = await self._queue.mark_published(jobs, now + self._republish_delay, self._leader)
        failpoints.hit("jobs.dispatch.before_publish")
        stored = await self._bus.publish(marked, now)
        failpoints.hit("jobs.dispatch.after_publish")
        first = sum(job.attempt == 1 for job in stored)
        metrics.DISPATCHED.labels("first").inc(first)
        metrics.DISPATCHED.labels("again").inc(len(stored) - first)
        if len(stored) < len(marked):
            stored_ids = {job.id for job in stored}
            await self._queue.mark_ready([job for job in marked if job.id not in stored_ids])
        return len(stored)

    def _query(self, now: datetime) -> BacklogQuery:
        return BacklogQuery(
            window=partial(fair_scheduling.window_size, drain_rate=self._drain_rate(now)),
            free_slots=lambda site: rate_limit.free_slots(site, self._limits, now),
            order=partial(self._order, now),
            after_tenant=self._after_tenant,
            after_sites=self._after_sites,
        )

    def _order(self, now: datetime, waiting: Sequence[str], in_flight: InFlightCounts) -> Sequence[str]:
        """Return the *waiting* tenants, the next ones first; the deferred ones last."""
        if now >= self._deferred_until or self._deferred.issuperset(waiting):
            self._deferred.clear()
            self._deferred_until = now + _UNREAD_DELAY
        order = FairOrder.of(waiting, in_flight, self._weights, self._history)
        return sorted(waiting, key=lambda tenant: (tenant in self._deferred, order.rank(tenant)))

    def _defer_tenants(self, backlog: Backlog, selected: Sequence[ReadyJob]) -> None:
        """Let other tenants come before those of which nothing can be published, although there is room.

        Their sites are full, or they are at their own limits. Else they would be the next ones each time.
        """
        if len(selected) < backlog.room:
            self._deferred.update(set(backlog.tenants) - {job.tenant for job in selected})

    def _advance_cursor(self, backlog: Backlog) -> bool:
        """Continue after this backlog next time; return whether there is more that was not read yet."""
        was_at_start = not self._after_tenant and not self._after_sites
        self._after_tenant = backlog.last_tenant
        # Where each tenant's sites continue, until its next turn; those that were read to the end begin anew.
        kept = {tenant: site for tenant, site in self._after_sites.items() if tenant not in backlog.tenants}
        self._after_sites = kept | dict(backlog.last_sites)
        return was_at_start and bool(backlog.last_tenant or backlog.last_sites)

    def _drain_rate(self, now: datetime) -> float:
        """Return the items drained per second lately."""
        self._drained *= 0.5 ** (max(now - self._drained_at, timedelta(0)) / _DRAIN_HALF_LIFE)
        self._drained_at = now
        return self._drained

    def _wake_later(self, backlog: Backlog, now: datetime) -> None:
        """Ask for a step when the next site opens, and for one that reads what this one did not read."""
        times = [
            time
            for site in backlog.sites.values()
            if (time := rate_limit.next_opening(site, now)) is not None
        ]
        if self._timer is not None:
            self._timer.cancel()
        if backlog.last_tenant or backlog.last_sites or len(backlog.tenants) < len(backlog.waiting):
            times.append(now + _UNREAD_DELAY)
        if times:
            wait = (min(times) - now).total_seconds()
            self._timer = asyncio.get_running_loop().call_later(wait, self._hub.dispatch_wakeup.set)


def _may_have_more(query: BacklogQuery, backlog: Backlog, selected: int) -> bool:
    """Return whether jobs may be ready that were not among the *selected*."""
    if backlog.last_tenant or backlog.last_sites or selected >= backlog.room:
        return True
    by_site = Counter(job.site for jobs in backlog.ready.values() for job in jobs)
    tenant_cut = any(len(jobs) >= backlog.limit for jobs in backlog.ready.values())
    site_full = any(by_site[name] >= query.free_slots(site) for name, site in backlog.sites.items())
    return tenant_cut or site_full or selected < by_site.total()
