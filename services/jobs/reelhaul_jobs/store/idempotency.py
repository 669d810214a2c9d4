"""What each request_id was answered with: stored with its effect, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.rpc import status_pb2
from sqlalchemy import Connection, Table, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.tables import request_ids
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.statements import Statement

T = TypeVar("T")

# The first run lost to a twin that is committed by then: a second run finds it.
_TWINS = 2

_REQUEST = Statement(
    select(request_ids.c.digest, request_ids.c.response, request_ids.c.failed).where(
        request_ids.c.tenant == bindparam("tenant"),
        request_ids.c.method == bindparam("method"),
        request_ids.c.id == bindparam("id"),
    )
)


class ConcurrentDuplicate(ReelhaulError):
    """The same request, sent twice, was committed by another connection first."""


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """Ids of the jobs that a request made or changed; of a batch in part, why the others failed."""

    ids: Sequence[str]
    failed: Mapping[int, status_pb2.Status] = field(default_factory=dict)


def recorded_response(connection: Connection, request: IdempotencyKey | None) -> RecordedResponse | None:
    """What the same request was answered before; None if it is new. REQUEST_ID_REUSED."""
    if request is None:
        return None
    asked = {"tenant": request.tenant, "method": request.method, "id": request.id}
    found = _REQUEST.first(connection, asked)
    if found is None:
        return None
    if bytes(found["digest"]) != request.digest:
        raise ReelhaulError(
            ErrorReason.REQUEST_ID_REUSED,
            f"request_id {request.id} was used with another request",
            metadata={"requestId": request.id},
        )
    kept = job_service_pb2.BatchCreateJobsResponse.FromString(found["failed"] or b"")
    return RecordedResponse(json.loads(found["response"]), dict(kept.failed_requests))


def record_response(connection: Connection, request: IdempotencyKey | None, answer: RecordedResponse) -> None:
    """Keep *answer* for the next time that *request* comes. TwinCommitted: run again."""
    if request is None:
        return
    kept = job_service_pb2.BatchCreateJobsResponse(failed_requests=answer.failed)
    record = {
        "tenant": request.tenant,
        "method": request.method,
        "id": request.id,
        "digest": request.digest,
        "response": json.dumps(list(answer.ids)),
        "failed": kept.SerializeToString() if answer.failed else None,
        "time": rows.to_micros(request.time),
    }
    added = connection.execute(insert_or_ignore(connection, request_ids).returning(request_ids.c.id), record)
    if added.first() is None:
        # Another replica committed the same request since this one looked: look again.
        raise ConcurrentDuplicate(
            ErrorReason.REQUEST_IN_PROGRESS, f"request_id {request.id} is being worked on"
        )


async def write(database: Database, op: Callable[[Connection], T]) -> T:
    """What *op* returns, committed. One that lost a race against its own twin runs again."""
    for _ in range(_TWINS):
        with suppress(ConcurrentDuplicate):
            return await database.write(op)
    return await database.write(op)


def insert_or_ignore(connection: Connection, table: Table) -> Any:
    """An INSERT into *table* that leaves a row of the same key as it is."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()
