"""The public transcoding cases, one test each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.libs import cases
from tests.libs.conformance import OWN_VECTORS, Case, cases_of


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases_of(OWN_VECTORS)])
def test_case(case: Case) -> None:
    """We answer as the case expects."""
    try:
        case.check()
    except cases.Skipped:
        pytest.skip("the case expects nothing")


def test_the_command_tells_what_failed(tmp_path) -> None:
    """One line for each failure, one for the whole, and the exit code."""
    wrong = {"id": "mine-1", "template": "/v1/{ok}", "expect": "reject"}
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"about": "", "invalid_templates": [wrong], "unheard_of": [{}]}))
    command = [sys.executable, "-m", "tests.libs.conformance", f"VECTORS={file}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[0].startswith("mine-1: ")
    assert ended.stdout.splitlines()[-1] == "conformance FAILED passed=0 failed=1 skipped=0"
