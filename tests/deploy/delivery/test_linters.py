"""The linters of workflows, the Dockerfile and secrets find nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_PROGRAMS = Path(sys.executable).parent
_SCRIPTS = (".github", "deploy", "tests")
_GITLEAKS = (str(_PROGRAMS / "gitleaks"), "--no-banner", "--no-color", "--redact", "--verbose")
#: Reads as a key of AWS, in parts, so that gitleaks does not find it here.
_PLANTED = "AKIA" + "Z7QHX3MW5PLRT2KV"

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(300)]


def run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)


def test_actionlint_accepts_the_workflows():
    """The workflows are valid, their expressions have types, and shellcheck accepts their scripts."""
    done = run(str(_PROGRAMS / "actionlint"), "-no-color", "-shellcheck", str(_PROGRAMS / "shellcheck"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck_accepts_the_scripts():
    """shellcheck accepts every shell script of the repository."""
    files = [ROOT / ".ci/run", *(file for part in _SCRIPTS for file in (ROOT / part).rglob("*.sh"))]
    done = run(str(_PROGRAMS / "shellcheck"), *map(str, files))
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_no_weakness():
    """zizmor finds no unpinned action, no injection, and no permission or credential that is not needed."""
    done = run(str(_PROGRAMS / "zizmor"), "--offline", "--no-progress", "--color=never", ".github")
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_accepts_the_dockerfile():
    """hadolint accepts the Dockerfile."""
    done = run(str(_PROGRAMS / "hadolint"), "deploy/docker/Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_have_no_secrets():
    """No file of the repository has a secret."""
    done = run(*_GITLEAKS, "dir", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_history_has_no_secrets():
    """No commit has a secret."""
    if run("git", "rev-parse", "--git-dir").returncode:
        pytest.skip("this is no git checkout: the history is not searched for secrets")
    done = run(*_GITLEAKS, "git", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_planted_secret_is_found(tmp_path: Path):
    """A key in a file is found with the configuration of the repository."""
    (tmp_path / "settings.py").write_text(f'access_key_id = "{_PLANTED}"\n')
    done = run(*_GITLEAKS, "dir", "--config", str(ROOT / ".gitleaks.toml"), ".", folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "settings.py" in done.stdout


def test_weak_workflow_is_found(tmp_path: Path):
    """An action by its tag and an input in a script are found."""
    workflow = tmp_path / "workflow.yml"
    steps = ["      - uses: actions/checkout@v6", "      - run: echo ${{ github.event.issue.title }}"]
    jobs = ["jobs:", "  job:", "    runs-on: ubuntu-24.04", "    steps:", *steps]
    workflow.write_text("\n".join(["on: issues", *jobs]) + "\n")
    done = run(
        str(_PROGRAMS / "zizmor"),
        "--offline",
        "--no-progress",
        "--color=never",
        "--format=plain",
        str(workflow),
    )
    assert "unpinned-uses" in done.stdout
    assert "template-injection" in done.stdout
