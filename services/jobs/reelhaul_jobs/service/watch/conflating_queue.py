"""What waits to be told to those who follow many jobs."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from reelhaul_jobs.filters.evaluate import Facts
from reelhaul_jobs.filters.fields import job_facts
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import State

# Jobs that one follower may be behind; then it must list again.
_MOST_PENDING = 1_000


@dataclass(frozen=True, slots=True)
class Changed:
    """A job that changed: as it is now, deleted or not, and the states that it left lately."""

    job: Job
    left: frozenset[State]
    #: All that moved before this time has been told, where this has.
    position: datetime
    #: Its serialised form, made once for all followers.
    forms: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    _facts: dict[str, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def facts(self) -> Facts:
        """What filters judge the job by, found once for all followers."""
        if not self._facts:
            self._facts.update(job_facts(self.job))
        return self._facts


#: Whether a follower wants to hear of it.
Wanted = Callable[[Changed], bool]


class Queue:
    """What one follower is to be told: of each job the newest only, and of a bounded number."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._pending: OrderedDict[str, Changed] = OrderedDict()
        self.bell = asyncio.Event()
        #: It fell too far behind: what was pending is lost.
        self.overflowed = False
        #: Nothing more comes: the process drains.
        self.closed = False

    def offer(self, changed: Changed) -> None:
        """Take *changed*, if it is wanted."""
        if not self._wanted(changed):
            return
        # At the end: its position must not hide what waits before it.
        self._pending.pop(changed.job.id, None)
        self._pending[changed.job.id] = changed
        if len(self._pending) > _MOST_PENDING:
            self._pending.clear()
            self.overflowed = True
        self.bell.set()

    def take(self) -> Changed | None:
        """What is to be told next."""
        return self._pending.popitem(last=False)[1] if self._pending else None

    def close(self) -> None:
        """Nothing more comes."""
        self.closed = True
        self.bell.set()
