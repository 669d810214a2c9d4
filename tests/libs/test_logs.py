"""Logs: one JSON object per line for programs, or text for people."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from reelhaul_runtime import logs

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """A stream for the logs; the logging of the tests is restored afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logs.request_id.set("")
    logs.traceparent.set("")


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_each_record_is_one_json_line(out: io.StringIO):
    """A record is one line, whatever its newlines, with time, level, service and extras."""
    logs.configure("jobs", "json", "INFO", stream=out)
    logging.getLogger("reelhaul_jobs").info("two\nlines %d", 7, extra={"job": "jobs/1", "folder": io})
    (line,) = lines(out)
    assert line["message"] == "two\nlines 7"
    assert (line["level"], line["service"], line["job"]) == ("INFO", "jobs", "jobs/1")
    assert line["time"].endswith("+00:00")


def test_records_have_their_request(out: io.StringIO):
    """Within a request each record has the request id and the trace id; outside neither."""
    logs.configure("jobs", "json", "INFO", stream=out)
    logging.getLogger("x").info("outside")
    logs.begin_request("req-1", TRACE)
    logging.getLogger("x").info("inside")
    outside, inside = lines(out)
    assert "request_id" not in outside
    assert inside["request_id"] == "req-1"
    assert inside["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", 'a"b', "ü", "a\n"])
def test_invalid_request_ids_are_replaced(out: io.StringIO, sent: str):
    """An id that is empty, too long or has characters that are not allowed is replaced."""
    logs.begin_request(sent, "no trace")
    assert len(logs.request_id.get()) == 16
    assert logs.traceparent.get() == ""


def test_exceptions_are_part_of_the_line(out: io.StringIO):
    """A traceback is a field of the record, not lines of its own."""
    logs.configure("jobs", "json", "INFO", stream=out)
    try:
        int("bang")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    (line,) = lines(out)
    assert "ValueError: invalid literal" in line["exception"]


def test_text(out: io.StringIO):
    """As text a line names the service and the extras."""
    logs.configure("jobs", "text", "INFO", stream=out)
    logging.getLogger("x").warning("careful", extra={"job": "jobs/1"})
    assert out.getvalue().split()[2:] == ["jobs", "WARNING", "careful", "job=jobs/1"]


def test_level(out: io.StringIO):
    """Nothing below the level is written; libraries that log every request have a higher level."""
    logs.configure("jobs", "json", "INFO", stream=out)
    logging.getLogger("x").debug("no")
    logging.getLogger("httpx").info("GET /")
    assert out.getvalue() == ""
