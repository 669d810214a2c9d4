"""Cron expressions: when a schedule runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_MAX_LENGTH = 200
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}
_EVERY = re.compile(r"@every +(?=\d)(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?")
_MIN_INTERVAL, _MAX_INTERVAL = timedelta(minutes=1), timedelta(days=366)
_ZONE = re.compile(r"[A-Za-z0-9_+/-]{1,64}")
# A leap day on a certain weekday comes once in 28 or 40 years; a later time counts as never.
_HORIZON = timedelta(days=366 * 41)


class CronError(ValueError):
    """What is wrong with a cron expression or a time zone, for its author."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A recurring time: every *interval* from *since*, or by cron *fields* in *zone*."""

    fields: str
    zone: tzinfo
    interval: timedelta | None
    since: datetime

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first time after *moment*, in UTC; None if there is none."""
        if self.interval is not None:
            return self.since + max((moment - self.since) // self.interval + 1, 1) * self.interval
        for time in self._times(moment):
            if time - moment > _HORIZON:
                return None
            if time > moment:
                return time
        return None

    def _times(self, moment: datetime) -> Iterator[datetime]:
        """Yield times from about *moment* on; a local time that the clock shows twice comes once."""
        fixed_hour = not self.fields.split()[1].startswith("*")
        for local in CronSim(self.fields, moment.astimezone(self.zone)):
            yield (local.replace(fold=0) if fixed_hour else local).astimezone(UTC)


def parse_cron(text: str, zone_name: str, since: datetime) -> Cron:
    """Parse a cron expression in an IANA time zone (empty: UTC). Raises CronError."""
    zone = parse_time_zone(zone_name)
    if len(text) > _MAX_LENGTH:
        raise CronError(f"at most {_MAX_LENGTH} characters, not {len(text)}")
    if text.startswith("@every"):
        return Cron("", zone, _parse_interval(text), since)
    fields = _ALIASES.get(text, text)
    if fields.startswith("@"):
        raise CronError(f"{text} is not one of {', '.join(_ALIASES)} and @every, e.g. @every 6h")
    if (count := len(fields.split())) != 5:
        raise CronError(f"five fields are needed (minute, hour, day, month, weekday), not {count}")
    try:
        CronSim(fields, since.astimezone(zone))
    except CronSimError as error:
        message = str(error)[:1].lower() + str(error)[1:]
        hint = ", or one that its months never have" if "day-of-month" in message else ""
        raise CronError(f"{message}{hint}") from error
    return Cron(fields, zone, None, since)


def parse_time_zone(name: str) -> tzinfo:
    """Return the IANA time zone *name*. Raises CronError."""
    if name in ("", "UTC", "Etc/UTC"):
        return UTC
    unknown = CronError(f"{name[:64]!r} is not an IANA time zone such as Europe/Berlin")
    if not _ZONE.fullmatch(name):
        raise unknown
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError) as error:
        raise unknown from error


def _parse_interval(text: str) -> timedelta:
    match = _EVERY.fullmatch(text)
    if match is None:
        raise CronError("@every takes a duration, e.g. @every 6h or @every 1d12h")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    interval = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not _MIN_INTERVAL <= interval <= _MAX_INTERVAL:
        raise CronError("@every takes one minute to 366 days")
    return interval
