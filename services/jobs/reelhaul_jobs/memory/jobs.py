"""Jobs in a dict: the twin of the JobStore in SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count

from reelhaul_jobs.memory import pages, tallies
from reelhaul_jobs.memory.rows import Rows, exists, rank
from reelhaul_jobs.model import transition as changes
from reelhaul_jobs.model.job import Attempt, Event, Job
from reelhaul_jobs.model.lists import Batch, Range, Summary
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.states import QueueStage, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import (
    IdempotencyKey,
    Page,
    Query,
    Rule,
    RuleOfList,
    RuleOfMany,
    SiteKey,
    SiteRule,
)
from reelhaul_runtime.errors import NotFound, to_status


class MemoryJobStore:
    """The JobStore of ports, over *rows*."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def add(self, jobs: Sequence[Job], request: IdempotencyKey | None = None) -> Sequence[Job]:
        """See JobStore.add."""
        if request is not None and (earlier := self._rows.replayed(request)) is not None:
            return earlier
        for job in jobs:
            if job.id in self._rows.jobs:
                raise exists(job)
        for job in jobs:
            self._rows.jobs[job.id] = job
            self._rows.events[job.id].append(changes.event_of(job, None))
        if request is not None:
            self._rows.remember(request, [job.id for job in jobs])
        return jobs

    async def add_batch(self, batch: Batch, request: IdempotencyKey | None = None) -> Batch:
        """See JobStore.add_batch."""
        key = (request.tenant, request.method, request.id) if request else None
        if request is not None and key is not None and (earlier := self._rows.replayed(request)) is not None:
            failed = self._rows.failed.get(key, {})
            places = (place for place in count() if place not in failed)
            at = dict(zip(self._rows.requests[key][1], places, strict=False))
            return Batch({at[job.id]: job for job in earlier}, failed)
        kept = {place: job for place, job in batch.jobs.items() if job.id not in self._rows.jobs}
        taken = {p: to_status(exists(job)) for p, job in batch.jobs.items() if p not in kept}
        failed = {**batch.failed, **taken}
        if kept:
            await self.add(list(kept.values()), request)
            if key is not None:
                self._rows.failed[key] = failed
        return Batch(kept, failed)

    async def find_by_idempotency_key(self, request: IdempotencyKey) -> Sequence[Job] | None:
        """See JobStore.earlier."""
        return self._rows.replayed(request)

    async def get(self, job_id: str) -> Job:
        """See JobStore.get."""
        return self._rows.get(job_id)

    async def get_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """See JobStore.get_many."""
        return [self._rows.get(job_id) for job_id in dict.fromkeys(job_ids) if self._rows.is_there(job_id)]

    async def page(self, query: Query) -> Page:
        """See JobStore.page."""
        return pages.page(self._rows, query)

    async def change(self, job_id: str, rule: Rule, request: IdempotencyKey | None = None) -> Transition:
        """See JobStore.change."""
        if job_id not in self._rows.jobs:
            raise NotFound(f"jobs/{job_id}")
        job = self._rows.jobs[job_id]
        if request is not None and self._rows.replayed(request) is not None:
            return changes.no_change(job)
        change = rule(job)
        if request is not None:
            self._rows.remember(request, [job_id])
        if change.made:
            self._rows.write(change)
        return change

    async def change_at_site(
        self, job_id: str, key: SiteKey, rule: SiteRule, now: datetime, *, counted: bool
    ) -> Transition:
        """See JobStore.change_at_site."""

        def at_site(job: Job) -> Transition:
            site, egress = key(job)
            leased = sum(
                other.lane is QueueStage.LEASED and other.site == site for other in self._rows.jobs.values()
            )
            known = (site, egress) in self._rows.gates
            others = tuple(
                self._rows.gate(site, name) for name in sorted(self._rows.live(now) - {egress}) if known
            )
            return rule(
                job,
                RateLimitView(
                    gate=self._rows.gate(site, egress), leased=leased if counted else 0, others=others
                ),
            )

        change = await self.change(job_id, at_site)
        if change.gate is not None:
            key_of = change.gate.site, change.gate.egress
            self._rows.gates.pop(key_of, None)
            if not change.gate.plain:
                self._rows.gates[key_of] = change.gate
        return change

    async def summary(self, asked: Range) -> Summary:
        """See JobStore.summary."""
        return tallies.summary(self._rows, asked)

    async def change_many(
        self, job_ids: Sequence[str], rule: RuleOfMany, request: IdempotencyKey | None = None
    ) -> Sequence[Transition]:
        """See JobStore.change_many."""
        if request is not None and (earlier := self._rows.replayed(request)) is not None:
            return [changes.no_change(job) for job in earlier]
        present = [self._rows.jobs[job_id] for job_id in dict.fromkeys(job_ids) if job_id in self._rows.jobs]
        found = [change for job in present if (change := rule(job)) is not None]
        if request is not None:
            self._rows.remember(request, [change.job.id for change in found])
        for change in found:
            if change.made:
                self._rows.write(change)
        return found

    async def expand(self, job_id: str, media_ids: Sequence[str], rule: RuleOfList) -> Transition:
        """See JobStore.expand."""
        if job_id not in self._rows.jobs:
            raise NotFound(f"jobs/{job_id}")
        job = self._rows.jobs[job_id]
        remembered = self._rows.entries.get((job.tenant, job.schedule), set())
        change = rule(job, {key for key in remembered if key[1] in set(media_ids)})
        if change.made:
            self._rows.write(change)
        await self.add(change.children)
        if (job.tenant, job.schedule) in self._rows.entries:
            remembered |= set(change.noted)
        return change

    async def children(self, job_id: str) -> Mapping[State, int]:
        """See JobStore.children."""
        found = [job for job in self._rows.jobs.values() if job.parent == job_id and job.delete_time is None]
        return Counter(job.state for job in found)

    async def attempts(self, job_id: str, *, below: int | None, limit: int) -> Sequence[Attempt]:
        """See JobStore.attempts."""
        found = [attempt for (job, _), attempt in self._rows.attempts.items() if job == job_id]
        found = [attempt for attempt in found if below is None or attempt.number < below]
        return sorted(found, key=lambda attempt: -attempt.number)[:limit]

    async def attempt(self, job_id: str, number: int) -> Attempt:
        """See JobStore.attempt."""
        if (job_id, number) not in self._rows.attempts:
            raise NotFound(f"jobs/{job_id}/attempts/{number}")
        return self._rows.attempts[job_id, number]

    async def attempt_of_epoch(self, job_id: str, epoch: int) -> Attempt | None:
        """See JobStore.attempt_of_epoch."""
        return next((a for a in self._rows.attempts.values() if (a.job, a.epoch) == (job_id, epoch)), None)

    async def events(self, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
        """See JobStore.events."""
        return [event for event in self._rows.events[job_id] if event.revision > after][:limit]

    async def revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """See JobStore.revisions."""
        found = [self._rows.jobs[job_id] for job_id in job_ids if job_id in self._rows.jobs]
        return {job.id: job.revision for job in found if job.delete_time is None}

    async def queue_position(self, job: Job) -> int:
        """See JobStore.place."""
        if job.lane is not QueueStage.READY:
            return 1
        ready = [other for other in self._rows.jobs.values() if other.lane is QueueStage.READY]
        before = [other for other in ready if other.tenant == job.tenant and rank(other) < rank(job)]
        return len(before) + 1

    async def key(self, name: str) -> bytes:
        """See JobStore.key."""
        return self._rows.keys[name]
