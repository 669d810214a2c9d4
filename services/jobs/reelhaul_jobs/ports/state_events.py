"""Moves: the same rows, in the order in which they changed their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import State


@dataclass(frozen=True, slots=True, order=True)
class StateEvent:
    """That a job moved, in the order in which moves are read."""

    time: datetime
    job_id: str = ""
    revision: int = 0
    #: The state it left; None where it was created.
    old_state: State | None = field(default=None, compare=False)


class StateEventStore(Protocol):
    """The same rows, for those who follow many jobs."""

    async def list_state_events(
        self, after: StateEvent, limit: int, *, tenant: str | None = None, among: Sequence[str] | None = None
    ) -> Sequence[StateEvent]:
        """Moves behind *after*, in order; only of a *tenant*, or only *among* at most 500 jobs.

        Times are those of the clocks that made the moves: one that is committed late comes
        before others that were read already.
        """

    async def get_with_deleted(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Those of at most 500 jobs that have a row, deleted ones too."""
