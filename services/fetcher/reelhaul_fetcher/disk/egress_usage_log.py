"""Egress usage log: bytes per egress and day on disk, so that a restart does not reset the daily budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path

from reelhaul_runtime.private_files import open_private

_PREFIX = "egress-"


class EgressUsageLog:
    """One file per day in *folder*, one line per fetch. Fetchers may share the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, day: date) -> Mapping[str, int]:
        """Return the bytes of *day* by egress; delete the files of other days."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._folder.glob(f"{_PREFIX}????-??-??.log"):
            if path != self._path(day):
                path.unlink(missing_ok=True)
        usage: Counter[str] = Counter()
        with suppress(FileNotFoundError):
            for line in self._path(day).read_text().splitlines():
                egress, _, count = line.rpartition(" ")
                if count.isdigit():
                    usage[egress] += int(count)
        return usage

    def add(self, day: date, egress: str, count: int) -> None:
        """Add *count* bytes. If the disk is full they are not logged; the fetch goes on."""
        with suppress(OSError), open(self._path(day), "a", opener=open_private) as file:
            file.write(f"{egress} {count}\n")

    def _path(self, day: date) -> Path:
        return self._folder / f"{_PREFIX}{day.isoformat()}.log"
