"""Disk limits: when a worker takes no work, and which downloads it evicts when space runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Work resumes at this multiple of the pause threshold, so that the worker does not flap.
RESUME_FACTOR = 1.25


@dataclass(frozen=True, slots=True)
class DiskThresholds:
    """Free bytes: no work is taken below ``pause``; running work leaves ``reserve`` free."""

    pause: int = 0
    reserve: int = 0

    def is_short(self, free: int, *, before: bool) -> bool:
        """Return whether *free* bytes are too few to take work; *before* is the last answer."""
        return free < (self.pause * RESUME_FACTOR if before else self.pause)


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Disk space of one attempt: bytes written, and bytes still to come as far as known."""

    written: int = 0
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class Eviction:
    """The attempt at *index* is evicted; ``own_fault`` if it alone is too large for the worker."""

    index: int
    own_fault: bool


def choose_evictions(free: int, usages: Sequence[DiskUsage], thresholds: DiskThresholds) -> list[Eviction]:
    """Return which of *usages* (oldest first) to evict so that the others have the space they need.

    Attempts that do not fit on the empty disk are evicted first, whatever their age; then the newest.
    """
    # What an idle worker would have: an attempt that needs more can never finish here.
    capacity = free + sum(usage.written for usage in usages) - thresholds.reserve
    oversized = [i for i, usage in enumerate(usages) if usage.written + usage.remaining > capacity]
    evictions = [Eviction(i, own_fault=capacity + thresholds.reserve >= thresholds.pause) for i in oversized]
    staying = [i for i in range(len(usages)) if i not in oversized]
    free += sum(usages[i].written for i in oversized)
    while staying and free - sum(usages[i].remaining for i in staying) < thresholds.reserve:
        newest = staying.pop()
        free += usages[newest].written
        evictions.append(Eviction(newest, own_fault=not staying and free >= thresholds.pause))
    return evictions
