"""The public transcoding vectors, one test each, and the command that runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.libs import cases
from tests.libs.conformance import OWN_VECTORS, Case, load_cases


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in load_cases(OWN_VECTORS)])
def test_case(case: Case) -> None:
    """The transcoder behaves as the vector expects."""
    try:
        case.check()
    except cases.Skipped:
        pytest.skip("the vector expects nothing")


def test_conformance_command_reports_failures(tmp_path) -> None:
    """One line for each failure or other decision, a summary as the last line, and exit code 1."""
    failing = {"id": "mine-1", "template": "/v1/{ok}", "expect": "reject"}
    decided = {"id": "mine-2", "template": "/v1/**/x", "expect": "reject", "strength": "decision"}
    file = tmp_path / "cases.json"
    cases = {"about": "", "invalid_templates": [failing, decided], "unknown_section": [{}]}
    file.write_text(json.dumps(cases))
    command = [sys.executable, "-m", "tests.libs.conformance", f"VECTORS={file}"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert process.stdout.splitlines()[0].startswith("mine-1: ")
    assert process.stdout.splitlines()[1].startswith("mine-2 differs by decision: templates have the grammar")
    assert process.stdout.splitlines()[-1] == "conformance FAILED passed=0 failed=1 skipped=1"
