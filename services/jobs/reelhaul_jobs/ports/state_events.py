"""The store of state events: the same rows, in the order in which jobs changed their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import State


@dataclass(frozen=True, slots=True, order=True)
class StateEvent:
    """A state change of a job; sorts in the order in which the store lists them."""

    time: datetime
    job_id: str = ""
    revision: int = 0
    #: The state before; None if the job was created.
    old_state: State | None = field(default=None, compare=False)


class StateEventStore(Protocol):
    """Reads the state changes of many jobs."""

    async def list_state_events(
        self, after: StateEvent, limit: int, *, tenant: str | None = None, among: Sequence[str] | None = None
    ) -> Sequence[StateEvent]:
        """Return events after *after*, in order; only of *tenant*, or only *among* at most 500 jobs.

        Their times come from the clocks of the replicas that wrote them: an event that is committed late may
        sort before events that were read already.
        """

    async def get_with_deleted(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Return those of at most 500 jobs that have a row, deleted ones included."""
