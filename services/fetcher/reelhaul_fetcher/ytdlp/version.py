"""Which engine is installed here, and which one this build asks for at least."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib import metadata

_PACKAGE = "yt-dlp"


def engine_age(engine: str = "") -> EngineAge:
    """How old *engine* is, e.g. "yt-dlp 2026.10.26"; empty means the one that is installed."""
    if not engine:
        try:
            engine = f"{_PACKAGE} {metadata.version(_PACKAGE)}"
        except metadata.PackageNotFoundError:
            engine = f"no {_PACKAGE}"
    return compute_age(engine, datetime.now(UTC).date(), _floor())


def _floor() -> str:
    try:
        asked = metadata.requires("reelhaul") or []
    except metadata.PackageNotFoundError:
        return ""
    for line in asked:
        if found := re.match(rf"{_PACKAGE}\s*>=\s*([\d.]+)", line):
            return found[1]
    return ""


#: Days after which sites have changed more than an engine knows, by experience.
OLD_DAYS = 60


@dataclass(frozen=True, slots=True)
class EngineAge:
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


def compute_age(engine: str, today: date, floor: str) -> EngineAge:
    """How old *engine* is; *floor* is the oldest version that we run with."""
    try:
        days = (today - date(*_numbers(engine)[:3])).days
    except (TypeError, ValueError):
        days = None
    return EngineAge(engine, days, floor)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"\d+(\.\d+)+", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()
