"""Room on disk: who may stay where it does not reach for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Work is taken again at so many times the mark below which none is taken, or it would flicker.
RESUME_FACTOR = 1.25


@dataclass(frozen=True, slots=True)
class DiskThresholds:
    """Free bytes: below ``pause`` no work is taken, and ``reserve`` is what running work leaves."""

    pause: int = 0
    reserve: int = 0

    def is_short(self, free: int, *, before: bool) -> bool:
        """Whether *free* bytes are too few to take work, having been so *before*."""
        return free < (self.pause * RESUME_FACTOR if before else self.pause)


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What an attempt takes of the disk: bytes that it wrote, and bytes to come as far as is known."""

    written: int = 0
    to_come: int = 0


@dataclass(frozen=True, slots=True)
class Eviction:
    """An attempt, by its place in the row, that must leave; ``own_fault`` where it alone is too large."""

    index: int
    own_fault: bool


def choose_evictions(free: int, uses: Sequence[DiskUsage], marks: DiskThresholds) -> list[Eviction]:
    """Who of *uses* (the oldest first) must leave, that those who stay find what they need."""
    # What there would be if nobody worked: whoever needs more leaves for that, however old.
    all_room = free + sum(use.written for use in uses) - marks.reserve
    giants = [index for index, use in enumerate(uses) if use.written + use.to_come > all_room]
    leaving = [Eviction(index, own_fault=all_room + marks.reserve >= marks.pause) for index in giants]
    staying = [index for index in range(len(uses)) if index not in giants]
    free += sum(uses[index].written for index in giants)
    while staying and free - sum(uses[index].to_come for index in staying) < marks.reserve:
        youngest = staying.pop()
        free += uses[youngest].written
        leaving.append(Eviction(youngest, own_fault=not staying and free >= marks.pause))
    return leaving
