"""Audit of job rows: database triggers record every change of a row in a table that is only appended to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError

from reelhaul.admin.v1 import api_key_pb2
from reelhaul.jobs.v1 import job_pb2
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul_runtime.sql import engines

# Rows of the quota ledger that do not agree with the jobs, as of one moment.
_LEDGER_ERRORS = """
SELECT account, day, live, reserved, stored, kept FROM (
    SELECT account, day, ledger.reserved - settled - released AS live, stored,
        (SELECT coalesce(sum(reserved_bytes), 0) FROM jobs
            WHERE ('tenants/' || tenant = account OR 'apiKeys/' || api_key = account)
            AND (day = 0 OR quota_day = day)) AS reserved,
        (SELECT coalesce(sum(stored_bytes), 0) FROM jobs
            WHERE ('tenants/' || tenant = account OR 'apiKeys/' || api_key = account) AND day = 0) AS kept
    FROM quota_ledger AS ledger) AS compared
WHERE live <> reserved OR stored <> kept
"""
# The totals that are not the sums of their days.
_LEDGER_TOTALS = """
SELECT account, sum(CASE WHEN day = 0 THEN jobs ELSE -jobs END) AS jobs,
    sum(CASE WHEN day = 0 THEN reserved ELSE -reserved END) AS reserved,
    sum(CASE WHEN day = 0 THEN settled ELSE -settled END) AS settled
FROM quota_ledger GROUP BY account
"""

# Longer than any outage of the database.
_OUTAGE_SECONDS = 30.0

TERMINAL_STATES = (Job.SUCCEEDED, Job.FAILED, Job.CANCELLED)

# The row number is the only unique key: a change that happens twice is recorded twice.
_TABLE = """
CREATE TABLE chaos_audit (
    number {serial}, job VARCHAR(36), old_state INTEGER, state INTEGER, old_epoch BIGINT, epoch BIGINT,
    old_attempt INTEGER, attempt INTEGER, old_revision BIGINT, revision BIGINT, worker TEXT, url TEXT)
