"""Cron expressions: the times that they stand for, and the errors of invalid ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reelhaul_jobs.model.cron import CronError, parse_cron

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def after(text: str, moment: datetime, zone: str = "") -> datetime | None:
    return parse_cron(text, zone, NEW_YEAR).next_after(moment)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("* * * * *", datetime(2026, 1, 1, 0, 1, tzinfo=UTC)),
        ("30 4 * * MON-FRI", datetime(2026, 1, 1, 4, 30, tzinfo=UTC)),
        ("0 0 L * *", datetime(2026, 1, 31, tzinfo=UTC)),
        ("@hourly", datetime(2026, 1, 1, 1, tzinfo=UTC)),
        ("@daily", datetime(2026, 1, 2, tzinfo=UTC)),
        ("@weekly", datetime(2026, 1, 4, tzinfo=UTC)),
        ("@monthly", datetime(2026, 2, 1, tzinfo=UTC)),
        ("@every 6h", datetime(2026, 1, 1, 6, tzinfo=UTC)),
        ("@every 1d12h", datetime(2026, 1, 2, 12, tzinfo=UTC)),
        ("0 0 29 2 1#5", datetime(2044, 2, 29, tzinfo=UTC)),
    ],
)
def test_first_time(text: str, first: datetime) -> None:
    """Fields, aliases and intervals have the right first time."""
    if text.endswith("1#5"):
        assert after(text, datetime(2030, 1, 1, tzinfo=UTC)) is not None
    else:
        assert after(text, NEW_YEAR) == first


def test_times_ascend() -> None:
    """The time after a time is later."""
    moment: datetime | None = NEW_YEAR
    times = []
    for _ in range(5):
        assert moment is not None
        moment = after("@every 90m", moment)
        times.append(moment)
    assert times == [NEW_YEAR + n * timedelta(minutes=90) for n in range(1, 6)]


def test_intervals_count_from_their_start() -> None:
    """An interval keeps its step however late it is evaluated."""
    late = NEW_YEAR + timedelta(days=400, minutes=7)
    assert after("@every 6h", late) == NEW_YEAR + timedelta(days=400, hours=6)


def test_hours_are_local() -> None:
    """06:00 in Berlin is 05:00 UTC in winter and 04:00 UTC in summer."""
    assert after("0 6 * * *", NEW_YEAR, "Europe/Berlin") == datetime(2026, 1, 1, 5, tzinfo=UTC)
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    assert after("0 6 * * *", summer, "Europe/Berlin") == datetime(2026, 7, 1, 4, tzinfo=UTC)


def test_skipped_local_time() -> None:
    """A local time that a clock change skips comes right after the change."""
    eve = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert after("30 2 * * *", eve, "Europe/Berlin") == datetime(2026, 3, 29, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["30 2 * * *", "*/30 2 * * *"])
def test_repeated_local_time(text: str) -> None:
    """A local time that a clock change repeats comes once, at its first occurrence."""
    assert after(text, datetime(2026, 10, 25, 0, 20, tzinfo=UTC), "Europe/Berlin") == datetime(
        2026, 10, 25, 0, 30, tzinfo=UTC
    )
    second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    found = after(text, second, "Europe/Berlin")
    assert found is not None
    assert found.day == 26


def test_every_half_hour_through_a_clock_change() -> None:
    """An expression with any hour runs in both occurrences of the repeated hour."""
    moment = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert after("*/30 * * * *", moment, "Europe/Berlin") == datetime(2026, 10, 25, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("61 * * * *", "", "bad minute"),
        ("* * * *", "", "five fields are needed (minute, hour, day, month, weekday), not 4"),
        ("* * * * * *", "", "not 6"),
        ("0 0 31 2 *", "", "its months never have"),
        ("@yearly", "", "@yearly is not one of"),
        ("@every 30s", "", "one minute"),
        ("@every soon", "", "takes a duration"),
        ("@every", "", "takes a duration"),
        ("* " * 200, "", "at most 200 characters"),
        ("0 0 * * *", "Europe/Nowhere", "'Europe/Nowhere' is not an IANA time zone"),
        ("0 0 * * *", "../../etc/passwd", "not an IANA time zone"),
        ("0 0 * * *", "Europe", "not an IANA time zone"),
        ("0 0 * * *", "\0", "not an IANA time zone"),
    ],
)
def test_errors(text: str, zone: str, expected: str) -> None:
    """The error of an invalid expression says what is wrong."""
    with pytest.raises(CronError) as failure:
        parse_cron(text, zone, NEW_YEAR)
    assert expected in str(failure.value)
