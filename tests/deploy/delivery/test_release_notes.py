"""A tag becomes a release only if the version and its notes are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-11-30

### Added

- A thing.

## [1.1.0] - 2026-10-01

- An older thing.
"""


def print_notes(folder: Path, tag: str, changelog: str = _CHANGELOG) -> subprocess.CompletedProcess[str]:
    """Run the script in a repository of version 1.2.0 with *changelog*."""
    script = folder / "deploy/delivery/release_notes.py"
    script.parent.mkdir(parents=True)
    script.write_text((ROOT / "deploy/delivery/release_notes.py").read_text())
    (folder / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (folder / "CHANGELOG.md").write_text(changelog)
    return subprocess.run(
        [sys.executable, script, tag], capture_output=True, text=True, timeout=30, check=False
    )


def test_notes_are_those_of_the_version(tmp_path: Path):
    """The notes are the section of the version, without its heading and without those of other versions."""
    done = print_notes(tmp_path, "v1.2.0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "### Added\n\n- A thing.\n", "")


@pytest.mark.parametrize(
    ("tag", "changelog", "message"),
    [
        ("v1.2.1", _CHANGELOG, "the tag is v1.2.1, but pyproject.toml has version 1.2.0"),
        ("v1.2.0", _CHANGELOG.replace(" - 2026-11-30", ""), "no section"),
        ("v1.2.0", "## [1.2.0] - 2026-11-30\n\n## [1.1.0] - 2026-10-01\n- x\n", "is empty"),
    ],
    ids=["another version", "no date", "no notes"],
)
def test_unready_versions_are_rejected(tmp_path: Path, tag: str, changelog: str, message: str):
    """A tag of another version, a section without a date, and one without content make no release."""
    done = print_notes(tmp_path, tag, changelog)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr


def test_changelog_has_the_form():
    """CHANGELOG.md has the section in which the next version is written."""
    assert re.search(r"^## \[Unreleased\]$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
