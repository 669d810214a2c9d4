"""What filters match, and the errors of invalid ones."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.filters import JOB_FIELDS
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.filters.evaluate import matches
from reelhaul_runtime.filters.parser import parse

JOB = {
    "state": 6,
    "kind": 1,
    "priority": 2,
    "url": "https://Videos.example/watch?v=*1",
    "labels": {"team": "a", "a-b": ""},
    "batch_id": "",
    "create_time": datetime(2026, 3, 1, 12, tzinfo=UTC),
    "update_time": datetime(2026, 3, 1, 13, tzinfo=UTC),
    "end_time": None,
    "error.reason": "UPSTREAM_BLOCKED",
    "media.extractor": "generic",
    "media.title": 'Ein "Film"',
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state = FAILED AND error.reason = UPSTREAM_BLOCKED", True),
        ("state = QUEUED OR state = FAILED", True),
        ("state != FAILED", False),
        ("NOT state = QUEUED", True),
        ("-state = QUEUED", True),
        # OR binds tighter than AND, as AIP-160 has it: this is FAILED and (QUEUED or HIGH).
        ("state = FAILED AND state = QUEUED OR priority = HIGH", False),
        ("(state = FAILED AND kind = SINGLE) OR priority = HIGH", True),
        ("create_time > 2026-03-01T11:00:00Z", True),
        ('create_time >= "2026-03-01T13:00:00+01:00"', True),
        ("create_time < 2026-03-01", False),
        ("end_time > 2020-01-01", False),
        ("NOT end_time > 2020-01-01", True),
        ("end_time != 2020-01-01", True),
        ('url = "*videos.EXAMPLE*"', True),
        ("url = https://videos.example/*", True),
        ('url = "*=\\*1"', True),
        ('url = "*=\\*"', False),
        ('url = "https://videos.example/watch?v=*1"', False),
        ("media.title = 'Ein \"Film\"'", True),
        ('media.title = "*\\"film\\""', True),
        ("labels.team = a", True),
        ('labels.a-b = ""', True),
        ("labels:team", True),
        ("labels.team:*", True),
        ("labels.team:b", False),
        ("labels.other = a", False),
        ("labels.other != a", True),
        ('batch_id = ""', True),
    ],
)
def test_matches(text, expected):
    """Each filter matches the job or does not."""
    node = parse(text, JOB_FIELDS)
    assert node is not None
    assert matches(node, JOB) is expected


def test_blank_filter():
    """A blank filter has no tree: it matches all."""
    assert parse("  \n", JOB_FIELDS) is None


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("state", 5, "comparison"),
        ("state =", 7, "value"),
        ("state = FAILED AND", 18, "field"),
        ("state = FAILED kind = SINGLE", 15, "AND, OR"),
        ("state = BROKEN", 8, "QUEUED"),
        ("state > FAILED", 6, "takes = !="),
        ("password = x", 0, "none of the fields"),
        ("state = FAILED AND (kind = SINGLE", 33, "parenthesis"),
        ("create_time > yesterday", 14, "2026-01-31T12:00:00Z"),
        ("labels = a", 7, 'labels.key = "value"'),
        ("labels.team > a", 12, 'labels.key = "value"'),
        ('labels:"a\' OR 1"', 6, "labels:key"),
        ('url = "open', 6, "value"),
        ("((((((state = FAILED))))))", 6, "deep"),
        (" AND ".join(["state = FAILED"] * 21), 19 * 20, "20 terms"),
        ("state = FAILED " * 1000, 8192, "8192"),
        ("AND", 0, "field"),
        (")", 0, "field"),
    ],
)
def test_invalid_filters(text, position, expected):
    """The error is FILTER_INVALID, with the position of the first mistake and what was expected."""
    with pytest.raises(ReelhaulError) as failure:
        parse(text, JOB_FIELDS)
    assert failure.value.reason == ErrorReason.FILTER_INVALID
    assert failure.value.metadata["position"] == str(position)
    assert expected in failure.value.text
    assert failure.value.violations[0].field == "filter"
