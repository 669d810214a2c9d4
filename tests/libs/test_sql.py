"""SQLite and PostgreSQL: group commit, snapshots, unavailability, migrations."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from tests.postgresql import fresh_database

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import NotFound, ReelhaulError, Unavailable
from reelhaul_runtime.sql import engines, migrations
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.statements import Statement
from reelhaul_runtime.sql.writer import Outcome, after_commit


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/folder/rows.db"
    else:
        with fresh_database() as fresh:
            yield fresh


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database.open(url) as opened:
        await opened.write(_create)
        yield opened


def _create(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE words (word VARCHAR(20) PRIMARY KEY)"))


def _insert(word: str):
    def op(connection: Connection) -> str:
        connection.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})
        return word

    return op


def _words(connection: Connection) -> set[str]:
    return set(connection.execute(text("SELECT word FROM words")).scalars())


async def test_concurrent_writes_share_commits(database: Database):
    """A hundred concurrent writes need far fewer than a hundred commits."""
    before = database.commits
    results = await asyncio.gather(*(database.write(_insert(str(n))) for n in range(100)))
    assert results == [str(n) for n in range(100)]
    assert database.commits - before <= 25
    assert len(await database.read(_words)) == 100


async def test_actions_after_a_commit(database: Database, url: str, caplog: pytest.LogCaptureFixture):
    """What a write leaves to the commit is done once, when others see its rows, and only if it succeeds."""
    done, seen = list[str](), list[bool]()
    engine = engines.create_read_engine(url, connections=1)

    def record(word: str) -> None:
        done.append(word)
        with engine.connect() as connection:
            seen.append(word in _words(connection))

    def write(word: str, error: Exception | None = None):
        def op(connection: Connection) -> None:
            _insert(word)(connection)
            after_commit(connection, lambda: record(word))
            if error is not None:
                raise error

        return database.write(op)

    def fail(connection: Connection) -> None:
        after_commit(connection, lambda: 1 / 0)

    # One that fails makes all that share its transaction run again.
    outcomes = await asyncio.gather(
        write("before"), write("failed", NotFound("jobs/none")), write("after"), return_exceptions=True
    )
    assert [isinstance(outcome, NotFound) for outcome in outcomes] == [False, True, False]
    assert done == ["before", "after"]
    assert all(seen)
    # The write of an action that fails is committed all the same.
    await database.write(fail)
    await write("last")
    assert done == ["before", "after", "last"]
    assert [record.message for record in caplog.records] == ["an action after a commit failed"]
    engine.dispose()


async def test_only_the_failed_write_is_rolled_back(database: Database):
    """A write that fails rolls back none of those that share its commit, and all of itself."""

    def half(connection: Connection) -> None:
        _insert("half")(connection)
        raise NotFound("jobs/none")

    await database.write(_insert("taken"))
    outcomes = await asyncio.gather(
        database.write(_insert("before")),
        database.write(_insert("taken")),
        database.write(half),
        database.write(_insert("after")),
        return_exceptions=True,
    )
    assert [type(o) for o in outcomes] == [str, IntegrityError, NotFound, str]
    assert await database.read(_words) == {"taken", "before", "after"}


async def test_batched_writes(database: Database):
    """Concurrent batched writes run in few calls; each gets its own result."""
    calls = []

    def insert(connection: Connection, words: Sequence[str]) -> list[Outcome]:
        calls.append(list(words))
        connection.execute(text("INSERT INTO words VALUES (:word)"), [{"word": word} for word in words])
        return [Outcome(word.upper()) for word in words]

    written = [f"w{n}" for n in range(100)]
    results = await asyncio.gather(*(database.write_batched(insert, word) for word in written))
    assert results == [word.upper() for word in written]
    assert len(calls) <= 25
    assert await database.read(_words) == set(written)


async def test_one_of_several_batched_writes_fails(database: Database):
    """A write that gets an error, and one that makes the whole batch fail, fail alone."""

    def insert(connection: Connection, words: Sequence[str]) -> list[Outcome]:
        good = [word for word in words if word != "refused"]
        for word in good:
            _insert(word)(connection)
        return [Outcome(word) if word in good else Outcome(error=NotFound(word)) for word in words]

    await database.write(_insert("taken"))
    for batch in (["before", "refused", "after"], ["b", "taken", "refused", "a"], ["refused"]):
        results = await asyncio.gather(
            *(database.write_batched(insert, word) for word in batch), return_exceptions=True
        )
        types = {"refused": NotFound, "taken": IntegrityError}
        assert [type(result) for result in results] == [types.get(word, str) for word in batch]
    assert await database.read(_words) == {"taken", "before", "after", "b", "a"}


async def test_single_failed_write_is_rolled_back(database: Database):
    """A write that fails alone is rolled back, and the next one works."""

    def half(connection: Connection) -> None:
        _insert("half")(connection)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(half)
    await database.write(_insert("next"))
    assert await database.read(_words) == {"next"}


async def test_reads_see_acknowledged_writes(database: Database):
    """A read after an acknowledged write sees it."""
    for n in range(20):
        await database.write(_insert(str(n)))
        assert str(n) in await database.read(_words)


async def test_concurrent_reads_share_transactions(database: Database):
    """A hundred concurrent reads need few batches; each gets its own result, of every acknowledged write."""
    batches = list[int]()

    def read(connection: Connection, arguments: Sequence[int]) -> Sequence[int]:
        batches.append(len(arguments))
        return [argument + len(_words(connection)) for argument in arguments]

    await database.write(_insert("one"))
    results = await asyncio.gather(*(database.read_batched(read, n) for n in range(100)))
    assert results == [n + 1 for n in range(100)]
    assert sum(batches) == 100
    assert len(batches) <= 4
    await database.write(_insert("two"))
    assert await database.read_batched(read, 0) == 2


async def test_read_that_begins_during_a_batch(database: Database):
    """A read that begins while a batch runs sees what was written before it, though the batch does not."""
    loop, begun, written = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def read(connection: Connection, arguments: Sequence[str]) -> Sequence[int]:
        found = len(_words(connection))
        if "first" in arguments:
            loop.call_soon_threadsafe(begun.set)
            written.wait(30)
        return [found] * len(arguments)

    first = asyncio.create_task(database.read_batched(read, "first"))
    await begun.wait()
    await database.write(_insert("later"))
    second = asyncio.create_task(database.read_batched(read, "second"))
    written.set()
    assert (await first, await second) == (0, 1)


async def test_failed_and_cancelled_batched_reads(database: Database):
    """A batch that fails fails its reads only; a caller that is cancelled takes nobody with it."""

    def read(connection: Connection, arguments: Sequence[str]) -> Sequence[str]:
        if "bad" in arguments:
            raise ValueError("bad")
        return arguments

    with pytest.raises(ValueError, match="bad"):
        await asyncio.gather(database.read_batched(read, "bad"), database.read_batched(read, "beside it"))
    cancelled = asyncio.create_task(database.read_batched(read, "cancelled"))
    patient = asyncio.create_task(database.read_batched(read, "patient"))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await patient == "patient"
    assert await database.read_batched(read, "later") == "later"


async def test_equal_scans_share_a_run(database: Database):
    """Equal scans that wait at the same time run once, other scans for themselves."""
    runs = list[str]()

    def scan(word: str):
        def op(connection: Connection) -> str:
            runs.append(word)
            return word

        return op

    words = ["a", "b"] * 20
    results = await asyncio.gather(*(database.scan_shared(word, scan(word)) for word in words))
    assert results == words
    assert sorted(runs) == ["a", "b"]
    assert await database.scan_shared("a", scan("a")) == "a"
    assert sorted(runs) == ["a", "a", "b"]


async def test_reads_cannot_write(database: Database):
    """A read that tries to write is refused."""
    with pytest.raises((DBAPIError, Unavailable)):
        await database.read(_insert("forbidden"))
    assert await database.read(_words) == set()


async def test_cancelled_callers(database: Database):
    """Callers that are cancelled while they wait affect no other write."""
    started, release = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        started.set()
        release.wait(10)
        _insert("slow")(connection)

    first = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(started.wait, 10)
    cancelled = asyncio.create_task(database.write(_insert("cancelled")))
    kept = asyncio.create_task(database.write(_insert("kept")))
    await asyncio.sleep(0)
    cancelled.cancel()
    first.cancel()
    release.set()
    assert await kept == "kept"
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await database.read(_words) == {"slow", "kept"}


async def test_closing_commits_queued_writes(url: str):
    """Closing the database waits for the writes that are queued."""
    async with Database.open(url) as database:
        await database.write(_create)
        writes = [asyncio.create_task(database.write(_insert(str(n)))) for n in range(30)]
        await asyncio.sleep(0)
    await asyncio.gather(*writes)
    async with Database.open(url) as database:
        assert len(await database.read(_words)) == 30


async def test_invalid_query_is_not_unavailable(database: Database):
    """A missing table is a bug; only a database that cannot serve is SERVICE_UNAVAILABLE."""
    with pytest.raises(DBAPIError, match="absent"):
        await database.read(lambda c: c.execute(text("SELECT * FROM absent")))


async def test_many_reads_in_one_round_trip(database: Database):
    """Each read has its rows; an invalid one raises what a single one raises, and the next reads work."""
    await asyncio.gather(*(database.write(_insert(word)) for word in ("a", "b", "c")))
    statement = Statement(text("SELECT word FROM words WHERE word >= :first ORDER BY word"))
    values = [{"first": "b"}, {"first": "d"}, {"first": "c"}]
    found = await database.read(lambda connection: statement.all_of_each(connection, values))
    assert [[row["word"] for row in each] for each in found] == [["b", "c"], [], ["c"]]
    invalid = Statement(text("SELECT * FROM missing WHERE word = :first"))
    with pytest.raises(DBAPIError):
        await database.read(lambda connection: invalid.all_of_each(connection, values))
    assert await database.read(_words) == {"a", "b", "c"}
    assert await database.read(lambda connection: statement.all_of_each(connection, [])) == []


async def test_database_that_cannot_be_opened_is_unavailable(tmp_path: Path):
    """A path that cannot be a database is SERVICE_UNAVAILABLE with the database's name."""
    (tmp_path / "rows.db").mkdir()
    async with Database.open(f"sqlite:///{tmp_path}/rows.db", name="jobs.database") as database:
        with pytest.raises(Unavailable) as failure:
            await database.ping()
    assert failure.value.reason == ErrorReason.SERVICE_UNAVAILABLE
    assert failure.value.metadata["service"] == "jobs.database"


