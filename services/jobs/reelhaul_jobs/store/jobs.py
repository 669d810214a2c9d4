"""Jobs in SQL: each change reads a row, applies a pure rule, and writes row, event and attempt."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    bindparam,
    func,
    select,
    tuple_,
)
from sqlalchemy.exc import IntegrityError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import transition as changes
from reelhaul_jobs.model.job import Attempt, Event, Job
from reelhaul_jobs.model.lists import Batch, CountQuery, Summary
from reelhaul_jobs.model.states import QueueStage, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import (
    BatchRule,
    ChangeRule,
    ExpansionRule,
    IdempotencyKey,
    LeaseRule,
    Page,
    Query,
    RateLimitKey,
)
from reelhaul_jobs.store import (
    batched_lease_updates,
    idempotency,
    insert,
    listing,
    rows,
    schedules,
    summary,
    update,
)
from reelhaul_jobs.store.dispatch_queries import READY, SITES_READY
from reelhaul_jobs.store.idempotency import RecordedResponse
from reelhaul_jobs.store.tables import HAS_PARENT, attempts, events, jobs, keys
from reelhaul_runtime.errors import NotFound, ReelhaulError, to_status
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.statements import Statement
from reelhaul_runtime.sql.writer import Outcome

T = TypeVar("T")

_MANY = select(jobs).where(jobs.c.id.in_(bindparam("jobs", expanding=True)))
_CHILDREN = Statement(
    select(jobs.c.state, func.count().label("jobs"))
    .where(jobs.c.parent == bindparam("job"), HAS_PARENT, jobs.c.delete_time.is_(None))
    .group_by(jobs.c.state)
)
_ATTEMPTS = Statement(
    select(attempts)
    .where(attempts.c.job == bindparam("job"), attempts.c.number < bindparam("below"))
    .order_by(attempts.c.number.desc())
    .limit(bindparam("most"))
)
_ATTEMPT = Statement(
    select(attempts).where(attempts.c.job == bindparam("job"), attempts.c.number == bindparam("number"))
)
_OF_EPOCH = Statement(
    select(attempts).where(attempts.c.job == bindparam("job"), attempts.c.epoch == bindparam("epoch"))
)
_EVENTS = Statement(
    select(events)
    .where(events.c.job == bindparam("job"), events.c.revision > bindparam("after"))
    .order_by(events.c.revision)
    .limit(bindparam("most"))
)
_REVISIONS = select(jobs.c.id, jobs.c.revision).where(
    jobs.c.id.in_(bindparam("jobs", expanding=True)), jobs.c.delete_time.is_(None)
)
_BEFORE = (
    select(jobs.c.id)
    .where(
        READY,
        jobs.c.tenant == bindparam("of_tenant"),
        jobs.c.site == bindparam("of_site"),
        tuple_(jobs.c.due, jobs.c.id) < tuple_(bindparam("due"), bindparam("id")),
    )
    .limit(bindparam("most"))
    .subquery()
)
_PLACE = Statement(select(func.count()).select_from(_BEFORE))

# Of more sites than this the place is an estimate, which it is anyway.
_SITES = 64


class SqlJobStore:
    """The JobStore of ports, over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: Sequence[Job], request: IdempotencyKey | None = None) -> Sequence[Job]:
        """See JobStore.add."""
        try:
            if request is None:
                await self._database.write_batched(_add_all, new)
                return new
            return await self._written(lambda connection: _add(connection, new, request))
        except ReelhaulError as error:
            if error.reason != ErrorReason.RESOURCE_EXISTS or not new[1:]:
                raise
            ids = [job.id for job in new]
            taken = await self._database.read(lambda c: _many(c, ids, deleted=True))
            raise _exists(taken[0].id if taken else ids[0]) from error

    async def add_batch(self, batch: Batch, request: IdempotencyKey | None = None) -> Batch:
        """See JobStore.add_batch."""
        return await self._written(lambda connection: _add_batch(connection, batch, request))

    async def find_by_idempotency_key(self, request: IdempotencyKey) -> Sequence[Job] | None:
        """See JobStore.earlier."""
        return await self._database.read(lambda connection: _earlier(connection, request))

    async def get(self, job_id: str) -> Job:
        """See JobStore.get."""
        return await self._database.read(lambda connection: listing.get_job(connection, job_id))

    async def get_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """See JobStore.get_many."""
        return await self._database.read(lambda connection: _many(connection, job_ids))

    async def list_page(self, query: Query) -> Page:
        """See JobStore.page."""
        return await self._database.scan(lambda connection: listing.list_page(connection, query))

    async def summarize(self, asked: CountQuery) -> Summary:
        """See JobStore.summary."""
        return await self._database.scan(lambda connection: summary.summary(connection, asked))

    async def change(
        self, job_id: str, rule: ChangeRule, request: IdempotencyKey | None = None
    ) -> Transition:
        """See JobStore.change."""
        return await self._written(lambda connection: _change(connection, job_id, rule, request))

    async def change_lease(
        self, job_id: str, key: RateLimitKey, rule: LeaseRule, now: datetime, *, counted: bool
    ) -> Transition:
        """See JobStore.change_at_site."""

        asked = batched_lease_updates.LeaseUpdate(job_id, key, rule, now, counted)
        done: Transition = await self._database.write_batched(batched_lease_updates.apply, asked)
        return done

    async def change_many(
        self, job_ids: Sequence[str], rule: BatchRule, request: IdempotencyKey | None = None
    ) -> Sequence[Transition]:
        """See JobStore.change_many."""
        return await self._written(lambda connection: _change_many(connection, job_ids, rule, request))

    async def expand(self, job_id: str, media_ids: Sequence[str], rule: ExpansionRule) -> Transition:
        """See JobStore.expand."""
        return await self._database.write(lambda connection: _expand(connection, job_id, media_ids, rule))

    async def count_children(self, job_id: str) -> Mapping[State, int]:
        """See JobStore.children."""
        found = await self._database.read(lambda connection: _CHILDREN.all(connection, {"job": job_id}))
        return {State(row["state"]): row["jobs"] for row in found}

    async def list_attempts(self, job_id: str, *, below: int | None, limit: int) -> Sequence[Attempt]:
        """See JobStore.attempts."""
        asked = {"job": job_id, "below": 2**31 - 1 if below is None else below, "most": limit}
        found = await self._database.read(lambda connection: _ATTEMPTS.all(connection, asked))
        return [rows.attempt_from_row(row) for row in found]

    async def get_attempt(self, job_id: str, number: int) -> Attempt:
        """See JobStore.attempt."""
        asked = {"job": job_id, "number": number}
        found = await self._database.read(lambda connection: _ATTEMPT.all(connection, asked))
        if not found:
            raise NotFound(f"jobs/{job_id}/attempts/{number}")
        return rows.attempt_from_row(found[0])

    async def find_attempt_by_epoch(self, job_id: str, epoch: int) -> Attempt | None:
        """See JobStore.attempt_of_epoch."""
        asked = {"job": job_id, "epoch": epoch}
        found = await self._database.read(lambda connection: _OF_EPOCH.all(connection, asked))
        return rows.attempt_from_row(found[0]) if found else None

    async def list_events(self, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
        """See JobStore.events."""
        asked = {"job": job_id, "after": after, "most": limit}
        found = await self._database.read(lambda connection: _EVENTS.all(connection, asked))
        return [rows.event_from_row(row) for row in found]

    async def get_revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """See JobStore.revisions."""
        asked = {"jobs": list(job_ids)}
        found = await self._database.read(lambda connection: connection.execute(_REVISIONS, asked).all())
        return {row.id: row.revision for row in found}

    async def get_queue_position(self, job: Job) -> int:
        """See JobStore.place."""
        return await self._database.read(lambda connection: _place(connection, job))

    async def _written(self, op: Callable[[Connection], T]) -> T:
        return await idempotency.write(self._database, op)

    async def get_or_create_key(self, name: str) -> bytes:
        """See JobStore.key."""
        fresh = {"name": name, "value": secrets.token_bytes(32)}
        return await self._database.write(lambda connection: _key(connection, fresh))


def _add(connection: Connection, new: Sequence[Job], request: IdempotencyKey | None) -> Sequence[Job]:
    if (answer := idempotency.find_response(connection, request)) is not None:
        return _answered(connection, answer)
    try:
        insert.insert(connection, new)
    except IntegrityError as error:
        # Behind this write's own savepoint; only the id is unique here.
        raise _exists(new[0].id) from error
    idempotency.record_response(connection, request, RecordedResponse([job.id for job in new]))
    return new


def _add_all(connection: Connection, asked: Sequence[Sequence[Job]]) -> Sequence[Outcome]:
    """Keep what several calls have asked for, if no id is taken."""
    try:
        insert.insert(connection, [job for new in asked for job in new])
    except IntegrityError as error:
        # Each is tried by itself then, behind a savepoint of its own.
        raise _exists(asked[0][0].id) from error
    return [Outcome()] * len(asked)


def _add_batch(connection: Connection, batch: Batch, request: IdempotencyKey | None) -> Batch:
    if (answer := idempotency.find_response(connection, request)) is not None:
        places = (place for place in count() if place not in answer.failed)
        at = dict(zip(answer.ids, places, strict=False))
        return Batch({at[job.id]: job for job in _answered(connection, answer)}, answer.failed)
    if not batch.jobs:
        return batch
    added = insert.insert_missing(connection, list(batch.jobs.values()))
    kept = {place: job for place, job in batch.jobs.items() if job.id in added}
    taken = {p: to_status(_exists(job.id)) for p, job in batch.jobs.items() if job.id not in added}
    failed = {**batch.failed, **taken}
    if kept:
        idempotency.record_response(
            connection, request, RecordedResponse([job.id for job in kept.values()], failed)
        )
    return Batch(kept, failed)


def _earlier(connection: Connection, request: IdempotencyKey) -> Sequence[Job] | None:
    answer = idempotency.find_response(connection, request)
    return None if answer is None else _answered(connection, answer)


def _answered(connection: Connection, answer: RecordedResponse) -> Sequence[Job]:
    """The jobs of an earlier answer, as they are. ``NotFound`` where all were deleted."""
    found = _many(connection, answer.ids)
    if answer.ids and not found:
        raise NotFound(f"jobs/{answer.ids[0]}")
    return found


def _exists(job_id: str) -> ReelhaulError:
    name = f"jobs/{job_id}"
    return ReelhaulError(ErrorReason.RESOURCE_EXISTS, f"{name} exists", metadata={"resource": name})


def _change(
    connection: Connection, job_id: str, rule: ChangeRule, request: IdempotencyKey | None
) -> Transition:
    job = _to_change(connection, job_id)
    if idempotency.find_response(connection, request) is not None:
        return changes.no_change(job)
    change = rule(job)
    idempotency.record_response(connection, request, RecordedResponse([job_id]))
    if change.changed:
        update.write(connection, [change])
    return change


def _to_change(connection: Connection, job_id: str) -> Job:
    found = update.select_for_update(connection, [job_id]).get(job_id)
    if found is None:
        raise NotFound(f"jobs/{job_id}")
    return found


def _expand(connection: Connection, job_id: str, media_ids: Sequence[str], rule: ExpansionRule) -> Transition:
    job = _to_change(connection, job_id)
    change = rule(job, schedules.list_seen_entries(connection, job, media_ids))
    if change.changed:
        update.write(connection, [change])
    insert.insert(connection, change.children)
    schedules.add_seen_entries(connection, job, change.seen_entries)
    return change


def _change_many(
    connection: Connection, job_ids: Sequence[str], rule: BatchRule, request: IdempotencyKey | None
) -> Sequence[Transition]:
    if (answer := idempotency.find_response(connection, request)) is not None:
        return [changes.no_change(job) for job in _answered(connection, answer)]
    present = update.select_for_update(connection, job_ids)
    asked = (rule(present[job_id]) for job_id in dict.fromkeys(job_ids) if job_id in present)
    found = [change for change in asked if change is not None]
    idempotency.record_response(connection, request, RecordedResponse([change.job.id for change in found]))
    if made := [change for change in found if change.changed]:
        update.write(connection, made)
    return found


def _many(connection: Connection, ids: Sequence[str], *, deleted: bool = False) -> list[Job]:
    """The jobs of *ids* that have a row, each once, in their order."""
    found = {row["id"]: rows.job_from_row(row) for row in connection.execute(_MANY, {"jobs": ids}).mappings()}
    present = [found[job_id] for job_id in dict.fromkeys(ids) if job_id in found]
    return present if deleted else [job for job in present if job.delete_time is None]


def _place(connection: Connection, job: Job) -> int:
    if job.queue_stage is not QueueStage.READY or job.due is None:
        return 1
    asked = {"of_tenant": job.tenant, "due": rows.to_micros(job.due), "id": job.id}
    sites = SITES_READY.column(connection, {"of_tenant": job.tenant, "after": "", "most": _SITES})
    before = 0
    for site in sites:
        left = {"of_site": site, "most": listing.COUNTED - 1 - before}
        before += _PLACE.column(connection, asked | left)[0]
    return before + 1


def _key(connection: Connection, fresh: dict[str, Any]) -> bytes:
    connection.execute(idempotency.insert_or_ignore(connection, keys), fresh)
    return bytes(connection.execute(select(keys.c.value).where(keys.c.name == fresh["name"])).scalar_one())
