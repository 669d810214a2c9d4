"""What egresses carried today, on disk: a fetcher that is started again must not forget its budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path

_PREFIX = "egress-"


class EgressUsageLog:
    """A file a day in *place*, a line for each fetch; fetchers of one folder may share it."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def read(self, day: date) -> Mapping[str, int]:
        """Bytes by egress; the files of other days are removed."""
        self._place.mkdir(parents=True, exist_ok=True)
        for old in self._place.glob(f"{_PREFIX}????-??-??.log"):
            if old != self._file(day):
                old.unlink(missing_ok=True)
        found: Counter[str] = Counter()
        with suppress(FileNotFoundError):
            for line in self._file(day).read_text().splitlines():
                name, _, number = line.rpartition(" ")
                if number.isdigit():
                    found[name] += int(number)
        return found

    def add(self, day: date, name: str, number: int) -> None:
        """*name* carried so many bytes more. A disk that is full costs the memory, not the fetch."""
        with suppress(OSError), self._file(day).open("a") as file:
            file.write(f"{name} {number}\n")

    def _file(self, day: date) -> Path:
        return self._place / f"{_PREFIX}{day.isoformat()}.log"