async def test_sqlite_pragmas(tmp_path: Path):
    """Every SQLite connection runs in WAL with full synchronisation and foreign keys."""

    def pragmas(connection: Connection) -> tuple[str, int, int]:
        def pragma(name: str):
            return connection.exec_driver_sql(f"PRAGMA {name}").scalar()

        return pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")

    async with Database.open(f"sqlite:///{tmp_path}/rows.db") as database:
        assert await database.write(pragmas) == ("wal", 2, 1)
        assert await database.read(pragmas) == ("wal", 2, 1)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://somewhere/rows"])
def test_other_databases_are_refused(url: str):
    """Databases in memory, which two connections cannot share, and other kinds are refused."""
    with pytest.raises(ValueError, match="is neither"):
        engines.create_write_engine(url)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a package with two revisions."""
    versions = tmp_path / "reelhaul_example" / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "reelhaul_example" / "__init__.py").touch()
    (versions.parent / "env.py").write_text("from reelhaul_runtime.sql.migrations import run\n\nrun()\n")
    for revision, before, table in (("0001", None, "one"), ("0002", "0001", "two")):
        (versions / f"{revision}_{table}.py").write_text(
            dedent(f"""
            from alembic import op
            import sqlalchemy as sa
            revision, down_revision = {revision!r}, {before!r}
            def upgrade():
                op.create_table({table!r}, sa.Column("id", sa.Integer, primary_key=True))
            """)
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "reelhaul_example"
    sys.modules.pop("reelhaul_example", None)


def _tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


async def test_deadlocked_transactions_run_again():
    """Two writes that PostgreSQL finds in a deadlock both succeed: the one rolled back runs again."""
    started, both = threading.Event(), threading.Barrier(2, timeout=10)
    tries: list[str] = []

    def swapping(first: str, second: str):
        def op(connection: Connection) -> None:
            tries.append(first)
            started.set()
            for n, word in enumerate((first, second)):
                connection.execute(text("UPDATE words SET word = word WHERE word = :word"), {"word": word})
                if n == 0 and len(tries) <= 2:
                    both.wait()

        return op

    with fresh_database() as url:
        async with Database.open(url) as database:
            await database.write(_create)
            await asyncio.gather(database.write(_insert("a")), database.write(_insert("b")))
            one = asyncio.create_task(database.write(swapping("a", "b")))
            await asyncio.to_thread(started.wait, 10)
            await database.write(swapping("b", "a"))
            await one
    # At least one more: under load the repeated one may deadlock again.
    assert len(tries) >= 3


def test_migrates_postgresql(package: str):
    """A PostgreSQL database is migrated once."""
    with fresh_database() as url:
        assert migrations.migrate_if_behind(url, package)
        assert not migrations.migrate_if_behind(url, package)


def test_says_what_it_migrated(package: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The log says that a database was migrated, and the second time that it was current."""
    url = f"sqlite:///{tmp_path}/rows.db"
    with caplog.at_level(logging.INFO, "reelhaul_runtime.sql.migrations"):
        migrations.migrate(url, package)
        migrations.migrate(url, package)
    messages = [record.message for record in caplog.records if record.name.endswith("migrations")]
    assert messages == ["migrated", "the schema is current already"]


