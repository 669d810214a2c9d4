"""Jobs in a dict, a bus in lists: for tests, demos and laptops. Nothing survives the process."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count

from google.rpc import status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.filters.fields import facts_of
from reelhaul_jobs.filters.holding import holds
from reelhaul_jobs.model import change as changes
from reelhaul_jobs.model.change import Change
from reelhaul_jobs.model.gates import WORKER_GONE, Gate
from reelhaul_jobs.model.job import Attempt, Event, Job
from reelhaul_jobs.model.lists import Batch, Range, Summary, Tally
from reelhaul_jobs.model.passages import Passage
from reelhaul_jobs.model.picking import Held, Ready
from reelhaul_jobs.model.sites import SiteNow
from reelhaul_jobs.model.states import Lane, State
from reelhaul_jobs.ports import (
    Backlog,
    Look,
    Move,
    Notice,
    Page,
    Query,
    Request,
    Rule,
    RuleOfList,
    RuleOfMany,
    SiteKey,
    SiteRule,
)
from reelhaul_runtime.errors import NotFound, ReelhaulError, to_status


def _asked(job: Job, query: Query) -> bool:
    return query.where is None or holds(query.where, facts_of(job))


class MemoryStore:
    """The twin of both stores: JobStore and QueueStore."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._requests: dict[tuple[str, str, str], tuple[Request, list[str]]] = {}
        self._failed: dict[tuple[str, str, str], Mapping[int, status_pb2.Status]] = {}
        #: Extractor and id of the entries that each schedule has seen, by tenant and id.
        self.entries: dict[tuple[str, str], set[tuple[str, str]]] = {}
        self._workers: dict[str, tuple[int, datetime]] = {}
        self._leaders: dict[str, tuple[str, datetime]] = {}
        self._egresses: dict[str, datetime] = {}
        self._gates: dict[tuple[str, str], Gate] = {}
        self._keys: dict[str, bytes] = defaultdict(lambda: secrets.token_bytes(32))

    async def add(self, jobs: Sequence[Job], request: Request | None = None) -> Sequence[Job]:
        """See JobStore.add."""
        if request is not None and (earlier := self._replayed(request)) is not None:
            return earlier
        for job in jobs:
            if job.id in self._jobs:
                raise _exists(job)
        for job in jobs:
            self._jobs[job.id] = job
            self._events[job.id].append(changes.event_of(job, None))
        if request is not None:
            self._requests[request.tenant, request.method, request.id] = request, [job.id for job in jobs]
        return jobs

    async def add_batch(self, batch: Batch, request: Request | None = None) -> Batch:
        """See JobStore.add_batch."""
        key = (request.tenant, request.method, request.id) if request else None
        if request is not None and key is not None and (earlier := self._replayed(request)) is not None:
            failed = self._failed.get(key, {})
            places = (place for place in count() if place not in failed)
            at = dict(zip(self._requests[key][1], places, strict=False))
            return Batch({at[job.id]: job for job in earlier}, failed)
        kept = {place: job for place, job in batch.jobs.items() if job.id not in self._jobs}
        taken = {p: to_status(_exists(job)) for p, job in batch.jobs.items() if p not in kept}
        failed = {**batch.failed, **taken}
        if kept:
            await self.add(list(kept.values()), request)
            if key is not None:
                self._failed[key] = failed
        return Batch(kept, failed)

    async def earlier(self, request: Request) -> Sequence[Job] | None:
        """See JobStore.earlier."""
        return self._replayed(request)

    async def get(self, job_id: str) -> Job:
        """See JobStore.get."""
        return self._get(job_id)

    async def get_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """See JobStore.get_many."""
        return [self._get(job_id) for job_id in dict.fromkeys(job_ids) if self._is_there(job_id)]

    async def page(self, query: Query) -> Page:
        """See JobStore.page."""
        found = [
            job
            for job in self._jobs.values()
            if query.tenant in (None, job.tenant) and job.delete_time is None and _asked(job, query)
        ]
        total = min(len(found), 10_000) if query.total is None else query.total
        found.sort(key=query.order.of, reverse=query.descending)
        if query.after is not None:
            after, place = query.after, query.order.of
            found = [job for job in found if (place(job) < after if query.descending else place(job) > after)]
        found = found[query.skip :]
        return Page(found[: query.limit], len(found) > query.limit, total)

    async def change(self, job_id: str, rule: Rule, request: Request | None = None) -> Change:
        """See JobStore.change."""
        if job_id not in self._jobs:
            raise NotFound(f"jobs/{job_id}")
        job = self._jobs[job_id]
        if request is not None and self._replayed(request) is not None:
            return changes.none(job)
        change = rule(job)
        if request is not None:
            self._requests[request.tenant, request.method, request.id] = request, [job_id]
        if change.made:
            self._write(change)
        return change

    async def change_at_site(
        self, job_id: str, key: SiteKey, rule: SiteRule, now: datetime, *, counted: bool
    ) -> Change:
        """See JobStore.change_at_site."""

        def at_site(job: Job) -> Change:
            site, egress = key(job)
            leased = sum(other.lane is Lane.LEASED and other.site == site for other in self._jobs.values())
            known = (site, egress) in self._gates
            others = tuple(self._gate(site, name) for name in self._live(now) - {egress} if known)
            return rule(
                job, Passage(gate=self._gate(site, egress), leased=leased if counted else 0, others=others)
            )

        change = await self.change(job_id, at_site)
        if change.gate is not None:
            key_of = change.gate.site, change.gate.egress
            self._gates.pop(key_of, None)
            if not change.gate.plain:
                self._gates[key_of] = change.gate
        return change

    async def summary(self, asked: Range) -> Summary:
        """See JobStore.summary."""
        found = [job for job in self._jobs.values() if _in_range(job, asked)]
        if asked.step is None:
            return Summary(self._tally(found), {})
        buckets: dict[int, list[Job]] = defaultdict(list)
        for job in found:
            buckets[(job.create_time - asked.start) // asked.step].append(job)
        series = {number: self._tally(jobs) for number, jobs in buckets.items()}
        return Summary(self._tally(found), series)

    async def change_many(
        self, job_ids: Sequence[str], rule: RuleOfMany, request: Request | None = None
    ) -> Sequence[Change]:
        """See JobStore.change_many."""
        if request is not None and (earlier := self._replayed(request)) is not None:
            return [changes.none(job) for job in earlier]
        present = [self._jobs[job_id] for job_id in dict.fromkeys(job_ids) if job_id in self._jobs]
        found = [change for job in present if (change := rule(job)) is not None]
        if request is not None:
            key = request.tenant, request.method, request.id
            self._requests[key] = request, [change.job.id for change in found]
        for change in found:
            if change.made:
                self._write(change)
        return found

    async def expand(self, job_id: str, media_ids: Sequence[str], rule: RuleOfList) -> Change:
        """See JobStore.expand."""
        if job_id not in self._jobs:
            raise NotFound(f"jobs/{job_id}")
        job = self._jobs[job_id]
        remembered = self.entries.get((job.tenant, job.schedule), set())
        change = rule(job, {key for key in remembered if key[1] in set(media_ids)})
        if change.made:
            self._write(change)
        await self.add(change.children)
        if (job.tenant, job.schedule) in self.entries:
            remembered |= set(change.noted)
        return change

    async def children(self, job_id: str) -> Mapping[State, int]:
        """See JobStore.children."""
        found = [job for job in self._jobs.values() if job.parent == job_id and job.delete_time is None]
        return Counter(job.state for job in found)

    async def attempts(self, job_id: str, *, below: int | None, limit: int) -> Sequence[Attempt]:
        """See JobStore.attempts."""
        found = [attempt for (job, _), attempt in self._attempts.items() if job == job_id]
        found = [attempt for attempt in found if below is None or attempt.number < below]
        return sorted(found, key=lambda attempt: -attempt.number)[:limit]

    async def attempt(self, job_id: str, number: int) -> Attempt:
        """See JobStore.attempt."""
        if (job_id, number) not in self._attempts:
            raise NotFound(f"jobs/{job_id}/attempts/{number}")
        return self._attempts[job_id, number]

    async def attempt_of_epoch(self, job_id: str, epoch: int) -> Attempt | None:
        """See JobStore.attempt_of_epoch."""
        return next((a for a in self._attempts.values() if (a.job, a.epoch) == (job_id, epoch)), None)

    async def events(self, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
        """See JobStore.events."""
        return [event for event in self._events[job_id] if event.revision > after][:limit]

    async def revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """See JobStore.revisions."""
        found = [self._jobs[job_id] for job_id in job_ids if job_id in self._jobs]
        return {job.id: job.revision for job in found if job.delete_time is None}

    async def place(self, job: Job) -> int:
        """See JobStore.place."""
        if job.lane is not Lane.READY:
            return 1
        ready = [other for other in self._jobs.values() if other.lane is Lane.READY]
        before = [other for other in ready if other.tenant == job.tenant and _rank(other) < _rank(job)]
        return len(before) + 1

    async def key(self, name: str) -> bytes:
        """See JobStore.key."""
        return self._keys[name]

    async def moves(
        self, after: Move, limit: int, *, tenant: str | None = None, among: Sequence[str] | None = None
    ) -> Sequence[Move]:
        """See MoveStore.moves."""
        found = [
            Move(event.time, job.id, event.revision, event.old_state)
            for job in self._jobs.values()
            if tenant in (None, job.tenant) and (among is None or job.id in among)
            for event in self._events[job.id]
        ]
        return sorted(move for move in found if move > after)[:limit]

    async def as_they_are(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """See MoveStore.as_they_are."""
        return [self._jobs[job_id] for job_id in job_ids if job_id in self._jobs]

    async def backlog(self, look: Look, now: datetime) -> Backlog:
        """See QueueStore.backlog."""
        waiting = [job for job in sorted(self._jobs.values(), key=_rank) if job.lane is Lane.READY]
        sites = {job.site: await self.site(job.site, now) for job in waiting}
        room = {name: look.room(site) for name, site in sites.items()}
        ready: dict[str, list[Ready]] = defaultdict(list)
        for job in waiting:
            if room[job.site] > 0 and len(ready[job.tenant]) < look.limit:
                ready[job.tenant].append(_ready(job))
        by_tenant: dict[str, int] = defaultdict(int)
        at_site: dict[tuple[str, str], int] = defaultdict(int)
        for job in self._jobs.values():
            if job.lane in (Lane.PUBLISHED, Lane.LEASED):
                by_tenant[job.tenant] += 1
                at_site[job.tenant, job.site] += 1
        published = await self.count([Lane.PUBLISHED])
        held = Held(dict(by_tenant), dict(at_site))
        found = {tenant: jobs for tenant, jobs in ready.items() if jobs}
        return Backlog(found, held, sites, published, await self.slots(now))

    async def take(self, jobs: Sequence[Ready], until: datetime, leader: str | None) -> Sequence[Ready]:
        """See QueueStore.take."""
        if leader is not None and self._leaders.get("dispatcher", ("",))[0] != leader:
            return []
        taken = []
        for told in jobs:
            job = self._jobs[told.id]
            if job.lane is Lane.READY:
                self._jobs[job.id] = replace(job, lane=Lane.PUBLISHED, due=until)
                taken.append(replace(told, attempt=job.attempt))
        return taken

    async def put_back(self, jobs: Sequence[Ready]) -> None:
        """See QueueStore.put_back."""
        for told in jobs:
            job = self._jobs[told.id]
            if job.lane is Lane.PUBLISHED and job.attempt == told.attempt:
                self._jobs[job.id] = replace(job, lane=Lane.READY, due=told.due)

    async def outstanding(self, limit: int) -> Sequence[Ready]:
        """See QueueStore.outstanding."""
        return [_ready(job) for job in self._jobs.values() if job.lane is Lane.PUBLISHED][:limit]

    async def site(self, site: str, now: datetime) -> SiteNow:
        """See QueueStore.site."""
        here = [job.lane for job in self._jobs.values() if job.site == site]
        gates = tuple(self._gate(site, egress) for egress in sorted(self._live(now) or {""}))
        return SiteNow(
            site=site,
            published=here.count(Lane.PUBLISHED),
            leased=here.count(Lane.LEASED),
            gates=gates,
        )

    def _live(self, now: datetime) -> set[str]:
        return {name for name, seen in self._egresses.items() if seen > now - WORKER_GONE}

    def _gate(self, site: str, egress: str) -> Gate:
        return self._gates.get((site, egress), Gate(site=site, egress=egress))

    async def due(self, lane: Lane, before: datetime, limit: int) -> Sequence[str]:
        """See QueueStore.due."""
        found = [(job.due, job.id) for job in self._jobs.values() if job.lane is lane and job.due is not None]
        return [job_id for due, job_id in sorted(found) if due <= before][:limit]

    async def count(self, lanes: Sequence[Lane]) -> int:
        """See QueueStore.count."""
        return sum(job.lane in lanes for job in self._jobs.values())

    async def seen(self, worker: str, slots: int, now: datetime, egresses: Sequence[str] = ("",)) -> None:
        """See QueueStore.seen."""
        self._workers[worker] = slots, now
        self._egresses |= dict.fromkeys(egresses, now)

    async def slots(self, now: datetime) -> int:
        """See QueueStore.slots."""
        return sum(slots for slots, seen in self._workers.values() if seen > now - WORKER_GONE)

    async def unconfirmed(self, now: datetime, limit: int) -> Sequence[Job]:
        """See QueueStore.unconfirmed."""
        return [j for j in self._jobs.values() if j.confirm_time is not None and j.confirm_time <= now][
            :limit
        ]

    async def cascading(self, limit: int) -> Sequence[Job]:
        """See QueueStore.cascading."""
        found = [(job.cascade_time, job.id) for job in self._jobs.values() if job.cascade_time is not None]
        return [self._jobs[job_id] for _, job_id in sorted(found)[:limit]]

    async def living(self, parent: str, limit: int) -> Sequence[str]:
        """See QueueStore.living."""
        found = [job for job in self._jobs.values() if job.parent == parent and job.end_time is None]
        return [job.id for job in found if job.state is not State.CANCELLING][:limit]

    async def expired(self, now: datetime, limit: int) -> Sequence[str]:
        """See QueueStore.expired."""
        found = [
            (job.expire_time, job.id)
            for job in self._jobs.values()
            if job.end_time is not None and job.delete_time is None and job.expire_time is not None
        ]
        return [job_id for expire_time, job_id in sorted(found) if expire_time <= now][:limit]

    async def confirmed(self, job_id: str, again: datetime | None) -> None:
        """See QueueStore.confirmed."""
        if job_id in self._jobs:
            self._jobs[job_id] = replace(self._jobs[job_id], confirm_time=again)

    async def purge(self, job_id: str) -> None:
        """See QueueStore.purge."""
        self._jobs.pop(job_id, None)
        self._events.pop(job_id, None)
        self._attempts = {key: kept for key, kept in self._attempts.items() if key[0] != job_id}

    async def forget(self, events_before: datetime, requests_before: datetime) -> None:
        """See QueueStore.forget."""
        for job_id, events in self._events.items():
            self._events[job_id] = [event for event in events if event.time >= events_before]
        kept = {key: kept for key, kept in self._requests.items() if kept[0].time >= requests_before}
        self._requests = kept

    async def forget_gates(self, before: datetime) -> None:
        """See QueueStore.forget_gates."""
        self._gates = {
            key: gate
            for key, gate in self._gates.items()
            if max(gate.next_start or before, gate.parked_until or before) > before
        }

    async def lead(self, loop: str, holder: str, now: datetime, lasting: timedelta) -> bool:
        """See QueueStore.lead."""
        present, until = self._leaders.get(loop, (holder, now))
        if present != holder and until > now:
            return False
        self._leaders[loop] = holder, now + lasting
        return True

    async def resign(self, loop: str, holder: str) -> None:
        """See QueueStore.resign."""
        if self._leaders.get(loop, ("",))[0] == holder:
            del self._leaders[loop]

    def _get(self, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None or job.delete_time is not None:
            raise NotFound(f"jobs/{job_id}")
        return job

    def lives(self, tenant: str, schedule: str) -> bool:
        """Whether a job of that schedule has not ended."""
        found = (job for job in self._jobs.values() if (job.tenant, job.schedule) == (tenant, schedule))
        return any(job.end_time is None for job in found)

    def remember(self, request: Request, ids: list[str]) -> None:
        """Keep what *request* was answered with."""
        self._requests[request.tenant, request.method, request.id] = request, ids

    def answered(self, request: Request) -> list[str] | None:
        """Ids of what the same request was answered with before. REQUEST_ID_REUSED."""
        earlier = self._requests.get((request.tenant, request.method, request.id))
        if earlier is None:
            return None
        if earlier[0].digest != request.digest:
            raise ReelhaulError(
                ErrorReason.REQUEST_ID_REUSED,
                f"request_id {request.id} was used with another request",
                metadata={"requestId": request.id},
            )
        return earlier[1]

    def _replayed(self, request: Request) -> list[Job] | None:
        ids = self.answered(request)
        if ids is None:
            return None
        found = [self._get(job_id) for job_id in ids if self._is_there(job_id)]
        if ids and not found:
            raise NotFound(f"jobs/{ids[0]}")
        return found

    def _is_there(self, job_id: str) -> bool:
        return job_id in self._jobs and self._jobs[job_id].delete_time is None

    def _tally(self, jobs: Sequence[Job]) -> Tally:
        tally = Tally()
        for job in jobs:
            tally.states[job.state] = tally.states.get(job.state, 0) + 1
            if job.state is State.FAILED:
                reason = str(facts_of(job)["error.reason"])
                tally.errors[reason] = tally.errors.get(reason, 0) + 1
        ids = {job.id for job in jobs}
        tally.downloaded_bytes = sum(a.downloaded_bytes for a in self._attempts.values() if a.job in ids)
        ended = [(job.end_time, job.create_time) for job in jobs if job.state is State.SUCCEEDED]
        spent = sorted(end - begun for end, begun in ended if end is not None)
        if spent:
            tally.latency_p50 = spent[(len(spent) * 50 + 99) // 100 - 1]
            tally.latency_p95 = spent[(len(spent) * 95 + 99) // 100 - 1]
        return tally

    def _write(self, change: Change) -> None:
        job = change.job
        self._jobs[job.id] = job
        if event := change.event:
            self._events[job.id].append(event)
        if ending := change.ended:
            key = job.id, change.before.attempt
            self._attempts[key] = replace(
                self._attempts[key],
                state=ending.state,
                error=ending.error,
                http_statuses=dict(ending.http_statuses),
                end_time=job.update_time,
                downloaded_bytes=job.progress.downloaded_bytes if job.progress else 0,
                finish_revision=job.revision if ending.finished else None,
            )
        if began := change.began:
            self._attempts[job.id, began.number] = began


@dataclass
class MemoryBus:
    """A JobBus that keeps what it is told; ``away`` makes it refuse."""

    items: list[Ready] = field(default_factory=list)
    changes: list[Job] = field(default_factory=list)
    stops: list[Job] = field(default_factory=list)
    notices: dict[str, Notice] = field(default_factory=dict)
    #: The next ``ready`` says that WORK was made anew.
    fresh: bool = False
    away: bool = False

    async def ready(self) -> bool:
        """See JobBus.ready."""
        fresh, self.fresh = self.fresh, False
        return fresh

    async def publish(self, jobs: Sequence[Ready], now: datetime) -> Sequence[Ready]:
        """See JobBus.publish."""
        if self.away:
            return []
        self.items.extend(jobs)
        return jobs

    async def waiting(self) -> int:
        """See JobBus.waiting."""
        return len(self.items)

    async def changed(self, job: Job) -> None:
        """See JobBus.changed."""
        self.changes.append(job)

    async def stop(self, job: Job) -> None:
        """See JobBus.stop."""
        self.stops.append(job)

    async def progress(self, job_id: str) -> Notice | None:
        """See JobBus.progress."""
        return self.notices.get(job_id)


def _in_range(job: Job, asked: Range) -> bool:
    theirs = asked.tenant in (None, job.tenant) and job.delete_time is None
    held = asked.where is None or holds(asked.where, facts_of(job))
    return theirs and held and asked.start <= job.create_time < asked.end


def _exists(job: Job) -> ReelhaulError:
    return ReelhaulError(ErrorReason.RESOURCE_EXISTS, f"{job.name} exists", metadata={"resource": job.name})


def _rank(job: Job) -> tuple[datetime, str]:
    return job.due or job.create_time, job.id


def _ready(job: Job) -> Ready:
    return Ready(job.id, job.attempt, job.tenant, job.priority, job.traceparent, job.site, job.due)
