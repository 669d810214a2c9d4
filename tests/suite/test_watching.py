"""What the tests of the suite follow downloads with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.suite.suite import SuiteError, running_suite
from tests.suite.watching import events


def test_events_of_sse() -> None:
    """Comments and ids are passed over, lines of one event are joined, and its type is told."""
    lines = [": ping", "", "id: 7", "data: {", "data: }", "", "event: error", "data: gone", "", "data: cut"]
    assert list(events(lines)) == [("message", "{\n}"), ("error", "gone")]


def test_suite_that_cannot_start(tmp_path: Path) -> None:
    """A suite that ends at once is told with the place of its log, and leaves no process."""
    with (
        pytest.raises(SuiteError, match=r"data\.log"),
        running_suite(tmp_path / "data", drain_seconds="soon"),
    ):
        pass
