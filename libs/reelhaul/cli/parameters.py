"""Types of options: durations, sizes, positions in a video, and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_DURATION = re.compile(r"([0-9]{1,6})([smhdw])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?([kmgt]?)(i?)b?", re.IGNORECASE)
_PREFIXES = " kmgt"
_POSITION = re.compile(r"(?:(?:([0-9]{1,3}):)?([0-9]{1,3}):)?([0-9]{1,7}(?:\.[0-9]{1,6})?)")


class Seconds(click.ParamType[int]):
    """A duration such as 90d, 12h or 30m, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail("must be a number and a unit, for example 90d, 12h, 30m or 45s", param, ctx)
        return int(match[1]) * _UNIT_SECONDS[match[2]]


class Bytes(click.ParamType[int]):
    """A size such as 500M (10^6), 1.5G or 700MiB (2^20), in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value))
        if match is None:
            self.fail("must be a number of bytes, for example 500M, 1.5G or 700MiB", param, ctx)
        base, exponent = 1024 if match[3] else 1000, _PREFIXES.index(match[2].lower() or " ")
        return round(float(match[1]) * float(base**exponent))


class Position(click.ParamType[float]):
    """A position in a video, as seconds or [HH:]MM:SS, in seconds."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = _POSITION.fullmatch(str(value))
        if match is None:
            self.fail("must be seconds or [HH:]MM:SS, for example 90, 1:30 or 1:02:03.5", param, ctx)
        return int(match[1] or 0) * 3600 + int(match[2] or 0) * 60 + float(match[3])


class Time(click.ParamType[datetime]):
    """A time in ISO 8601, local without an offset; or a duration from now, into the past or the future."""

    name = "time"

    def __init__(self, *, future: bool = False) -> None:
        self._future = future

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if (match := _DURATION.fullmatch(str(value))) is not None:
            distance = timedelta(seconds=int(match[1]) * _UNIT_SECONDS[match[2]])
            return datetime.now(UTC) + distance if self._future else datetime.now(UTC) - distance
        try:
            return datetime.fromisoformat(str(value)).astimezone(UTC)
        except (ValueError, OverflowError):
            direction = "from now" if self._future else "ago"
            self.fail(
                f"must be a time, for example 2026-12-24T18:00, or a duration {direction}, for example 12h",
                param,
                ctx,
            )


def format_timestamp(time: datetime) -> str:
    """Return *time* as JSON has a google.protobuf.Timestamp."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
