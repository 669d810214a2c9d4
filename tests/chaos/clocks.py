"""The clock of jobs, which can be stepped while the service runs (``fault_injection.read_clock``).

Only the wall clock that the service is built with is stepped: the monotonic clock goes on, as on a machine
whose clock is set.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path


class SteppedClock:
    """A clock that is right until it is stepped; its *file* has the offset."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.step(timedelta(0))

    def step(self, offset: timedelta) -> None:
        """Let the clock be ahead of the right time by *offset* from now on; behind it if negative."""
        # Replaced as a whole: others read it at any moment.
        new = self.file.with_suffix(".new")
        new.write_text(str(offset.total_seconds()))
        new.replace(self.file)
