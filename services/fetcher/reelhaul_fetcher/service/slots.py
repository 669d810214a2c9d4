"""Slots: how many downloads run at a time, and how many recordings beside them.

Recordings of live streams last hours; in the slots they would starve downloads.
"""

from __future__ import annotations

import asyncio


class SlotPool:
    """*slots* for downloads and capacity for *recordings*."""

    def __init__(self, slots: int, recordings: int) -> None:
        self.slots = slots
        self._free_slots = slots
        self._slot_freed = asyncio.Event()
        self._free_recordings = recordings

    async def wait_free(self) -> None:
        """Return when a slot is free. It is not reserved: the first to call ``try_take`` gets it."""
        while not self._free_slots:
            self._slot_freed.clear()
            await self._slot_freed.wait()

    def try_take(self) -> Slot | None:
        """Take a slot; return None if all are in use."""
        if not self._free_slots:
            return None
        self._free_slots -= 1
        return Slot(self)

    def free_slot(self) -> None:
        """Return a slot to the pool."""
        self._free_slots += 1
        self._slot_freed.set()

    def try_take_recording(self) -> bool:
        """Take capacity for a recording; return False if there is none."""
        if not self._free_recordings:
            return False
        self._free_recordings -= 1
        return True

    def free_recording(self) -> None:
        """Return the capacity of a recording."""
        self._free_recordings += 1


class Slot:
    """One slot, from when it is taken until it is released."""

    def __init__(self, pool: SlotPool) -> None:
        self._pool = pool
        #: It holds capacity for a recording instead of a slot.
        self.recording = False

    def start_recording(self) -> bool:
        """Exchange the slot for recording capacity; return False if there is none."""
        if not self.recording and self._pool.try_take_recording():
            self.recording = True
            self._pool.free_slot()
        return self.recording

    def release(self) -> None:
        """Return it to the pool."""
        if self.recording:
            self._pool.free_recording()
        else:
            self._pool.free_slot()