def test_migrates_only_what_is_behind(package: str, tmp_path: Path):
    """A new database gets every revision; one that has them is not changed."""
    url = f"sqlite:///{tmp_path}/new/rows.db"
    assert migrations.migrate_if_behind(url, package)
    assert _tables(tmp_path / "new" / "rows.db") == {"alembic_version", "one", "two"}
    assert not migrations.migrate_if_behind(url, package)


def test_failed_migration_changes_nothing(package: str, tmp_path: Path):
    """If a later revision fails, the earlier ones are rolled back with it."""
    broken = tmp_path / package / "migrations" / "versions" / "0003_broken.py"
    broken.write_text(
        "revision, down_revision = '0003', '0002'\ndef upgrade():\n    raise ValueError('no')\n"
    )
    url = f"sqlite:///{tmp_path}/rows.db"
    with pytest.raises(ValueError, match="no"):
        migrations.migrate_if_behind(url, package)
    assert _tables(tmp_path / "rows.db") <= {"alembic_version"}


async def test_scans_end_and_delay_no_reads(database: Database):
    """An endless scan is cancelled after its time limit; meanwhile reads are answered."""
    await database.write(_insert("one"))
    endless = text(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT count(*) FROM n WHERE n < 0"
    )
    scans = [
        asyncio.create_task(database.scan(lambda c: c.execute(endless).scalar(), seconds=0.5))
        for _ in range(4)
    ]
    assert await asyncio.wait_for(database.read(_words), 5) == {"one"}
    for scan in scans:
        with pytest.raises(ReelhaulError) as failure:
            await scan
        assert failure.value.reason == ErrorReason.REQUEST_TIMED_OUT
    assert await database.scan(_words) == {"one"}


def test_first_of_several_servers_is_down(tmp_path: Path):
    """A URL may name several servers: one that is down, or is no primary, is passed over."""
    with fresh_database() as url:
        several = url.replace("host=", f"target_session_attrs=read-write&host={tmp_path},")
        engine = engines.create_write_engine(several)
        try:
            with engine.connect() as connection:
                assert not connection.execute(text("SELECT pg_is_in_recovery()")).scalar()
        finally:
            engine.dispose()


def test_wrong_url_is_refused_without_its_password():
    """A URL that libpq does not accept is refused, and the refusal does not show it."""
    with pytest.raises(ValueError, match="is neither sqlite:///FILE nor a valid postgresql://") as refused:
        engines.create_write_engine("postgresql://user:hunter2@host/name?no_such_parameter=1")
    assert "hunter2" not in str(refused.value)
