"""The audit: every change of a job's row, written down by the database itself, and never changed again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine, create_engine, make_url, text

from reelhaul.jobs.v1 import job_pb2
from reelhaul.jobs.v1.job_pb2 import Job

State = Job.State

# No unique key but its own number: what happens twice is there twice.
_TABLE = """
CREATE TABLE chaos_audit (
    number {serial}, job VARCHAR(36), old_state INTEGER, state INTEGER, old_epoch BIGINT, epoch BIGINT,
    old_attempt INTEGER, attempt INTEGER, old_revision BIGINT, revision BIGINT, worker TEXT, url TEXT)
"""
_COLUMNS = (
    "job, old_state, state, old_epoch, epoch, old_attempt, attempt, old_revision, revision, worker, url"
)
_VALUES = (
    "new.id, old.state, new.state, old.epoch, new.epoch, old.attempt, new.attempt,"
    " old.revision, new.revision, new.worker, new.url"
)
_BORN = _VALUES.replace("old.state", "0").replace("old.epoch", "0").replace("old.attempt", "0")
_SQLITE = [
    _TABLE.format(serial="INTEGER PRIMARY KEY AUTOINCREMENT"),
    f"""CREATE TRIGGER chaos_born AFTER INSERT ON jobs BEGIN
        INSERT INTO chaos_audit ({_COLUMNS}) VALUES ({_BORN.replace("old.revision", "0")}); END""",
    f"""CREATE TRIGGER chaos_changed AFTER UPDATE ON jobs BEGIN
        INSERT INTO chaos_audit ({_COLUMNS}) VALUES ({_VALUES}); END""",
]
_POSTGRESQL = [
    _TABLE.format(serial="BIGSERIAL PRIMARY KEY"),
    f"""CREATE FUNCTION chaos_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO chaos_audit ({_COLUMNS}) VALUES ({_BORN.replace("old.revision", "0")});
        ELSE
            INSERT INTO chaos_audit ({_COLUMNS}) VALUES ({_VALUES});
        END IF;
        RETURN NULL; END $$""",
    "CREATE TRIGGER chaos_write AFTER INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION chaos_write()",
]


@dataclass(frozen=True)
class Entry:
    """One change of a row: of its birth, ``old_state`` is 0."""

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
class Row:
    """A job as its row is in the end."""

    id: str
    state: int
    epoch: int
    #: The reason of its error, empty where it has none.
    error_reason: str
    #: Whether storage is still to be told of it.
    unconfirmed: bool
    deleted: bool
    #: What it has to show, by SHA-256 and resource name.
    artifacts: tuple[tuple[str, str], ...]
    tenant: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Rows:
    """The database of jobs, read past the service."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin_audit(self) -> None:
        """From now on each change leaves an entry, in the transaction that makes it."""
        own = _SQLITE if self._engine.dialect.name == "sqlite" else _POSTGRESQL
        with self._engine.begin() as connection:
            for statement in own:
                connection.exec_driver_sql(statement)

    def audit(self) -> list[Entry]:
        """All entries, in the order of the changes."""
        return [
            Entry(*row) for row in self._all(f"SELECT number, {_COLUMNS} FROM chaos_audit ORDER BY number")
        ]

    def jobs(self) -> list[Row]:
        """All jobs."""
        columns = "id, state, epoch, error_reason, confirm_time, delete_time, result, tenant, labels"
        return [_row(*row) for row in self._all(f"SELECT {columns} FROM jobs")]

    def pending(self) -> int:
        """How many jobs have not ended, or have and storage was not told."""
        ended = ", ".join(str(int(state)) for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED))
        found = self._all(
            f"SELECT count(*) FROM jobs WHERE state NOT IN ({ended}) OR confirm_time IS NOT NULL"
        )
        return int(found[0][0])

    def leased(self) -> list[tuple[str, int, str]]:
        """Job, epoch and worker of each running job."""
        found = self._all(f"SELECT id, epoch, worker FROM jobs WHERE state = {int(State.RUNNING)}")
        return [(str(job), int(epoch), str(worker)) for job, epoch, worker in found]

    def _all(self, statement: str) -> Sequence[Sequence]:
        with self._engine.connect() as connection:
            return connection.execute(text(statement)).fetchall()


@contextmanager
def opened(url: str) -> Iterator[Rows]:
    """The rows behind the database URL *url*, as jobs is given it."""
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(parsed, connect_args={"timeout": 30} if parsed.drivername == "sqlite" else {})
    try:
        yield Rows(engine)
    finally:
        engine.dispose()


def _row(
    id_: str,
    state: int,
    epoch: int,
    reason: str,
    confirm: int,
    delete: int,
    result: bytes,
    tenant: str,
    labels: str,
) -> Row:
    made = job_pb2.Job.FromString(bytes(result)) if result else job_pb2.Job()
    artifacts = tuple((each.checksums.sha256.hex(), each.name) for each in made.artifacts)
    return Row(
        id_,
        state,
        epoch,
        reason,
        confirm is not None,
        delete is not None,
        artifacts,
        tenant,
        json.loads(labels),
    )
