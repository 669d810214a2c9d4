"""What every workflow in .github keeps to, beyond what linters know."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
_FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
_USES = re.compile(r"^\s*-?\s*uses: (\S+)(.*)$", re.MULTILINE)
_PINNED = re.compile(r"([\w.-]+/[\w./-]+)@([0-9a-f]{40})")
_SCRIPT = re.compile(r"(?<![\w/])((?:deploy|\.github)/[\w/-]+\.(?:py|sh))")
_EACH_FILE = pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)


def jobs(file: Path) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["jobs"]
    return content


def scripts() -> Iterator[str]:
    """Yield every script of a step."""
    for file in _FILES:
        for job in jobs(file).values():
            yield from (step["run"] for step in job.get("steps", ()) if "run" in step)


@_EACH_FILE
def test_permissions_are_given_to_jobs(file: Path):
    """A workflow may at most read the code; a job that may more says so itself."""
    assert yaml.safe_load(file.read_text())["permissions"] in ({}, {"contents": "read"})


@_EACH_FILE
def test_jobs_are_bounded(file: Path):
    """Every job that runs on a machine has a limit of time, and names the release of its system."""
    for job in jobs(file).values():
        if "uses" not in job:
            assert 1 <= job["timeout-minutes"] <= 120
            assert job["runs-on"] == "ubuntu-24.04"


@_EACH_FILE
def test_runs_do_not_overlap(file: Path):
    """A second run waits for the first, or replaces it; a called workflow is part of its caller."""
    content = yaml.safe_load(file.read_text())
    # YAML reads the key `on` as true.
    assert "concurrency" in content or content[True].keys() == {"workflow_call"}


def test_actions_are_pinned():
    """Each action is named by a commit, the same one everywhere, beside the version that it is."""
    versions: dict[str, set[str]] = {}
    for file in _FILES:
        for name, comment in _USES.findall(file.read_text()):
            if name.startswith("$/"):
                assert (ROOT / name.removeprefix("$/")).is_file(), name
                continue
            match = _PINNED.fullmatch(name)
            assert match, f"{file.name}: {name} is not pinned"
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{file.name}: {name}{comment}"
            versions.setdefault(match[1], set()).add(match[2])
    assert {name: hashes for name, hashes in versions.items() if len(hashes) > 1} == {}


def test_scripts_have_no_expressions():
    """Values reach scripts as variables of the environment, where no shell reads them as code."""
    assert [script for script in scripts() if "${{" in script] == []


def test_checkouts_keep_no_credentials():
    """No later step of a job finds the token of the checkout."""
    for file in _FILES:
        for job in jobs(file).values():
            for step in job.get("steps", ()):
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False, file.name


def test_upgrade_is_stored_before_it_is_tried():
    """The code of new packages runs when the diff that is proposed can no longer be changed."""
    steps = jobs(ROOT / ".github/workflows/upgrade.yml")["try"]["steps"]
    (stored,) = [
        number
        for number, step in enumerate(steps)
        if step.get("uses", "").startswith("actions/upload-artifact@")
    ]
    tried = [
        number for number, step in enumerate(steps) if re.search("make (test|audit)", step.get("run", ""))
    ]
    assert len(tried) == 3
    assert stored < min(tried)


def test_distribution_is_built_by_what_builds_alone(tmp_path: Path):
    """The job that signs the packages of a version installs pip and the build backend, and no other lock."""
    command = ["make", "--dry-run", "--always-make", "dist", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert set(re.findall(r"requirements/([a-z]+)\.txt", done.stdout)) == {"pip", "build"}


def test_commands_exist():
    """The targets of make and the scripts that workflows run exist."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for script in scripts():
        assert set(re.findall(r"\bmake ([a-z-]+)", script)) <= targets, script
        for name in _SCRIPT.findall(script):
            assert (ROOT / name).is_file(), name
            assert name.endswith(".py") or os.access(ROOT / name, os.X_OK), f"{name} is not executable"


def test_python_versions_agree():
    """ci tests the versions of Python that the package names, from the oldest that it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: "
    versions = [
        name.removeprefix(prefix) for name in project["classifiers"] if name.startswith(f"{prefix}3.")
    ]
    assert jobs(ROOT / ".github/workflows/ci.yml")["test"]["strategy"]["matrix"]["python"] == versions
    assert project["requires-python"] == f">={versions[0]}"


def test_passed_needs_every_job():
    """The job that branch protection requires waits for all others, and names each."""
    ci = jobs(ROOT / ".github/workflows/ci.yml")
    needed = ci["passed"]["needs"]
    assert needed == [name for name in ci if name != "passed"]
    (step,) = ci["passed"]["steps"]
    assert f'"{" ".join(["success"] * len(needed))}"' in step["run"]
