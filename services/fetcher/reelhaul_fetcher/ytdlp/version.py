"""Version of the engine: which one is installed, how old it is, and the oldest that this build supports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from importlib import metadata

_PACKAGE = "yt-dlp"

#: After this many days, enough sites have changed to break extractors.
OLD_DAYS = 60


@dataclass(frozen=True, slots=True)
class EngineAge:
    """Age of an engine, and the oldest supported version."""

    #: E.g. "yt-dlp 2026.10.26".
    engine: str
    #: Days since its release; None if its version is not a date.
    days: int | None
    #: Oldest supported version; empty if unknown.
    floor: str

    @property
    def state(self) -> str:
        """``ok``, ``old``, or ``below the floor``."""
        floor, version = _parse(self.floor), _parse(self.engine)
        if floor and version and version < floor:
            return "below the floor"
        return "old" if self.days is not None and self.days > OLD_DAYS else "ok"

    @property
    def days_text(self) -> str:
        """The age for people, e.g. "35 days old"."""
        return "of unknown age" if self.days is None else f"{self.days} days old"


def engine_age(engine: str = "") -> EngineAge:
    """Return the age of *engine*, e.g. "yt-dlp 2026.10.26"; empty means the installed one."""
    if not engine:
        try:
            engine = f"{_PACKAGE} {metadata.version(_PACKAGE)}"
        except metadata.PackageNotFoundError:
            engine = f"no {_PACKAGE}"
    return compute_age(engine, datetime.now(UTC).date(), _floor())


def compute_age(engine: str, today: date, floor: str) -> EngineAge:
    """Return the age of *engine* on the day *today*; *floor* is the oldest supported version."""
    try:
        days = (today - date(*_parse(engine)[:3])).days
    except (TypeError, ValueError):
        days = None
    return EngineAge(engine, days, floor)


def release_time(engine: str) -> datetime | None:
    """Return when *engine* was released; None if its version is not a date."""
    try:
        released = date(*_parse(engine)[:3])
    except (TypeError, ValueError):
        return None
    return datetime.combine(released, time.min, UTC)


def _floor() -> str:
    try:
        requirements = metadata.requires("reelhaul") or []
    except metadata.PackageNotFoundError:
        return ""
    for requirement in requirements:
        if match := re.match(rf"{_PACKAGE}\s*>=\s*([\d.]+)", requirement):
            return match[1]
    return ""


def _parse(version: str) -> tuple[int, ...]:
    match = re.search(r"\d+(\.\d+)+", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()
