"""Creates many job rows quickly: copies of one job that the service itself admitted, made by SQL.

That job is scheduled for later, so that it does not run; its copies are due now or have ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy import Connection, text

from reelhaul_jobs.model.states import QueueStage, State
from reelhaul_jobs.store.tables import jobs
from reelhaul_runtime.sql import engines

_ROWS_PER_TRANSACTION = 50_000
_SITES = 8

_COPY = """\
WITH RECURSIVE n(n) AS (SELECT CAST(:first AS BIGINT) UNION ALL SELECT n + 1 FROM n WHERE n < :last)
INSERT INTO jobs ({names}) SELECT {values} FROM n, (SELECT * FROM jobs WHERE id = :template) AS t"""

# Columns that differ from the template, as SQL expressions of the row number n and the template t.
_QUEUED = {
    "id": "'018f0000-0000-7000-8000-' || {hexadecimal}",
    "tenant": ":tenant",
    "url": "'https://site-' || (n % {sites}) || '.example/watch?v=' || n",
    "site": "'site-' || (n % {sites}) || '.example'",
    "create_time": "t.create_time + n",
    "due": "t.create_time + n",
    "lane": str(int(QueueStage.READY)),
    "schedule_time": "CAST(NULL AS BIGINT)",
}
_HEXADECIMAL = {"sqlite": "printf('%012x', n)", "postgresql": "lpad(to_hex(n), 12, '0')"}

# Jobs end in another order than they were created, after 1 to 601 s.
_END_TIME = "t.create_time + n + 1000000 + (n * 7919) % 600000000"
# Number of ended jobs in 100, and number of failed ones among the ended.
_ENDED_OF_100, _FAILED_OF_100 = 98, 5
_ENDED = {
    "state": f"CASE WHEN n % 100 < {_FAILED_OF_100} THEN {int(State.FAILED)} ELSE {int(State.SUCCEEDED)} END",
    "error_reason": f"CASE WHEN n % 100 < {_FAILED_OF_100} THEN 'MEDIA_NOT_FOUND' ELSE '' END",
    "lane": str(int(QueueStage.IDLE)),
    "due": "CAST(NULL AS BIGINT)",
    "update_time": _END_TIME,
    "start_time": "t.create_time + n",
    "end_time": _END_TIME,
    "end_order": _END_TIME,
    "expire_time": f"{_END_TIME} + t.ttl",
}


@dataclass(slots=True)
class RowCopies:
    """Copies of the job named *template* in *database*."""

    database: str
    template: str
    count: int = 0

    async def create(self, number: int, tenant: str = "local", *, ended: bool = False) -> None:
        """Create *number* copies for *tenant* that wait to be published.

        *ended*: 98 of 100 have ended instead, 5 of them as FAILED.
        """
        await asyncio.to_thread(self._create, number, tenant, _mostly_ended() if ended else _QUEUED)

    def _create(self, number: int, tenant: str, columns: dict[str, str]) -> None:
        engine = engines.create_write_engine(self.database)
        try:
            for first in range(self.count + 1, self.count + number + 1, _ROWS_PER_TRANSACTION):
                last = min(first + _ROWS_PER_TRANSACTION - 1, self.count + number)
                with engine.begin() as connection:
                    self._copy(connection, first, last, tenant, columns)
            self.count += number
            if engine.dialect.name == "postgresql" and number >= _ROWS_PER_TRANSACTION:
                # Autovacuum would do this a little later.
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.execute(text("VACUUM ANALYZE jobs"))
        finally:
            engine.dispose()

    def _copy(
        self, connection: Connection, first: int, last: int, tenant: str, columns: dict[str, str]
    ) -> None:
        names = {"hexadecimal": _HEXADECIMAL[connection.dialect.name], "sites": _SITES}
        values = [columns.get(column.name, f"t.{column.name}").format(**names) for column in jobs.c]
        statement = _COPY.format(names=", ".join(column.name for column in jobs.c), values=", ".join(values))
        parameters = {"first": first, "last": last, "tenant": tenant}
        parameters["template"] = self.template.removeprefix("jobs/")
        connection.execute(text(statement), parameters)


def _mostly_ended() -> dict[str, str]:
    """Return the columns of copies of which 98 in 100 have ended."""
    return _QUEUED | {
        name: f"CASE WHEN n % 100 < {_ENDED_OF_100} THEN {value} ELSE {_QUEUED.get(name, f't.{name}')} END"
        for name, value in _ENDED.items()
    }
