"""Classification of failures: rules without a network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reelhaul_fetcher.model.http_values import parse_retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120), ("Wed, 21 Oct 2026 07:28:30 GMT", 30), ("9999999", 86_400), ("-5", None), ("soon", None)],
)
def test_retry_after(header: str, seconds: int | None) -> None:
    """Retry-After is seconds or a date, at most a day; None if it cannot be parsed."""
    now = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert expected == parse_retry_after(header, now)
