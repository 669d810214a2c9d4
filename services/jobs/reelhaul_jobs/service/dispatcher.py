"""The dispatcher: keeps the broker's window full with the fairest choice of ready jobs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from reelhaul_jobs.model import fair_scheduling, rate_limit
from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_jobs.ports.bus import JobBus
from reelhaul_jobs.ports.queue import Backlog, BacklogQuery, QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_runtime import failpoints

log = logging.getLogger(__name__)


def republish_delay(lease: timedelta) -> timedelta:
    """After how long a published item that nobody claimed is looked after again.

    By then JetStream has put an item whose worker died to another one.
    """
    return 2 * lease


# What was drained counts half as much after each such while.
_HALF_LIFE = timedelta(seconds=1)
_CEILING = 4096


class Dispatcher:
    """Puts ready jobs to the workers.

    A row is marked before its item is published, by the leader only: so what is in hand at a
    site is what its rows say, and never more than it bears. What a leader marked and could not
    publish any more, the next one publishes (``taken_over``).
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
        """*leader* is this replica's name in the lease; *hub* rings for the next step."""
        self._queue = queue
        self._bus = bus
        self._now = now
        self._look_again = republish_delay(lease)
        self._limits = limits or SiteLimits()
        self._weights = weights or {}
        self._leader = leader
        self._hub = hub or EventHub()
        self._timer: asyncio.TimerHandle | None = None
        self._window = fair_scheduling.window_size(0, 0)
        self._drained = 0.0
        self._drained_at = now()
        # Where there are more tenants or sites than one look takes in, they take turns.
        self._after_tenant = ""
        self._after_sites: Mapping[str, str] = {}

    async def step(self) -> bool:
        """Publish what fits. Whether there may be more to do soon."""
        now = self._now()
        # Until this step knows better: what makes room meanwhile is not to be missed.
        self._hub.dispatch_blocked = True
        look = self._look(now)
        backlog = await self._queue.get_backlog(look, now)
        self._window = fair_scheduling.window_size(backlog.slots, self._rate(now))
        rooms = {name: rate_limit.free_slots(site, self._limits, now) for name, site in backlog.sites.items()}
        room = self._window - backlog.published
        picks = fair_scheduling.select_fairly(
            backlog.ready, room, in_flight=backlog.in_flight, free_slots=rooms, weights=self._weights
        )
        if not picks:
            self._wake_when_open(backlog, now)
            self._hub.dispatch_blocked = bool(backlog.sites)
            return self.advance_cursor(backlog) and room > 0
        self.advance_cursor(backlog)
        stored = await self._published(picks, now)
        self._drained += stored
        self._hub.dispatch_blocked = stored < len(picks) or _left_behind(look, backlog, len(picks), room)
        # A window that was half empty is soon empty again; else what is claimed from it asks for the next.
        return self._hub.dispatch_blocked and stored == len(picks) and 2 * backlog.published < self._window

    async def taken_over(self) -> None:
        """Publish again what is marked as published: the leader before may not have come to it.

        What is there already, the broker drops as a duplicate.
        """
        marked = await self._queue.list_published(_CEILING)
        stored = await self._bus.publish(marked, self._now())
        if marked:
            log.info("took over the dispatch", extra={"published": len(marked), "stored": len(stored)})

    async def _published(self, picks: Sequence[fair_scheduling.ReadyJob], now: datetime) -> int:
        """How many of *picks* are marked and stored; those that are not stored are ready again."""
        taken = await self._queue.mark_published(picks, now + self._look_again, self._leader)
        failpoints.hit("jobs.dispatch.before_publish")
        stored = await self._bus.publish(taken, now)
        failpoints.hit("jobs.dispatch.after_publish")
        if len(stored) < len(taken):
            there = {job.id for job in stored}
            await self._queue.mark_ready([job for job in taken if job.id not in there])
        return len(stored)

    def _look(self, now: datetime) -> BacklogQuery:
        return BacklogQuery(
            limit=self._window,
            free_slots=lambda site: rate_limit.free_slots(site, self._limits, now),
            after_tenant=self._after_tenant,
            after_sites=self._after_sites,
        )

    def advance_cursor(self, backlog: Backlog) -> bool:
        """Look behind this backlog next time. Whether there is something behind it not seen yet."""
        new_round = not self._after_tenant and not self._after_sites
        self._after_tenant, self._after_sites = backlog.last_tenant, backlog.last_sites
        return new_round and bool(backlog.last_tenant or backlog.last_sites)

    def _rate(self, now: datetime) -> float:
        """Items drained a second, lately."""
        self._drained *= 0.5 ** (max(now - self._drained_at, timedelta(0)) / _HALF_LIFE)
        self._drained_at = now
        return self._drained

    def _wake_when_open(self, backlog: Backlog, now: datetime) -> None:
        times = [
            time
            for site in backlog.sites.values()
            if (time := rate_limit.next_opening(site, now)) is not None
        ]
        if self._timer is not None:
            self._timer.cancel()
        if times:
            wait = (min(times) - now).total_seconds()
            self._timer = asyncio.get_running_loop().call_later(wait, self._hub.dispatch.set)


def _left_behind(look: BacklogQuery, backlog: Backlog, picked: int, room: int) -> bool:
    """Whether jobs may be ready that were not among the *picked*."""
    if backlog.last_tenant or backlog.last_sites or picked >= room:
        return True
    seen = Counter(job.site for jobs in backlog.ready.values() for job in jobs)
    cut = any(len(jobs) >= look.limit for jobs in backlog.ready.values())
    full = any(seen[name] >= look.free_slots(site) for name, site in backlog.sites.items())
    return cut or full or picked < seen.total()
