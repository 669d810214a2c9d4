"""The workforce: what live workers say of themselves, and what keeps all of them from taking work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

_NO_END = datetime.max.replace(tzinfo=UTC)


class Shortage(IntEnum):
    """Why a worker takes no work though it has free slots; numbered as WorkerNotice.Shortage."""

    NONE = 0
    #: Of disk space.
    DISK = 1
    #: Each of its egresses has carried what it may today.
    EGRESS = 2


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker lives: its slots, and what it is short of, until when if that can be told."""

    worker: str
    slots: int
    shortage: Shortage = Shortage.NONE
    until: datetime | None = None


def shortage_of(present: Sequence[WorkerStatus], slots: int) -> WorkerStatus | None:
    """Whose shortage ends first, where every worker has one; None where one takes work.

    *slots* are those of all live workers: also of such as say nothing of themselves.
    """
    if not present or not all(each.shortage for each in present):
        return None
    if sum(each.slots for each in present) < slots:
        return None
    # Space may be there at any moment.
    return min(present, key=lambda each: (each.shortage, each.until or _NO_END))
