"""Cron: when a schedule runs, as people write it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_LONGEST = 200
_NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}
_EVERY = re.compile(r"@every +(?=\d)(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?")
_SHORTEST_EVERY, _LONGEST_EVERY = timedelta(minutes=1), timedelta(days=366)
_ZONE = re.compile(r"[A-Za-z0-9_+/-]{1,64}")
# A leap day that must be a certain weekday comes once in 28 years, or in 40.
_NEVER = timedelta(days=366 * 41)


class CronError(ValueError):
    """What is wrong with a cron or a time zone, for the one who wrote it."""


@dataclass(frozen=True, slots=True)
class Cron:
    """Times that come again and again. *every* counts from *since*, else the fields hold in *zone*."""

    fields: str
    zone: tzinfo
    every: timedelta | None
    since: datetime

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time after *moment*, in UTC; None where none comes."""
        if self.every is not None:
            return self.since + max((moment - self.since) // self.every + 1, 1) * self.every
        for found in self._local(moment):
            if found - moment > _NEVER:
                return None
            if found > moment:
                return found
        return None

    def _local(self, moment: datetime) -> Iterator[datetime]:
        """Times from about *moment* on. Of one that the clock shows twice, the first alone."""
        fixed = not self.fields.split()[1].startswith("*")
        for local in CronSim(self.fields, moment.astimezone(self.zone)):
            yield (local.replace(fold=0) if fixed else local).astimezone(UTC)


def parse_cron(text: str, zone_name: str, since: datetime) -> Cron:
    """The cron that *text* says, in the zone of that name (IANA; empty: UTC). Raises CronError."""
    zone = parse_time_zone(zone_name)
    if len(text) > _LONGEST:
        raise CronError(f"at most {_LONGEST} characters, not {len(text)}")
    if text.startswith("@every"):
        return Cron("", zone, _every(text), since)
    fields = _NAMES.get(text, text)
    if fields.startswith("@"):
        raise CronError(f"{text} is none of {', '.join(_NAMES)} and @every, e.g. @every 6h")
    if (number := len(fields.split())) != 5:
        raise CronError(f"five fields are needed (minute, hour, day, month, weekday), not {number}")
    try:
        CronSim(fields, since.astimezone(zone))
    except CronSimError as error:
        told = str(error)[:1].lower() + str(error)[1:]
        never = ", or one that its months never have" if "day-of-month" in told else ""
        raise CronError(f"{told}{never}") from error
    return Cron(fields, zone, None, since)


def parse_time_zone(name: str) -> tzinfo:
    """The IANA time zone called *name*. Raises CronError."""
    if name in ("", "UTC", "Etc/UTC"):
        return UTC
    unknown = CronError(f"{name[:64]!r} is no IANA time zone, as Europe/Berlin is one")
    if not _ZONE.fullmatch(name):
        raise unknown
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError) as error:
        raise unknown from error


def _every(text: str) -> timedelta:
    found = _EVERY.fullmatch(text)
    if found is None:
        raise CronError("@every takes a duration, e.g. @every 6h or @every 1d12h")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    every = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not _SHORTEST_EVERY <= every <= _LONGEST_EVERY:
        raise CronError("@every takes one minute to 366 days")
    return every
