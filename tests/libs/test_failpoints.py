"""Fail-points kill where they are told to, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from pydantic import ValidationError

from reelhaul_runtime import failpoints
from reelhaul_runtime.settings import SuiteSettings

_REACH_TWO = """
from reelhaul_runtime import failpoints
failpoints.arm(failpoints.parse({asked!r}))
failpoints.hit("jobs.claim.after_commit")
print("passed the first", flush=True)
failpoints.hit("fetcher.ack.before")
"""


def _reached(asked: str) -> tuple[int, str]:
    """How a process ends that reaches two points, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", _REACH_TWO.format(asked=asked)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.strip()


def test_unarmed():
    """Without fail-points nothing happens at any."""
    assert _reached("") == (0, "passed the first")


def test_killed_at_the_named_point():
    """A process dies at the point that is named, by SIGKILL, and not at another."""
    asked = "fetcher.ack.before=kill:1, jobs.claim.after_commit=kill:0"
    assert _reached(asked) == (-signal.SIGKILL, "passed the first")


@pytest.mark.parametrize("text", ["jobs.claim", "jobs.claim=kill:2", "jobs.claim=hang:1", "claim=kill:1"])
def test_unreadable(text: str):
    """What cannot be read is told, not passed over."""
    with pytest.raises(ValueError, match="is not <point>=kill:"):
        failpoints.parse(text)


def test_only_in_crash_tests():
    """A service that is told to die refuses to start, unless it is in a crash test."""
    with pytest.raises(ValidationError, match="REELHAUL_CHAOS=1"):
        SuiteSettings(failpoints="jobs.claim.after_commit=kill:1")
    assert SuiteSettings(failpoints="jobs.claim.after_commit=kill:1", chaos=True).failpoints
