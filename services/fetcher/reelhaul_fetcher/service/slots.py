"""Places: slots for downloads, and room beside them for recordings, which last hours and starve nobody."""

from __future__ import annotations

import asyncio


class SlotPool:
    """What a worker may do at a time."""

    def __init__(self, slots: int, recordings: int) -> None:
        self.slots = slots
        self._free = slots
        self._left = asyncio.Event()
        self._recordings = recordings

    async def wait_free(self) -> None:
        """Return when a slot is free. It is nobody's yet: whoever takes first has it."""
        while not self._free:
            self._left.clear()
            await self._left.wait()

    def try_take(self) -> Slot | None:
        """A slot, if one is free."""
        if not self._free:
            return None
        self._free -= 1
        return Slot(self)

    def _slot_left(self) -> None:
        self._free += 1
        self._left.set()

    def _recording_begun(self) -> bool:
        room = self._recordings > 0
        self._recordings -= room
        return room

    def _recording_left(self) -> None:
        self._recordings += 1


class Slot:
    """One of them, from when it is taken until it is left."""

    def __init__(self, places: SlotPool) -> None:
        self._places = places
        #: Among the recordings, not in a slot.
        self.recording = False

    def start_recording(self) -> bool:
        """Leave the slot to others and go on beside them. False where there is no room for that."""
        if not self.recording and self._places._recording_begun():
            self.recording = True
            self._places._slot_left()
        return self.recording

    def release(self) -> None:
        """It is free for another."""
        if self.recording:
            self._places._recording_left()
        else:
            self._places._slot_left()
