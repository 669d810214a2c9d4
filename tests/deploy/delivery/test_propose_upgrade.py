""".github/propose_upgrade.sh: an upgrade becomes one pull request, which later upgrades replace."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_SCRIPT = ROOT / ".github/propose_upgrade.sh"
#: Records what is asked of GitHub; the list of open pull requests is a file.
_GH = '#!/bin/sh\necho "$*" >> "{folder}/asked"\n[ "$1 $2" = "pr list" ] && cat "{folder}/open"\nexit 0\n'

pytestmark = pytest.mark.deployment


class Repository:
    """A repository with an origin, and a stand-in of GitHub, in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checkout = folder / "checkout"
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(folder / "origin"), where=folder)
        self.git("clone", "--quiet", str(folder / "origin"), str(self._checkout), where=folder)
        (self._checkout / "requirements").mkdir()
        self.write("1.0")
        self.git("checkout", "--quiet", "-B", "main")
        self.git("add", ".")
        self.git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--message=first")
        self.git("push", "--quiet", "origin", "main")
        (folder / "open").write_text("")
        program = folder / "bin/gh"
        program.parent.mkdir()
        program.write_text(_GH.format(folder=folder))
        program.chmod(0o755)

    def git(self, *arguments: str, where: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=where or self._checkout,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout.strip()

    def write(self, version: str, file: str = "requirements/run.txt") -> None:
        (self._checkout / file).write_text(f"yt-dlp=={version} \\\n    --hash=sha256:0\n")

    def upgrade(self, version: str, file: str = "requirements/run.txt") -> Path:
        """Return the diff of an upgrade of main to *version*; the checkout is at main then."""
        self.git("checkout", "--quiet", "--detach", "origin/main")
        self.write(version, file)
        self.git("add", "--intent-to-add", ".")
        diff = self._folder / "upgrade.diff"
        diff.write_text(self.git("diff") + "\n")
        self.git("reset", "--quiet", "--hard")
        return diff

    def propose(self, diff: Path, *, number: str = "") -> subprocess.CompletedProcess[str]:
        """Propose *diff*; *number* is that of an open pull request."""
        (self._folder / "open").write_text(number)
        (self._folder / "asked").unlink(missing_ok=True)
        environment = os.environ | {"PATH": f"{self._folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", str(_SCRIPT), "engine", str(diff)],
            cwd=self._checkout, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def asked(self) -> list[str]:
        """Return the first two words of what was asked of GitHub."""
        file = self._folder / "asked"
        return [" ".join(line.split()[:2]) for line in file.read_text().splitlines()] if file.exists() else []

    def branch(self) -> list[str]:
        """Return the subjects of the commits that the branch has and main has not."""
        self.git("fetch", "--quiet", "origin")
        return self.git("log", "--format=%s", "origin/main..origin/upgrade/engine").splitlines()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    if shutil.which("git") is None:
        pytest.skip("git is missing: proposals of upgrades are not checked")
    return Repository(tmp_path)


def test_upgrade_is_proposed(repository: Repository):
    """A new version becomes a branch with one commit, a pull request, and a run of the tests."""
    done = repository.propose(repository.upgrade("2.0"))
    assert done.returncode == 0, done.stderr
    assert repository.branch() == ["Upgrade yt-dlp to 2.0"]
    assert repository.asked() == ["pr list", "pr create", "workflow run"]


def test_later_upgrade_replaces_the_proposal(repository: Repository):
    """While a pull request is open, the next version takes its place."""
    repository.propose(repository.upgrade("2.0"))
    done = repository.propose(repository.upgrade("3.0"), number="12")
    assert done.returncode == 0, done.stderr
    assert repository.branch() == ["Upgrade yt-dlp to 3.0"]
    assert repository.asked() == ["pr list", "pr edit", "workflow run"]


def test_upgrade_of_other_files_is_rejected(repository: Repository):
    """A diff that changes more than locks, as code that was tried might have written, is not proposed."""
    done = repository.propose(repository.upgrade("2.0", "build.sh"))
    assert done.returncode == 1
    assert "changes more than requirements/*.txt" in done.stderr
    assert repository.asked() == []
