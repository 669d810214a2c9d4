"""Idempotency records: the response to each request_id, stored with its effect in one transaction."""

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
from reelhaul_jobs import metrics
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.tables import request_ids
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.statements import Statement

T = TypeVar("T")

# A run that loses against a duplicate finds that committed in the next run.
_RETRIES = 2

_REQUEST = Statement(
    select(request_ids.c.digest, request_ids.c.response, request_ids.c.failed).where(
        request_ids.c.tenant == bindparam("tenant"),
        request_ids.c.method == bindparam("method"),
        request_ids.c.id == bindparam("id"),
    )
)


class ConcurrentDuplicate(ReelhaulError):
    """Another connection committed the same request first."""


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """The ids of the jobs that a request created or changed; for a partial batch, why the others failed."""

    ids: Sequence[str]
    failed: Mapping[int, status_pb2.Status] = field(default_factory=dict)


def find_response(connection: Connection, request: IdempotencyKey | None) -> RecordedResponse | None:
    """Return the recorded response to *request*; None if it is new. Raises REQUEST_ID_REUSED."""
    if request is None:
        return None
    key = {"tenant": request.tenant, "method": request.method, "id": request.id}
    row = _REQUEST.first(connection, key)
    if row is None:
        return None
    if bytes(row["digest"]) != request.digest:
        raise ReelhaulError(
            ErrorReason.REQUEST_ID_REUSED,
            f"request_id {request.id} was used with another request",
            metadata={"requestId": request.id},
        )
    batch = job_service_pb2.BatchCreateJobsResponse.FromString(row["failed"] or b"")
    return RecordedResponse(json.loads(row["response"]), dict(batch.failed_requests))


def record_response(
    connection: Connection, request: IdempotencyKey | None, response: RecordedResponse
) -> None:
    """Record *response* for repetitions of *request*. Raises ConcurrentDuplicate: run again."""
    if request is None:
        return
    batch = job_service_pb2.BatchCreateJobsResponse(failed_requests=response.failed)
    row = {
        "tenant": request.tenant,
        "method": request.method,
        "id": request.id,
        "digest": request.digest,
        "response": json.dumps(list(response.ids)),
        "failed": batch.SerializeToString() if response.failed else None,
        "time": rows.to_micros(request.time),
    }
    inserted = connection.execute(insert_or_ignore(connection, request_ids).returning(request_ids.c.id), row)
    if inserted.first() is None:
        # Another replica committed the same request since find_response.
        raise ConcurrentDuplicate(ErrorReason.REQUEST_IN_PROGRESS, f"request_id {request.id} is in progress")


async def write(database: Database, op: Callable[[Connection], T]) -> T:
    """Run *op* in a transaction, again if it loses against a concurrent duplicate. Return its result."""
    with metrics.recording_quota_refusals():
        for _ in range(_RETRIES):
            with suppress(ConcurrentDuplicate):
                return await database.write(op)
        return await database.write(op)


def insert_or_ignore(connection: Connection, table: Table) -> Any:
    """Return an INSERT into *table* that does nothing if a row of the same key exists."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()
