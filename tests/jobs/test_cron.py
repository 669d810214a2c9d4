"""Times that come again and again, as people write them."""

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
def test_the_first_time(text: str, first: datetime) -> None:
    """Fields, names and intervals come when they say."""
    if text.endswith("1#5"):
        assert after(text, datetime(2030, 1, 1, tzinfo=UTC)) is not None
    else:
        assert after(text, NEW_YEAR) == first


def test_a_time_is_never_told_twice() -> None:
    """What comes after a time is later than it."""
    moment: datetime | None = NEW_YEAR
    seen = []
    for _ in range(5):
        assert moment is not None
        moment = after("@every 90m", moment)
        seen.append(moment)
    assert seen == [NEW_YEAR + n * timedelta(minutes=90) for n in range(1, 6)]


def test_intervals_count_from_their_beginning() -> None:
    """However late one looks, an interval keeps its step."""
    late = NEW_YEAR + timedelta(days=400, minutes=7)
    assert after("@every 6h", late) == NEW_YEAR + timedelta(days=400, hours=6)


def test_hours_are_those_of_the_zone() -> None:
    """Six o'clock in Berlin is five in winter and four in summer, in UTC."""
    assert after("0 6 * * *", NEW_YEAR, "Europe/Berlin") == datetime(2026, 1, 1, 5, tzinfo=UTC)
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    assert after("0 6 * * *", summer, "Europe/Berlin") == datetime(2026, 7, 1, 4, tzinfo=UTC)


def test_a_time_that_the_clock_skips() -> None:
    """Half past two, on the night that has none, is as soon as the clock is past it."""
    eve = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert after("30 2 * * *", eve, "Europe/Berlin") == datetime(2026, 3, 29, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["30 2 * * *", "*/30 2 * * *"])
def test_a_time_that_the_clock_shows_twice(text: str) -> None:
    """Half past two, on the night that has two, is the first of them; not again, however late one looks."""
    assert after(text, datetime(2026, 10, 25, 0, 20, tzinfo=UTC), "Europe/Berlin") == datetime(
        2026, 10, 25, 0, 30, tzinfo=UTC
    )
    second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    found = after(text, second, "Europe/Berlin")
    assert found is not None
    assert found.day == 26


def test_every_half_hour_goes_on_through_a_clock_change() -> None:
    """What runs by the hour runs in both of the night's two hours."""
    moment = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert after("*/30 * * * *", moment, "Europe/Berlin") == datetime(2026, 10, 25, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "zone", "said"),
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
def test_what_is_wrong_is_said(text: str, zone: str, said: str) -> None:
    """Whoever writes a cron that is none learns why."""
    with pytest.raises(CronError) as failure:
        parse_cron(text, zone, NEW_YEAR)
    assert said in str(failure.value)
