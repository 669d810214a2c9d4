"""Short chaos runs: no job is lost under kills, and a jobs service without a safeguard is detected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 170

# A run needs both cores and is slow when other tests run at the same time.
pytestmark = pytest.mark.timeout(_SECONDS + 10)


def _run_chaos(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run with the data in *folder*; return exit code, last line and whole output."""
    command = [sys.executable, "-m", "tests.chaos", *arguments]
    result = subprocess.run(
        command,
        cwd=_ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return result.returncode, result.stdout.splitlines()[-1], result.stdout


def test_nothing_is_lost(tmp_path: Path):
    """After 25 s of kills, stalls and a wipe no job is lost or doubled, and no bytes are orphaned."""
    code, last_line, output = _run_chaos(tmp_path, "--seconds", "25", "--seed", "7")
    assert code == 0, output
    assert last_line.startswith("chaos ok accepted=")
    assert " lost=0 doubled=0 stale=0 orphans=0 kills=jobs:" in last_line
    assert "accepted=0" not in last_line


@pytest.mark.parametrize(
    ("mutant", "invariants", "arguments"),
    [
        ("no-fence", {"I4"}, ("--seconds", "12")),
        # Its stuck jobs never end, so that a short patience suffices.
        ("no-sweeper", {"I1", "I9"}, ("--seconds", "9", "--patience", "12")),
    ],
)
def test_mutant_is_detected(tmp_path: Path, mutant: str, invariants: set[str], arguments: tuple[str, ...]):
    """Without the fence or the sweeper the run fails and names a broken invariant."""
    for seed in ("2", "3", "4"):
        # On a busy machine a wipe can hit an empty stream, a stall an idle fetcher, and a port be taken.
        code, last_line, output = _run_chaos(
            tmp_path, "--mutant", mutant, "--fetchers", "2", "--seed", seed, *arguments
        )
        if last_line.startswith("chaos FAILED I"):
            break
    assert code == 1, output
    assert last_line.startswith("chaos FAILED I"), output
    broken = {line.split()[1] for line in output.splitlines() if line.startswith("broken ")}
    assert broken & invariants, output
