"""The events of all jobs in the order of their times: the twin of the MoveStore in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from reelhaul_jobs.memory.rows import Rows
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.ports.state_events import StateEvent


class MemoryMoveStore:
    """The MoveStore of ports, over *rows*."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def moves(
        self, after: StateEvent, limit: int, *, tenant: str | None = None, among: Sequence[str] | None = None
    ) -> Sequence[StateEvent]:
        """See MoveStore.moves."""
        found = [
            StateEvent(event.time, job.id, event.revision, event.old_state)
            for job in self._rows.jobs.values()
            if tenant in (None, job.tenant) and (among is None or job.id in among)
            for event in self._rows.events[job.id]
        ]
        return sorted(move for move in found if move > after)[:limit]

    async def as_they_are(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """See MoveStore.as_they_are."""
        return [self._rows.jobs[job_id] for job_id in job_ids if job_id in self._rows.jobs]
