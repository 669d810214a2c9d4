"""The JobStore in SQL: each change reads a row, applies a pure rule, and writes row, event and attempt."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any, TypeVar, cast

from google.rpc import status_pb2
from sqlalchemy import Connection, bindparam, func, or_, select, tuple_
from sqlalchemy.exc import IntegrityError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs import metrics
from reelhaul_jobs.model import playlist_expansion, transition
from reelhaul_jobs.model.job import Attempt, Event, Job
from reelhaul_jobs.model.lists import Batch, CountQuery, Summary
from reelhaul_jobs.model.playlist_expansion import MAX_LIVE_PER_TENANT
from reelhaul_jobs.model.states import Kind, QueueStage, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import (
    BatchRule,
    ChangeRule,
    ExpansionRule,
    FindKept,
    IdempotencyKey,
    KeptJob,
    LeaseRule,
    Page,
    Query,
    RateLimitKey,
    find_nothing,
)
from reelhaul_jobs.store import (
    batched_lease_updates,
    idempotency,
    insert,
    listing,
    rows,
    rows_by_id,
    schedules,
    summary,
    update,
)
from reelhaul_jobs.store.dispatch_queries import READY, READY_SITES
from reelhaul_jobs.store.idempotency import RecordedResponse
from reelhaul_jobs.store.quotas import QuotaLedger, admit_all
from reelhaul_jobs.store.tables import HAS_PARENT, IS_LIVE_EXPANSION, attempts, events, jobs, keys
from reelhaul_runtime.errors import NotFound, QuotaExceeded, ReelhaulError, to_status
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.statements import Statement
from reelhaul_runtime.sql.writer import Outcome, after_commit

T = TypeVar("T")

_CHILDREN = Statement(
    select(jobs.c.state, func.count().label("jobs"))
    .where(jobs.c.parent == bindparam("job"), HAS_PARENT, jobs.c.delete_time.is_(None))
    .group_by(jobs.c.state)
)
_LEASED_CHILDREN = Statement(
    select(jobs)
    .where(
        jobs.c.parent == bindparam("job"),
        HAS_PARENT,
        jobs.c.delete_time.is_(None),
        or_(jobs.c.state == bindparam("running"), jobs.c.state == bindparam("cancelling")),
    )
    .order_by(jobs.c.position)
    .limit(bindparam("most"))
)
_CHILDREN_BYTES = Statement(
    select(func.coalesce(func.sum(attempts.c.downloaded_bytes), 0).label("received"))
    .select_from(jobs.join(attempts, attempts.c.job == jobs.c.id))
    .where(
        jobs.c.parent == bindparam("job"),
        HAS_PARENT,
        jobs.c.delete_time.is_(None),
        attempts.c.end_time.is_not(None),
    )
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
_ATTEMPT_BY_EPOCH = Statement(
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
_READY_BEFORE = (
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
# One row if the tenant has more than *most* live expansions.
_EXPANSION_ABOVE_LIMIT = Statement(
    select(jobs.c.id)
    .where(IS_LIVE_EXPANSION, jobs.c.tenant == bindparam("of_tenant"))
    .limit(1)
    .offset(bindparam("most"))
)
_COUNT_READY_BEFORE = Statement(select(func.count()).select_from(_READY_BEFORE))

# For a tenant with jobs at more sites, the queue position is an estimate, which it is anyway.
_MAX_SITES = 64


class SqlJobStore:
    """The JobStore of one database."""

    def __init__(self, database: Database, ledger: QuotaLedger | None = None) -> None:
        """*ledger*: None counts no jobs against quotas."""
        self._database = database
        self._ledger = ledger = ledger or QuotaLedger()
        # One object each, as the writer groups by it.
        self._add_all = partial(_add_all, ledger)
        self._apply_lease_updates = partial(batched_lease_updates.apply, ledger)

    async def add(self, new: Sequence[Job], request: IdempotencyKey | None = None) -> Sequence[Job]:
        try:
            # Expansions are written alone: those above the limit of their tenant fail without the others.
            if request is None and not any(job.kind is Kind.EXPANSION for job in new):
                with metrics.recording_quota_refusals():
                    added: Sequence[Job] = await self._database.write_batched(self._add_all, new)
                return added
            return await self._write(lambda connection: _add(connection, self._ledger, new, request))
        except ReelhaulError as error:
            if error.reason != ErrorReason.RESOURCE_EXISTS or not new[1:]:
                raise
            ids = [job.id for job in new]
            taken = await self._database.read(lambda connection: _get_many(connection, ids, deleted=True))
            raise _already_exists(taken[0].id if taken else ids[0]) from error

    async def add_batch(self, batch: Batch, request: IdempotencyKey | None = None) -> Batch:
        return await self._write(lambda connection: _add_batch(connection, self._ledger, batch, request))

    async def find_by_idempotency_key(self, request: IdempotencyKey) -> Sequence[Job] | None:
        return await self._database.read(lambda connection: _find_recorded_jobs(connection, request))

    async def get(self, job_id: str) -> Job:
        job = await self.get_or_kept(job_id, find_nothing)
        assert isinstance(job, Job)
        return job

    async def get_or_kept(self, job_id: str, find_kept: FindKept) -> Job | bytes:
        job: Job | bytes | None = await self._database.read_batched(listing.get_jobs, (job_id, find_kept))
        if job is None:
            raise NotFound(f"jobs/{job_id}")
        return job

    async def get_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        return await self._database.read(lambda connection: _get_many(connection, job_ids))

    async def list_page(self, query: Query) -> Page[Job]:
        return cast("Page[Job]", await self.list_page_or_kept(query, find_nothing))

    async def list_page_or_kept(self, query: Query, find_kept: FindKept) -> Page[Job | KeptJob]:
        # Lists are polled: many ask for the same page.
        return await self._database.scan_shared(
            (query, find_kept), lambda connection: listing.list_page(connection, query, find_kept)
        )

    async def summarize(self, query: CountQuery) -> Summary:
        return await self._database.scan(lambda connection: summary.summarize(connection, query))

    async def change(
        self, job_id: str, rule: ChangeRule, request: IdempotencyKey | None = None
    ) -> Transition:
        return await self._write(lambda connection: _change(connection, self._ledger, job_id, rule, request))

    async def change_lease(
        self, job_id: str, key: RateLimitKey, rule: LeaseRule, now: datetime, *, counted: bool
    ) -> Transition:
        lease_update = batched_lease_updates.LeaseUpdate(job_id, key, rule, now, counted)
        change: Transition = await self._database.write_batched(self._apply_lease_updates, lease_update)
        return change

    async def change_many(
        self, job_ids: Sequence[str], rule: BatchRule, request: IdempotencyKey | None = None
    ) -> Sequence[Transition]:
        return await self._write(
            lambda connection: _change_many(connection, self._ledger, job_ids, rule, request)
        )

    async def expand(self, job_id: str, entry_keys: Sequence[str], rule: ExpansionRule) -> Transition:
        return await self._database.write(
            lambda connection: _expand(connection, self._ledger, job_id, entry_keys, rule)
        )

    async def count_children(self, job_id: str) -> Mapping[State, int]:
        found = await self._database.read(lambda connection: _CHILDREN.all(connection, {"job": job_id}))
        return {State(row["state"]): row["jobs"] for row in found}

    async def list_leased_children(self, job_id: str, limit: int) -> Sequence[Job]:
        states = {"running": int(State.RUNNING), "cancelling": int(State.CANCELLING)}
        values = {"job": job_id, "most": limit, **states}
        found = await self._database.read(lambda connection: _LEASED_CHILDREN.all(connection, values))
        return [rows.job_from_row(row) for row in found]

    async def sum_children_bytes(self, job_id: str) -> int:
        row = await self._database.read(lambda connection: _CHILDREN_BYTES.first(connection, {"job": job_id}))
        return int(row["received"]) if row is not None else 0

    async def list_attempts(self, job_id: str, *, below: int | None, limit: int) -> Sequence[Attempt]:
        values = {"job": job_id, "below": 2**31 - 1 if below is None else below, "most": limit}
        found = await self._database.read(lambda connection: _ATTEMPTS.all(connection, values))
        return [rows.attempt_from_row(row) for row in found]

    async def get_attempt(self, job_id: str, number: int) -> Attempt:
        values = {"job": job_id, "number": number}
        row = await self._database.read(lambda connection: _ATTEMPT.first(connection, values))
        if row is None:
            raise NotFound(f"jobs/{job_id}/attempts/{number}")
        return rows.attempt_from_row(row)

    async def find_attempt_by_epoch(self, job_id: str, epoch: int) -> Attempt | None:
        values = {"job": job_id, "epoch": epoch}
        row = await self._database.read(lambda connection: _ATTEMPT_BY_EPOCH.first(connection, values))
        return None if row is None else rows.attempt_from_row(row)

    async def list_events(self, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
        values = {"job": job_id, "after": after, "most": limit}
        found = await self._database.read(lambda connection: _EVENTS.all(connection, values))
        return [rows.event_from_row(row) for row in found]

    async def get_revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        values = {"jobs": list(job_ids)}
        found = await self._database.read(lambda connection: connection.execute(_REVISIONS, values).all())
        return {row.id: row.revision for row in found}

    async def get_queue_position(self, job: Job) -> int:
        return await self._database.read(lambda connection: _queue_position(connection, job))

    async def get_or_create_key(self, name: str) -> bytes:
        new = {"name": name, "value": secrets.token_bytes(32)}
        return await self._database.write(lambda connection: _get_or_create_key(connection, new))

    async def _write(self, op: Callable[[Connection], T]) -> T:
        return await idempotency.write(self._database, op)


def _add(
    connection: Connection, ledger: QuotaLedger, new: Sequence[Job], request: IdempotencyKey | None
) -> Sequence[Job]:
    if (response := idempotency.find_response(connection, request)) is not None:
        return _get_recorded_jobs(connection, response)
    new = ledger.admit(connection, new)
    try:
        insert.insert(connection, new)
    except IntegrityError as error:
        # The savepoint of this write undoes it; only the id is unique here.
        raise _already_exists(new[0].id) from error
    _check_expansions(connection, new)
    idempotency.record_response(connection, request, RecordedResponse([job.id for job in new]))
    return new


def _check_expansions(connection: Connection, new: Sequence[Job]) -> None:
    """Raise QUOTA_EXCEEDED if *new*, just written, take a tenant above its limit of expansions."""
    for tenant in {job.tenant for job in new if job.kind is Kind.EXPANSION}:
        values = {"of_tenant": tenant, "most": MAX_LIVE_PER_TENANT}
        if _EXPANSION_ABOVE_LIMIT.first(connection, values) is not None:
            text = f"a tenant has at most {MAX_LIVE_PER_TENANT} playlist jobs that have not ended"
            raise QuotaExceeded(
                "live_expansions", text, subject=f"tenants/{tenant}", limit=MAX_LIVE_PER_TENANT
            )


def _resumed(changes: Sequence[Transition]) -> list[Job]:
    """Return the jobs of *changes* that had ended and are live again."""
    return [change.job for change in changes if change.before.end_time and not change.job.end_time]


def _add_all(
    ledger: QuotaLedger, connection: Connection, calls: Sequence[Sequence[Job]]
) -> Sequence[Outcome]:
    """Insert the jobs of several calls at once, unless an id is taken."""
    outcomes = list[Outcome]()
    with ledger.open_for(connection, [job for new in calls for job in new]) as book:
        for new in calls:
            try:
                outcomes.append(Outcome(admit_all(book, new)))
            except QuotaExceeded as error:
                outcomes.append(Outcome(error=error))
    try:
        insert.insert(connection, [job for outcome in outcomes if not outcome.error for job in outcome.value])
    except IntegrityError as error:
        # The writer then runs each call alone, behind a savepoint.
        raise _already_exists(calls[0][0].id) from error
    return outcomes


def _add_batch(
    connection: Connection, ledger: QuotaLedger, batch: Batch, request: IdempotencyKey | None
) -> Batch:
    if (response := idempotency.find_response(connection, request)) is not None:
        positions = (position for position in count() if position not in response.failed)
        by_id = dict(zip(response.ids, positions, strict=False))
        recorded = _get_recorded_jobs(connection, response)
        return Batch({by_id[job.id]: job for job in recorded}, response.failed)
    if not batch.jobs:
        return batch
    added, failed = _add_missing(connection, ledger, batch.jobs)
    failed = {**batch.failed, **failed}
    if added:
        response = RecordedResponse([job.id for job in added.values()], failed)
        idempotency.record_response(connection, request, response)
    return Batch(added, failed)


def _add_missing(
    connection: Connection, ledger: QuotaLedger, jobs_by_position: Mapping[int, Job]
) -> tuple[dict[int, Job], dict[int, status_pb2.Status]]:
    """Insert the jobs that quotas admit and whose ids are free; return them, and why the others failed."""
    admitted, failed = dict[int, Job](), dict[int, status_pb2.Status]()
    with ledger.open_for(connection, list(jobs_by_position.values())) as book:
        for position, job in jobs_by_position.items():
            try:
                admitted[position] = book.admit(job) if book else job
            except QuotaExceeded as error:
                failed[position] = to_status(error)
                after_commit(connection, partial(metrics.record_quota_refusal, error))
        inserted = insert.insert_missing(connection, list(admitted.values()))
        for position, job in list(admitted.items()):
            if job.id not in inserted:
                failed[position] = to_status(_already_exists(job.id))
                del admitted[position]
                if book:
                    book.withdraw(job)
    return admitted, failed


def _find_recorded_jobs(connection: Connection, request: IdempotencyKey) -> Sequence[Job] | None:
    response = idempotency.find_response(connection, request)
    return None if response is None else _get_recorded_jobs(connection, response)


def _get_recorded_jobs(connection: Connection, response: RecordedResponse) -> Sequence[Job]:
    """Return the jobs of a recorded response as they are now. Raises ``NotFound`` if all are deleted."""
    found = _get_many(connection, response.ids)
    if response.ids and not found:
        raise NotFound(f"jobs/{response.ids[0]}")
    return found


def _already_exists(job_id: str) -> ReelhaulError:
    name = f"jobs/{job_id}"
    return ReelhaulError(ErrorReason.RESOURCE_EXISTS, f"{name} exists", metadata={"resource": name})


def _change(
    connection: Connection,
    ledger: QuotaLedger,
    job_id: str,
    rule: ChangeRule,
    request: IdempotencyKey | None,
) -> Transition:
    job = _get_for_update(connection, job_id)
    if idempotency.find_response(connection, request) is not None:
        return transition.no_change(job)
    change = rule(job)
    idempotency.record_response(connection, request, RecordedResponse([job_id]))
    if change.changed:
        (change,) = ledger.settle(connection, [change])
        update.write(connection, [change])
        _check_expansions(connection, _resumed([change]))
    return change


def _get_for_update(connection: Connection, job_id: str) -> Job:
    job = update.select_for_update(connection, [job_id]).get(job_id)
    if job is None:
        raise NotFound(f"jobs/{job_id}")
    return job


def _expand(
    connection: Connection,
    ledger: QuotaLedger,
    job_id: str,
    entry_keys: Sequence[str],
    rule: ExpansionRule,
) -> Transition:
    job = _get_for_update(connection, job_id)
    change = rule(job, schedules.list_seen_entries(connection, job, entry_keys))
    if change.children:
        change = _admit_children(connection, ledger, change)
    if change.changed:
        (change,) = ledger.settle(connection, [change])
        update.write(connection, [change])
    insert.insert(connection, change.children)
    schedules.add_seen_entries(connection, job, change.seen_entries)
    return change


def _admit_children(connection: Connection, ledger: QuotaLedger, change: Transition) -> Transition:
    """Return *change* with the reservations of its children; it ends the expansion where no more is left."""
    admitted = list[Job]()
    with ledger.open_for(connection, change.children) as book:
        for child in change.children:
            try:
                admitted.append(book.admit(child) if book else child)
            except QuotaExceeded as error:
                return playlist_expansion.stop(change, admitted, to_status(error), child.create_time)
    return replace(change, children=tuple(admitted))


def _change_many(
    connection: Connection,
    ledger: QuotaLedger,
    job_ids: Sequence[str],
    rule: BatchRule,
    request: IdempotencyKey | None,
) -> Sequence[Transition]:
    if (response := idempotency.find_response(connection, request)) is not None:
        return [transition.no_change(job) for job in _get_recorded_jobs(connection, response)]
    found = update.select_for_update(connection, job_ids)
    results = (rule(found[job_id]) for job_id in dict.fromkeys(job_ids) if job_id in found)
    changes = ledger.settle(connection, [change for change in results if change is not None])
    idempotency.record_response(connection, request, RecordedResponse([change.job.id for change in changes]))
    if changed := [change for change in changes if change.changed]:
        update.write(connection, changed)
        _check_expansions(connection, _resumed(changed))
    return changes


def _get_many(connection: Connection, ids: Sequence[str], *, deleted: bool = False) -> list[Job]:
    """Return those of the jobs that exist, each once, in the order given; with *deleted* ones if asked."""
    by_id = {job_id: rows.job_from_row(row) for job_id, row in rows_by_id.read(connection, ids).items()}
    found = [by_id[job_id] for job_id in dict.fromkeys(ids) if job_id in by_id]
    return found if deleted else [job for job in found if job.delete_time is None]


def _queue_position(connection: Connection, job: Job) -> int:
    if job.queue_stage is not QueueStage.READY or job.due is None:
        return 1
    values = {"of_tenant": job.tenant, "due": rows.to_micros(job.due), "id": job.id}
    sites = READY_SITES.column(connection, {"of_tenant": job.tenant, "after": "", "most": _MAX_SITES})
    before = 0
    for site in sites:
        bounds = {"of_site": site, "most": listing.MAX_COUNT - 1 - before}
        before += _COUNT_READY_BEFORE.column(connection, values | bounds)[0]
    return before + 1


def _get_or_create_key(connection: Connection, new: dict[str, Any]) -> bytes:
    connection.execute(idempotency.insert_or_ignore(connection, keys), new)
    return bytes(connection.execute(select(keys.c.value).where(keys.c.name == new["name"])).scalar_one())
