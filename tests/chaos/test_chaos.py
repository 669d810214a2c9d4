"""``make chaos`` in short: nothing is lost under kills, and a suite that lacks a safeguard is found out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 170

# One run takes both cores for a while: patience is for the machine, not for the suite.
pytestmark = pytest.mark.timeout(_SECONDS + 10)


def _chaos(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, last line and all output of a run in *folder*, where a failed one leaves its data."""
    command = [sys.executable, "-m", "tests.chaos", *arguments]
    done = subprocess.run(
        command,
        cwd=_ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()[-1], done.stdout


def test_nothing_is_lost(tmp_path: Path):
    """Killed, stalled and wiped for 25 s, the suite loses nothing, doubles nothing, leaves nothing behind."""
    code, last, said = _chaos(tmp_path, "--seconds", "25", "--seed", "7")
    assert code == 0, said
    assert last.startswith("chaos ok accepted=")
    assert " lost=0 doubled=0 stale=0 orphans=0 kills=jobs:" in last
    assert "accepted=0" not in last


@pytest.mark.parametrize(
    ("mutant", "broken", "arguments"),
    [
        ("no-fence", "I4", ("--seconds", "12")),
        # Its jobs are stuck for good: waiting longer shows nothing more.
        ("no-sweeper", ("I1", "I9"), ("--seconds", "9", "--patience", "12")),
    ],
)
def test_mutant_is_found_out(
    tmp_path: Path, mutant: str, broken: str | tuple[str, ...], arguments: tuple[str, ...]
):
    """Without the fence, or without the sweeper, the run fails and names the invariant that broke."""
    for seed in ("2", "3", "4"):
        # On a busy machine a wipe may meet an empty stream, and a stall an idle worker.
        code, last, said = _chaos(tmp_path, "--mutant", mutant, "--fetchers", "2", "--seed", seed, *arguments)
        if code:
            break
    assert code == 1, said
    assert last.startswith("chaos FAILED I"), said
    named = {line.split()[1] for line in said.splitlines() if line.startswith("broken ")}
    assert named & ({broken} if isinstance(broken, str) else set(broken)), said
