"""The verdict of a load run: what fails it, and what does not."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.chaos.invariants import Violation
from tests.load import report
from tests.load.restarts import Restart
from tests.load.run import LoadResult


def _result(**changes: object) -> LoadResult:
    return LoadResult(states=Counter(SUCCEEDED=3), **changes)  # type: ignore[arg-type]


def test_a_run_without_failures_passes() -> None:
    """Calls that fail while processes are killed do not fail the run, and the last line counts them apart."""
    result = _result(
        failures={"kills": {"get (REST): ReadError": 2}}, latencies={"jobs": {"get (REST)": [0.1]}}
    )
    counts = "jobs=3 succeeded=3 calls=1 failed=0 failed_by_kills=2 watches=0 restarts=0 kills=0 violations=0"
    assert report.last_line(result) == f"load ok {counts}"


@pytest.mark.parametrize(
    "changes",
    [
        {"failures": {"restarts": {"get (REST): ReadError": 1}}},
        {"violations": [Violation("I1", "j", "accepted, and its row is gone")]},
        {"restarts": [Restart("jobs-1", 1, 1.0, 1.0)]},
        {"memory": {"middle": {"jobs-1": 100.0}, "end": {"jobs-1": 119.0}}},
    ],
    ids=["failed call", "violation", "exit code", "growth"],
)
def test_a_failure_fails_the_run(changes: dict[str, object]) -> None:
    """One failed call during restarts, one violation, one exit code or one process that grows is enough."""
    assert report.last_line(_result(**changes)).startswith("load FAILED ")


def test_memory_may_vary() -> None:
    """A process may grow by a tenth and 8 MB under constant load."""
    result = _result(memory={"middle": {"jobs-1": 100.0}, "end": {"jobs-1": 117.0}})
    assert report.find_growth(result) == {}
