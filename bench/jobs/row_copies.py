"""Many rows at once: copies of one job that the service itself admitted, made inside the database.

That job is scheduled for a year later, so that it stays as it was; its copies are due now, or have ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy import Connection, text

from reelhaul_jobs.model.states import QueueStage, State
from reelhaul_jobs.store.tables import jobs
from reelhaul_runtime.sql import engines

_CHUNK = 50_000
_SITES = 8

_COPY = """\
WITH RECURSIVE n(n) AS (SELECT CAST(:first AS BIGINT) UNION ALL SELECT n + 1 FROM n WHERE n < :last)
INSERT INTO jobs ({names}) SELECT {values} FROM n, (SELECT * FROM jobs WHERE id = :template) AS t"""

# What tells one copy from another; each dialect writes hexadecimal in its own way.
_CHANGED = {
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

# They ended in another order than they came: each took a while of its own, in microseconds.
_END = "t.create_time + n + 1000000 + (n * 7919) % 600000000"
# Of a hundred, so many have ended, and so many of these have failed.
_ENDED, _FAILED = 98, 5
_OF_ENDED = {
    "state": f"CASE WHEN n % 100 < {_FAILED} THEN {int(State.FAILED)} ELSE {int(State.SUCCEEDED)} END",
    "error_reason": f"CASE WHEN n % 100 < {_FAILED} THEN 'MEDIA_NOT_FOUND' ELSE '' END",
    "lane": str(int(QueueStage.IDLE)),
    "due": "CAST(NULL AS BIGINT)",
    "update_time": _END,
    "start_time": "t.create_time + n",
    "end_time": _END,
    "end_order": _END,
    "expire_time": f"{_END} + t.ttl",
}


@dataclass(slots=True)
class Copies:
    """Copies of the job *template* (its name) in *database*, each waiting to be published."""

    database: str
    template: str
    made: int = 0

    async def make(self, number: int, tenant: str = "local", *, ended: bool = False) -> None:
        """Add *number* of them for *tenant*; where *ended*, 98 of 100 have, 5 of these FAILED."""
        await asyncio.to_thread(self._make, number, tenant, _with_ended() if ended else _CHANGED)

    def _make(self, number: int, tenant: str, changed: dict[str, str]) -> None:
        engine = engines.create_write_engine(self.database)
        try:
            for first in range(self.made + 1, self.made + number + 1, _CHUNK):
                last = min(first + _CHUNK - 1, self.made + number)
                with engine.begin() as connection:
                    self._copy(connection, first, last, tenant, changed)
            self.made += number
            if engine.dialect.name == "postgresql" and number >= _CHUNK:
                # As autovacuum does a little later.
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.execute(text("VACUUM ANALYZE jobs"))
        finally:
            engine.dispose()

    def _copy(
        self, connection: Connection, first: int, last: int, tenant: str, changed: dict[str, str]
    ) -> None:
        named = {"hexadecimal": _HEXADECIMAL[connection.dialect.name], "sites": _SITES}
        values = [changed.get(column.name, f"t.{column.name}").format(**named) for column in jobs.c]
        statement = _COPY.format(names=", ".join(column.name for column in jobs.c), values=", ".join(values))
        asked = {"first": first, "last": last, "tenant": tenant}
        connection.execute(text(statement), asked | {"template": self.template.removeprefix("jobs/")})


def _with_ended() -> dict[str, str]:
    """What tells the copies apart, where most of them have ended."""
    return _CHANGED | {
        name: f"CASE WHEN n % 100 < {_ENDED} THEN {value} ELSE {_CHANGED.get(name, f't.{name}')} END"
        for name, value in _OF_ENDED.items()
    }
