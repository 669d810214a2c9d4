"""The stores in one: what tests, demos and laptops hold."""

from __future__ import annotations

from reelhaul_jobs.memory.jobs import MemoryJobStore
from reelhaul_jobs.memory.moves import MemoryMoveStore
from reelhaul_jobs.memory.queue import MemoryQueueStore
from reelhaul_jobs.memory.rows import Rows


class MemoryStore(MemoryJobStore, MemoryQueueStore, MemoryMoveStore):
    """JobStore, QueueStore and MoveStore over the same rows."""

    def __init__(self) -> None:
        super().__init__(Rows())

    @property
    def rows(self) -> Rows:
        """What the stores share, for others that keep theirs beside it."""
        return self._rows
