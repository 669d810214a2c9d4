"""Jobs in SQL: each change reads a row, applies a pure rule, and writes row, event and attempt."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    Table,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs import pages, rows
from reelhaul_jobs.model import change as changes
from reelhaul_jobs.model.change import Change
from reelhaul_jobs.model.job import Attempt, Event, Job
from reelhaul_jobs.model.states import Lane
from reelhaul_jobs.ports import Page, Query, Request, Rule
from reelhaul_jobs.tables import attempts, events, jobs, keys, request_ids
from reelhaul_runtime.errors import NotFound, ReelhaulError
from reelhaul_runtime.sql.database import Database

T = TypeVar("T")

# The first run lost to a twin that is committed by then: a second run finds it.
_TWINS = 2

# Statements are made once: SQLAlchemy then finds their SQL by identity, not by building it anew.
_ONE = select(jobs).where(jobs.c.id == bindparam("job"))
_ONE_TO_CHANGE = _ONE.with_for_update()
_ADD_JOB = insert(jobs)
_ADD_EVENT = insert(events)
_ADD_ATTEMPT = insert(attempts)
_CHANGE_JOB = update(jobs).where(jobs.c.id == bindparam("job"))
_END_ATTEMPT = update(attempts).where(
    attempts.c.job == bindparam("of_job"), attempts.c.number == bindparam("of_number")
)
_REQUEST = select(request_ids.c.digest, request_ids.c.response).where(
    request_ids.c.tenant == bindparam("tenant"),
    request_ids.c.method == bindparam("method"),
    request_ids.c.id == bindparam("id"),
)
_ATTEMPTS = (
    select(attempts)
    .where(attempts.c.job == bindparam("job"), attempts.c.number < bindparam("below"))
    .order_by(attempts.c.number.desc())
    .limit(bindparam("most"))
)
_ATTEMPT = select(attempts).where(
    attempts.c.job == bindparam("job"), attempts.c.number == bindparam("number")
)
_OF_EPOCH = select(attempts).where(attempts.c.job == bindparam("job"), attempts.c.epoch == bindparam("epoch"))
_EVENTS = (
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
        # A literal: with a bound value neither database would see that the partial index fits.
        jobs.c.lane == literal_column(str(int(Lane.READY))),
        jobs.c.tenant == bindparam("tenant"),
        tuple_(jobs.c.due, jobs.c.id) < tuple_(bindparam("due"), bindparam("id")),
    )
    .limit(pages.COUNTED - 1)
    .subquery()
)
_PLACE = select(func.count()).select_from(_BEFORE)


class _TwinCommitted(ReelhaulError):
    """The same request, sent twice, was committed by another connection first."""


class SqlJobStore:
    """The JobStore of ports, over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: Sequence[Job], request: Request | None = None) -> Sequence[Job]:
        """See JobStore.add."""
        return await self._written(lambda connection: _add(connection, new, request))

    async def earlier(self, request: Request) -> Sequence[Job] | None:
        """See JobStore.earlier."""
        return await self._database.read(lambda connection: _replayed(connection, request))

    async def get(self, job_id: str) -> Job:
        """See JobStore.get."""
        return await self._database.read(lambda connection: _get(connection, job_id))

    async def page(self, query: Query) -> Page:
        """See JobStore.page."""
        return await self._database.read(lambda connection: pages.page(connection, query))

    async def change(self, job_id: str, rule: Rule, request: Request | None = None) -> Change:
        """See JobStore.change."""
        return await self._written(lambda connection: _change(connection, job_id, rule, request))

    async def attempts(self, job_id: str, *, below: int | None, limit: int) -> Sequence[Attempt]:
        """See JobStore.attempts."""
        asked = {"job": job_id, "below": 2**31 - 1 if below is None else below, "most": limit}
        found = await self._database.read(lambda connection: _all(connection, _ATTEMPTS, asked))
        return [rows.attempt_of(row) for row in found]

    async def attempt(self, job_id: str, number: int) -> Attempt:
        """See JobStore.attempt."""
        asked = {"job": job_id, "number": number}
        found = await self._database.read(lambda connection: _all(connection, _ATTEMPT, asked))
        if not found:
            raise NotFound(f"jobs/{job_id}/attempts/{number}")
        return rows.attempt_of(found[0])

    async def attempt_of_epoch(self, job_id: str, epoch: int) -> Attempt | None:
        """See JobStore.attempt_of_epoch."""
        asked = {"job": job_id, "epoch": epoch}
        found = await self._database.read(lambda connection: _all(connection, _OF_EPOCH, asked))
        return rows.attempt_of(found[0]) if found else None

    async def events(self, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
        """See JobStore.events."""
        asked = {"job": job_id, "after": after, "most": limit}
        found = await self._database.read(lambda connection: _all(connection, _EVENTS, asked))
        return [rows.event_of(row) for row in found]

    async def revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """See JobStore.revisions."""
        asked = {"jobs": list(job_ids)}
        found = await self._database.read(lambda connection: _all(connection, _REVISIONS, asked))
        return {row["id"]: row["revision"] for row in found}

    async def place(self, job: Job) -> int:
        """See JobStore.place."""
        if job.lane is not Lane.READY or job.due is None:
            return 1
        asked = {"tenant": job.tenant, "due": rows.micros(job.due), "id": job.id}
        before = await self._database.read(lambda connection: connection.execute(_PLACE, asked).scalar())
        return int(before or 0) + 1

    async def _written(self, op: Callable[[Connection], T]) -> T:
        """What *op* returns, committed. One that lost a race against its own twin runs again."""
        for _ in range(_TWINS):
            with suppress(_TwinCommitted):
                return await self._database.write(op)
        return await self._database.write(op)

    async def key(self, name: str) -> bytes:
        """See JobStore.key."""
        fresh = {"name": name, "value": secrets.token_bytes(32)}
        return await self._database.write(lambda connection: _key(connection, fresh))


def _add(connection: Connection, new: Sequence[Job], request: Request | None) -> Sequence[Job]:
    if request is not None and (earlier := _replayed(connection, request)) is not None:
        return earlier
    try:
        connection.execute(_ADD_JOB, [rows.row_of(job) for job in new])
    except IntegrityError as error:
        # Behind this write's own savepoint; only the id is unique here.
        raise ReelhaulError(
            ErrorReason.RESOURCE_EXISTS,
            f"{new[0].name} exists",
            metadata={"resource": new[0].name},
        ) from error
    born = [rows.event_row_of(job.id, changes.event_of(job, None)) for job in new]
    connection.execute(_ADD_EVENT, born)
    if request is not None:
        _remember(connection, request, [job.id for job in new])
    return new


def _get(connection: Connection, job_id: str) -> Job:
    found = connection.execute(_ONE, {"job": job_id}).mappings().first()
    if found is None or found["delete_time"] is not None:
        raise NotFound(f"jobs/{job_id}")
    return rows.job_of(found)


def _change(connection: Connection, job_id: str, rule: Rule, request: Request | None) -> Change:
    found = connection.execute(_ONE_TO_CHANGE, {"job": job_id}).mappings().first()
    if found is None:
        raise NotFound(f"jobs/{job_id}")
    job = rows.job_of(found)
    if request is not None and _replayed(connection, request) is not None:
        return changes.none(job)
    change = rule(job)
    if request is not None:
        _remember(connection, request, [job_id])
    if change.made:
        _write(connection, change)
    return change


def _write(connection: Connection, change: Change) -> None:
    job, before = change.job, change.before
    connection.execute(_CHANGE_JOB, {"job": job.id, **rows.changing_row_of(job)})
    if event := change.event:
        connection.execute(_ADD_EVENT, rows.event_row_of(job.id, event))
    if ending := change.ended:
        ended = {
            "of_job": job.id,
            "of_number": before.attempt,
            "state": int(ending.state),
            "error": ending.error.SerializeToString() if ending.error else None,
            "http_statuses": json.dumps(dict(ending.http_statuses)),
            "end_time": rows.micros(job.update_time),
            "downloaded_bytes": job.progress.downloaded_bytes if job.progress else 0,
            "finish_revision": job.revision if ending.finished else None,
        }
        connection.execute(_END_ATTEMPT, ended)
    if began := change.began:
        connection.execute(_ADD_ATTEMPT, rows.attempt_row_of(began))


def _replayed(connection: Connection, request: Request) -> list[Job] | None:
    """What the same request made before; None if it is new."""
    asked = {"tenant": request.tenant, "method": request.method, "id": request.id}
    found = connection.execute(_REQUEST, asked).first()
    if found is None:
        return None
    if bytes(found.digest) != request.digest:
        raise ReelhaulError(
            ErrorReason.REQUEST_ID_REUSED,
            f"request_id {request.id} was used with another request",
            metadata={"requestId": request.id},
        )
    return [_get(connection, job_id) for job_id in json.loads(found.response)]


def _remember(connection: Connection, request: Request, ids: list[str]) -> None:
    record = {
        "tenant": request.tenant,
        "method": request.method,
        "id": request.id,
        "digest": request.digest,
        "response": json.dumps(ids),
        "time": rows.micros(request.time),
    }
    added = connection.execute(insert_new(connection, request_ids).returning(request_ids.c.id), record)
    if added.first() is None:
        # Another replica committed the same request since this one looked: look again.
        raise _TwinCommitted(ErrorReason.REQUEST_IN_PROGRESS, f"request_id {request.id} is being worked on")


def _key(connection: Connection, fresh: dict[str, Any]) -> bytes:
    connection.execute(insert_new(connection, keys), fresh)
    return bytes(connection.execute(select(keys.c.value).where(keys.c.name == fresh["name"])).scalar_one())


def insert_new(connection: Connection, table: Table) -> Any:
    """An INSERT into *table* that leaves a row of the same key as it is."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def _all(connection: Connection, statement: Any, asked: dict[str, Any]) -> list[Any]:
    return list(connection.execute(statement, asked).mappings())
