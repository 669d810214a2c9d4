"""The same jobs as the loops look at them: the twin of the QueueStore in SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from reelhaul_jobs.memory.rows import Rows, rank, ready_of
from reelhaul_jobs.model.fair_scheduling import InFlightCounts, Ready
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import WORKER_GONE
from reelhaul_jobs.model.sites import SiteNow
from reelhaul_jobs.model.states import QueueStage, State
from reelhaul_jobs.ports.queue import Backlog, BacklogQuery


class MemoryQueueStore:
    """The QueueStore of ports, over *rows*."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def backlog(self, look: BacklogQuery, now: datetime) -> Backlog:
        """See QueueStore.backlog."""
        waiting = [job for job in sorted(self._rows.jobs.values(), key=rank) if job.lane is QueueStage.READY]
        sites = {job.site: await self.site(job.site, now) for job in waiting}
        room = {name: look.room(site) for name, site in sites.items()}
        ready: dict[str, list[Ready]] = defaultdict(list)
        for job in waiting:
            if room[job.site] > 0 and len(ready[job.tenant]) < look.limit:
                ready[job.tenant].append(ready_of(job))
        by_tenant: dict[str, int] = defaultdict(int)
        at_site: dict[tuple[str, str], int] = defaultdict(int)
        for job in self._rows.jobs.values():
            if job.lane in (QueueStage.PUBLISHED, QueueStage.LEASED):
                by_tenant[job.tenant] += 1
                at_site[job.tenant, job.site] += 1
        published = await self.count([QueueStage.PUBLISHED])
        held = InFlightCounts(dict(by_tenant), dict(at_site))
        found = {tenant: jobs for tenant, jobs in ready.items() if jobs}
        return Backlog(found, held, sites, published, await self.slots(now))

    async def mark_published(
        self, jobs: Sequence[Ready], until: datetime, leader: str | None
    ) -> Sequence[Ready]:
        """See QueueStore.take."""
        if leader is not None and self._rows.leaders.get("dispatcher", ("",))[0] != leader:
            return []
        taken = []
        for told in jobs:
            job = self._rows.jobs[told.id]
            if job.lane is QueueStage.READY:
                self._rows.jobs[job.id] = replace(job, lane=QueueStage.PUBLISHED, due=until)
                taken.append(replace(told, attempt=job.attempt))
        return taken

    async def mark_ready(self, jobs: Sequence[Ready]) -> None:
        """See QueueStore.put_back."""
        for told in jobs:
            job = self._rows.jobs[told.id]
            if job.lane is QueueStage.PUBLISHED and job.attempt == told.attempt:
                self._rows.jobs[job.id] = replace(job, lane=QueueStage.READY, due=told.due)

    async def outstanding(self, limit: int) -> Sequence[Ready]:
        """See QueueStore.outstanding."""
        return [ready_of(job) for job in self._rows.jobs.values() if job.lane is QueueStage.PUBLISHED][:limit]

    async def site(self, site: str, now: datetime) -> SiteNow:
        """See QueueStore.site."""
        here = [job.lane for job in self._rows.jobs.values() if job.site == site]
        gates = tuple(self._rows.gate(site, egress) for egress in sorted(self._rows.live(now) or {""}))
        return SiteNow(
            site=site,
            published=here.count(QueueStage.PUBLISHED),
            leased=here.count(QueueStage.LEASED),
            gates=gates,
        )

    async def due(self, lane: QueueStage, before: datetime, limit: int) -> Sequence[str]:
        """See QueueStore.due."""
        found = [
            (job.due, job.id) for job in self._rows.jobs.values() if job.lane is lane and job.due is not None
        ]
        return [job_id for due, job_id in sorted(found) if due <= before][:limit]

    async def count(self, lanes: Sequence[QueueStage]) -> int:
        """See QueueStore.count."""
        return sum(job.lane in lanes for job in self._rows.jobs.values())

    async def record_worker_heartbeat(
        self, worker: str, slots: int, now: datetime, egresses: Sequence[str] = ("",)
    ) -> None:
        """See QueueStore.seen."""
        self._rows.workers[worker] = slots, now
        self._rows.egresses |= dict.fromkeys(egresses, now)

    async def slots(self, now: datetime) -> int:
        """See QueueStore.slots."""
        return sum(slots for slots, seen in self._rows.workers.values() if seen > now - WORKER_GONE)

    async def list_expiry_pending(self, now: datetime, limit: int) -> Sequence[Job]:
        """See QueueStore.unconfirmed."""
        return [j for j in self._rows.jobs.values() if j.confirm_time is not None and j.confirm_time <= now][
            :limit
        ]

    async def list_cascade_cancellations(self, limit: int) -> Sequence[Job]:
        """See QueueStore.cascading."""
        found = [
            (job.cascade_time, job.id) for job in self._rows.jobs.values() if job.cascade_time is not None
        ]
        return [self._rows.jobs[job_id] for _, job_id in sorted(found)[:limit]]

    async def list_active_children(self, parent: str, limit: int) -> Sequence[str]:
        """See QueueStore.living."""
        found = [job for job in self._rows.jobs.values() if job.parent == parent and job.end_time is None]
        return [job.id for job in found if job.state is not State.CANCELLING][:limit]

    async def expired(self, now: datetime, limit: int) -> Sequence[str]:
        """See QueueStore.expired."""
        found = [
            (job.expire_time, job.id)
            for job in self._rows.jobs.values()
            if job.end_time is not None and job.delete_time is None and job.expire_time is not None
        ]
        return [job_id for expire_time, job_id in sorted(found) if expire_time <= now][:limit]

    async def mark_expiry_confirmed(self, job_id: str, again: datetime | None) -> None:
        """See QueueStore.confirmed."""
        if job_id in self._rows.jobs:
            self._rows.jobs[job_id] = replace(self._rows.jobs[job_id], confirm_time=again)

    async def purge(self, job_id: str) -> None:
        """See QueueStore.purge."""
        self._rows.jobs.pop(job_id, None)
        self._rows.events.pop(job_id, None)
        self._rows.attempts = {key: kept for key, kept in self._rows.attempts.items() if key[0] != job_id}

    async def delete_old_records(self, events_before: datetime, requests_before: datetime) -> None:
        """See QueueStore.forget."""
        for job_id, events in self._rows.events.items():
            self._rows.events[job_id] = [event for event in events if event.time >= events_before]
        kept = {key: kept for key, kept in self._rows.requests.items() if kept[0].time >= requests_before}
        self._rows.requests = kept

    async def forget_gates(self, before: datetime) -> None:
        """See QueueStore.forget_gates."""
        self._rows.gates = {
            key: gate
            for key, gate in self._rows.gates.items()
            if max(gate.next_start or before, gate.parked_until or before) > before
        }

    async def acquire_leadership(self, loop: str, holder: str, now: datetime, lasting: timedelta) -> bool:
        """See QueueStore.lead."""
        present, until = self._rows.leaders.get(loop, (holder, now))
        if present != holder and until > now:
            return False
        self._rows.leaders[loop] = holder, now + lasting
        return True

    async def release_leadership(self, loop: str, holder: str) -> None:
        """See QueueStore.resign."""
        if self._rows.leaders.get(loop, ("",))[0] == holder:
            del self._rows.leaders[loop]
