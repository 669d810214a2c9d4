"""The clock of one service, which can be stepped while it runs: libfaketime, preloaded into its process.

Only the wall clock is stepped; the monotonic clock goes on, as on a machine whose clock is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests import debian_packages

_LIBRARY = "usr/lib/*/faketime/libfaketimeMT.so.1"


class SteppedClock:
    """A clock that is right until it is stepped."""

    def __init__(self, file: Path, library: Path) -> None:
        self._file, self._library = file, library
        self.step(0)

    def step(self, seconds: int) -> None:
        """Let the clock be *seconds* ahead of the right time from now on; behind it if negative."""
        # Replaced as a whole: the library reads it at any moment.
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables of the process that has this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }


def create_clock(folder: Path) -> SteppedClock:
    """Return a new clock, which keeps its offset in *folder*. Raises debian_packages.Missing."""
    package = debian_packages.unpack("libfaketime", dependencies=False)
    (library,) = package.glob(_LIBRARY)
    return SteppedClock(folder / "clock", library)
