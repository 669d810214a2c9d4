"""Failpoints kill where they are armed, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.failpoints import read_failpoints_hit

from reelhaul_runtime import failpoints
from reelhaul_runtime.settings import SuiteSettings

_HIT_TWO = """
from reelhaul_runtime import failpoints
failpoints.arm(failpoints.parse({text!r}))
failpoints.hit("jobs.claim.after_commit")
print("survived the first", flush=True)
failpoints.hit("fetcher.ack.before")
"""


def hit_two(text: str) -> tuple[int, str]:
    """Run a process that hits two failpoints; return its exit code and output."""
    process = subprocess.run(
        [sys.executable, "-c", _HIT_TWO.format(text=text)], capture_output=True, text=True, check=False
    )
    return process.returncode, process.stdout.strip()


def test_unarmed():
    """Without failpoints nothing happens."""
    assert hit_two("") == (0, "survived the first")


def test_killed_at_the_named_point():
    """A process dies by SIGKILL at the named failpoint, and not at another."""
    text = "fetcher.ack.before=kill:1, jobs.claim.after_commit=kill:0"
    assert hit_two(text) == (-signal.SIGKILL, "survived the first")


def test_hits_are_read_from_the_log(tmp_path: Path):
    """Crash tests count the failpoints in the logs that services write, whatever the form of a line."""
    log = tmp_path / "log"
    with log.open("w") as stderr:
        code = """
import logging, sys
from reelhaul_runtime import failpoints, logs
logs.configure("jobs", "json", "INFO")
logging.info("before", extra={"failpoints": 1})
failpoints.arm(failpoints.parse("jobs.claim.after_commit=kill:1"))
failpoints.hit("jobs.claim.after_commit")
"""
        process = subprocess.run([sys.executable, "-c", code], stderr=stderr, check=False)
    assert process.returncode == -signal.SIGKILL
    with log.open("a") as file:
        file.write('{"failpoint":"jobs.cl')
    assert list(read_failpoints_hit(log)) == ["jobs.claim.after_commit"]


@pytest.mark.parametrize("text", ["jobs.claim", "jobs.claim=kill:2", "jobs.claim=hang:1", "claim=kill:1"])
def test_invalid_text(text: str):
    """Text that does not parse is an error, not ignored."""
    with pytest.raises(ValueError, match="is not <point>=kill:"):
        failpoints.parse(text)


def test_only_in_crash_tests():
    """A service with failpoints refuses to start, unless it runs in a crash test."""
    with pytest.raises(ValidationError, match="REELHAUL_CHAOS=1"):
        SuiteSettings(failpoints="jobs.claim.after_commit=kill:1")
    assert SuiteSettings(failpoints="jobs.claim.after_commit=kill:1", chaos=True).failpoints