"""
_COLUMNS = (
    "job, old_state, state, old_epoch, epoch, old_attempt, attempt, old_revision, revision, worker, url"
)
_UPDATED = (
    "new.id, old.state, new.state, old.epoch, new.epoch, old.attempt, new.attempt,"
    " old.revision, new.revision, new.worker, new.url"
)
_INSERTED = "new.id, 0, new.state, 0, new.epoch, 0, new.attempt, 0, new.revision, new.worker, new.url"
_SQLITE = [
    _TABLE.format(serial="INTEGER PRIMARY KEY AUTOINCREMENT"),
    f"""CREATE TRIGGER chaos_inserted AFTER INSERT ON jobs BEGIN
        INSERT INTO chaos_audit ({_COLUMNS}) VALUES ({_INSERTED}); END""",
    f"""CREATE TRIGGER chaos_updated AFTER UPDATE ON jobs BEGIN
        INSERT INTO chaos_audit ({_COLUMNS}) VALUES ({_UPDATED}); END""",
]
_POSTGRESQL = [
    _TABLE.format(serial="BIGSERIAL PRIMARY KEY"),
    f"""CREATE FUNCTION chaos_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO chaos_audit ({_COLUMNS}) VALUES ({_INSERTED});
        ELSE
            INSERT INTO chaos_audit ({_COLUMNS}) VALUES ({_UPDATED});
        END IF;
        RETURN NULL; END $$""",
    "CREATE TRIGGER chaos_write AFTER INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION chaos_write()",
]


@dataclass(frozen=True)
class AuditEntry:
    """One insert or update of a job row. The ``old_`` fields of an insert are 0."""

    number: int
    job: str
    old_state: int
    state: int
    old_epoch: int
    epoch: int
    old_attempt: int
    attempt: int
    old_revision: int
    revision: int
    worker: str
    url: str


@dataclass(frozen=True)
class JobRow:
    """A job row at the end of the run."""

    id: str
    state: int
    epoch: int
    #: Reason of the job's error; empty without an error.
    error_reason: str
    #: Whether storage does not know yet that the artifacts are to be kept.
    unconfirmed: bool
    deleted: bool
    #: SHA-256 in hex and resource name of each artifact.
    artifacts: tuple[tuple[str, str], ...]
    tenant: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self.state in TERMINAL_STATES


class JobsDatabase:
    """The database of the jobs service, read without the service."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def install_audit(self) -> None:
        """Create the triggers: each change writes an audit entry in the same transaction."""
        statements = _SQLITE if self._engine.dialect.name == "sqlite" else _POSTGRESQL
        with self._engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def list_audit(self) -> list[AuditEntry]:
        """Return all audit entries, in the order of the changes."""
        rows = self._fetch_all(f"SELECT number, {_COLUMNS} FROM chaos_audit ORDER BY number")
        return [AuditEntry(*row) for row in rows]

    def list_jobs(self) -> list[JobRow]:
        """Return all job rows, deleted ones included."""
        columns = "id, state, epoch, error_reason, confirm_time, delete_time, result, tenant, labels"
        return [_job_row(*row) for row in self._fetch_all(f"SELECT {columns} FROM jobs")]

    def count_pending(self) -> int:
        """Count the jobs that have not ended, or whose artifacts storage has not confirmed."""
        terminal = ", ".join(str(int(state)) for state in TERMINAL_STATES)
        rows = self._fetch_all(
            f"SELECT count(*) FROM jobs WHERE state NOT IN ({terminal}) OR confirm_time IS NOT NULL"
        )
        return int(rows[0][0])

    def list_leases(self) -> list[tuple[str, int, str]]:
        """Return id, epoch and worker of each running job."""
        rows = self._fetch_all(f"SELECT id, epoch, worker FROM jobs WHERE state = {int(Job.RUNNING)}")
        return [(str(job), int(epoch), str(worker)) for job, epoch, worker in rows]

    def limit_concurrent_jobs(self, tenant: str, limit: int) -> None:
        """Create the row of *tenant*, which has at most *limit* running jobs."""
        columns = (
            "id, display_name, contact, quota, allowed_sites, denied_sites, disabled, revision,"
            " create_time, update_time"
        )
        values = ":id, '', '', :quota, '[]', '[]', :disabled, 1, 0, 0"
        quota = api_key_pb2.Quota(concurrent_jobs=limit).SerializeToString()
        with self._engine.begin() as connection:
            connection.execute(
                text(f"INSERT INTO tenants ({columns}) VALUES ({values})"),
                {"id": tenant, "quota": quota, "disabled": False},
            )

    def find_ledger_errors(self) -> list[str]:
        """Return where the quota ledger does not sum: each row that disagrees with the jobs or its days."""
        errors = [
            f"{account} day {day}: {live} bytes reserved, {reserved} by jobs; {stored} stored, {kept} by jobs"
            for account, day, live, reserved, stored, kept in self._fetch_all(_LEDGER_ERRORS)
        ]
        totals = [(row[0], [int(amount) for amount in row[1:]]) for row in self._fetch_all(_LEDGER_TOTALS)]
        return errors + [
            f"{account}: its total differs from its days by {by}" for account, by in totals if any(by)
        ]

    def count_admissions(self) -> tuple[int, int]:
        """Return how many jobs the ledger counts for all tenants, and how many the audit shows."""
        terminal = ", ".join(str(int(state)) for state in TERMINAL_STATES)
        counted = self._fetch_all(
            "SELECT coalesce(sum(jobs), 0) FROM quota_ledger WHERE day = 0 AND account LIKE 'tenants/%'"
        )
        shown = self._fetch_all(
            "SELECT count(*) FROM chaos_audit WHERE old_state = 0"
            f" OR (old_state IN ({terminal}) AND state NOT IN ({terminal}))"
        )
        return int(counted[0][0]), int(shown[0][0])

    def _fetch_all(self, statement: str) -> Sequence[Sequence]:
        end = time.monotonic() + _OUTAGE_SECONDS
        while True:
            try:
                with self._engine.connect() as connection:
                    return connection.execute(text(statement)).fetchall()
            except OperationalError:
                # The database is away, as outages want it.
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)


def open_engine(url: str) -> Engine:
    """Return an engine of the database at *url*, which has the form of REELHAUL_*_DATABASE_URL."""
    if engines.is_sqlite(url):
        return create_engine(url, connect_args={"timeout": 30})
    return engines.create_write_engine(url, connections=5)


@contextmanager
def open_jobs_database(url: str) -> Iterator[JobsDatabase]:
    """Open the database at *url*, which has the form of REELHAUL_JOBS_DATABASE_URL."""
    engine = open_engine(url)
    try:
        yield JobsDatabase(engine)
    finally:
        engine.dispose()


def _job_row(
    id_: str,
    state: int,
    epoch: int,
    error_reason: str,
    confirm_time: int | None,
    delete_time: int | None,
    result: bytes,
    tenant: str,
    labels: str,
) -> JobRow:
    job = job_pb2.Job.FromString(bytes(result)) if result else job_pb2.Job()
    return JobRow(
        id_,
        state,
        epoch,
        error_reason,
        unconfirmed=confirm_time is not None,
        deleted=delete_time is not None,
        artifacts=tuple((artifact.checksums.sha256.hex(), artifact.name) for artifact in job.artifacts),
        tenant=tenant,
        labels=json.loads(labels),
    )
