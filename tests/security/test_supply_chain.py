"""What is installed is what was locked, and the audit says what it did."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def test_every_install_verifies_hashes() -> None:
    """The Makefile installs nothing but locked files with hashes, and this project without dependencies."""
    installs = re.findall(r"pip install.*", (ROOT / "Makefile").read_text())
    assert installs
    for install in installs:
        assert "--require-hashes -r requirements/" in install or "--no-deps --no-build-isolation" in install


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_has_a_hash(lock: Path) -> None:
    """Each entry names one version and its hashes, and no other index."""
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^ *#.*\n", "", lock.read_text()).strip())
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==\S+ .*\\\n    --hash=sha256:[0-9a-f]{64}", entry), entry


def run_audit(folder: Path, output: str, status: int) -> subprocess.CompletedProcess[str]:
    """Run ``make audit``'s program with a pip-audit that prints *output* and ends with *status*."""
    (folder / "pip_audit.py").write_text(
        f"import sys\nprint({output!r})\nprint('no route', file=sys.stderr)\nsys.exit({status})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "tests.audit"]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def _report(**package: Any) -> str:
    return json.dumps({"dependencies": [{"name": "av", "version": "18", "vulns": [], **package}]})


_KNOWN = {"id": "PYSEC-1", "fix_versions": ["19"], "aliases": [], "description": ""}


@pytest.mark.parametrize(
    ("output", "status", "last_line", "exit_code"),
    [
        (_report(), 0, "audit ok packages=1", 0),
        (_report(vulns=[_KNOWN]), 1, "audit FAILED vulnerabilities=1", 1),
        ("", 1, "audit SKIPPED: no route", 0),
        (
            _report(skip_reason="unknown"),
            0,
            "audit SKIPPED: the advisory service knows none of the packages",
            0,
        ),
    ],
    ids=["none known", "one known", "unreachable", "not served"],
)
def test_audit(tmp_path: Path, output: str, status: int, last_line: str, exit_code: int) -> None:
    """The last line says whether packages were compared with advisories, and what was found."""
    process = run_audit(tmp_path, output, status)
    assert (process.stdout.splitlines()[-1], process.returncode) == (last_line, exit_code)
