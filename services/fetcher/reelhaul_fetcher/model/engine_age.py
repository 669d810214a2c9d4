"""How old an engine is: a two-month-old extractor is a broken one, as a rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

#: Days after which sites have changed more than an engine knows, by experience.
OLD_DAYS = 60


@dataclass(frozen=True, slots=True)
class Age:
    """An engine's version against the calendar, and the oldest one that we run with."""

    #: E.g. "yt-dlp 2026.10.26".
    engine: str
    #: Days since it was made; None where its version is no date.
    days: int | None
    #: Empty where it is not known.
    floor: str

    @property
    def state(self) -> str:
        """``ok``, ``old``, or ``below the floor``."""
        floor, own = _numbers(self.floor), _numbers(self.engine)
        if floor and own and own < floor:
            return "below the floor"
        return "old" if self.days is not None and self.days > OLD_DAYS else "ok"


def age_of(engine: str, today: date, floor: str) -> Age:
    """How old *engine* is; *floor* is the oldest version that we run with."""
    try:
        days = (today - date(*_numbers(engine)[:3])).days
    except (TypeError, ValueError):
        days = None
    return Age(engine, days, floor)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"\d+(\.\d+)+", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()
