""".github/propose_upgrade.sh: an upgrade becomes one pull request, which later upgrades replace."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
_SCRIPT = ROOT / ".github/propose_upgrade.sh"
#: Records the calls of GitHub's command line; a file lists the open pull requests that have the branch.
_GH = '#!/bin/sh\necho "$*" >> "{folder}/calls"\n[ "$1 $2" = "pr list" ] && cat "{folder}/open"\nexit 0\n'

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
        (self._checkout / "Makefile").write_text("all:\n\ttrue\n")
        self.git("checkout", "--quiet", "-B", "main")
        self.git("add", ".")
        self.git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--message=first")
        self.git("push", "--quiet", "origin", "main")
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

    def run(self, command: list[str]) -> None:
        subprocess.run(command, cwd=self._checkout, timeout=30, check=True)

    def write(self, version: str, file: str = "requirements/run.txt") -> None:
        digest = hashlib.sha256(version.encode()).hexdigest()
        text = f"yt-dlp=={version} \\\n    --hash=sha256:{digest}\n    # via reelhaul\n"
        (self._checkout / file).write_text(text)

    def upgrade(self, version: str, file: str = "requirements/run.txt") -> Path:
        """Return the diff of an upgrade of main to *version*; the checkout is at main then."""
        return self.change(lambda: self.write(version, file))

    def change(self, edit: Callable[[], object]) -> Path:
        """Return the diff of what *edit* does to main; the checkout is at main then."""
        self.git("checkout", "--quiet", "--detach", "origin/main")
        edit()
        self.git("add", ".")
        diff = self._folder / "upgrade.diff"
        diff.write_text(self.git("diff", "--cached", "--binary") + "\n\n")
        self.git("reset", "--quiet", "--hard")
        return diff

    def append(self, line: str) -> None:
        """Append *line* to a lock."""
        with (self._checkout / "requirements/run.txt").open("a") as file:
            file.write(line)

    def propose(
        self, diff: Path, *, open_requests: Sequence[dict[str, Any]] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Propose *diff* while there are *open_requests* of branches with the name of the upgrade's."""
        (self._folder / "open").write_text(json.dumps(list(open_requests)))
        (self._folder / "calls").unlink(missing_ok=True)
        environment = os.environ | {"PATH": f"{self._folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", str(_SCRIPT), "engine", str(diff)],
            cwd=self._checkout, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def list_commands(self) -> list[str]:
        """Return the first two words of the calls of GitHub's command line."""
        return [" ".join(line.split()[:2]) for line in self.list_calls()]

    def list_calls(self) -> list[str]:
        """Return the calls of GitHub's command line."""
        file = self._folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def branch(self) -> list[str]:
        """Return the subjects of the commits that the branch has and main has not."""
        self.git("fetch", "--quiet", "origin")
        return self.git("log", "--format=%s", "origin/main..origin/upgrade/engine").splitlines()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    for program in ("git", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: proposals of upgrades are not checked")
    return Repository(tmp_path)


def test_upgrade_is_proposed(repository: Repository):
    """A new version becomes a branch with one commit, a pull request, and a run of the tests."""
    done = repository.propose(repository.upgrade("2.0"))
    assert done.returncode == 0, done.stderr
    assert repository.branch() == ["Upgrade yt-dlp to 2.0"]
    assert repository.list_commands() == ["pr list", "pr create", "workflow run"]


def test_later_upgrade_replaces_the_proposal(repository: Repository):
    """While a pull request is open, the next version takes its place."""
    repository.propose(repository.upgrade("2.0"))
    request = {"number": 12, "isCrossRepository": False}
    done = repository.propose(repository.upgrade("3.0"), open_requests=[request])
    assert done.returncode == 0, done.stderr
    assert repository.branch() == ["Upgrade yt-dlp to 3.0"]
    assert repository.list_commands() == ["pr list", "pr edit", "workflow run"]


def test_pull_request_of_a_fork_is_left_alone(repository: Repository):
    """A stranger's pull request from a branch of the same name does not get the title of the upgrade."""
    request = {"number": 12, "isCrossRepository": True}
    done = repository.propose(repository.upgrade("2.0"), open_requests=[request])
    assert done.returncode == 0, done.stderr
    assert repository.list_commands() == ["pr list", "pr create", "workflow run"]


def test_fork_does_not_hide_the_proposal(repository: Repository):
    """Among pull requests of both, the next version takes the place of our own."""
    requests = [{"number": 13, "isCrossRepository": True}, {"number": 12, "isCrossRepository": False}]
    repository.propose(repository.upgrade("2.0"))
    done = repository.propose(repository.upgrade("3.0"), open_requests=requests)
    assert done.returncode == 0, done.stderr
    assert repository.list_calls()[1].startswith("pr edit 12 ")


@pytest.mark.parametrize(
    "command",
    [
        ["cp", "requirements/run.txt", "build.sh"],
        ["cp", "requirements/run.txt", "requirements/other.txt"],
        ["git", "mv", "Makefile", "requirements/other.txt"],
        ["git", "rm", "--quiet", "requirements/run.txt"],
        ["chmod", "755", "requirements/run.txt"],
        ["ln", "--symbolic", "--force", "../Makefile", "requirements/run.txt"],
    ],
    ids=["another-file", "new-lock", "renamed-file", "deleted-lock", "executable-lock", "linked-lock"],
)
def test_upgrade_of_other_files_is_rejected(repository: Repository, command: list[str]):
    """A diff that does more than change locks, as code that was tried might have written, is not proposed."""
    done = repository.propose(repository.change(lambda: repository.run(command)))
    assert done.returncode == 1
    assert "changes more than requirements/*.txt" in done.stderr
    assert repository.list_commands() == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://packages.example/simple\n",
        "--extra-index-url=https://packages.example/simple\n",
        "yt-dlp @ https://packages.example/yt_dlp.whl --hash=sha256:" + "0" * 64 + "\n",
        "-r /tmp/other.txt\n",
        "yt-dlp>=2.0 \\\n",
        "\0\n--index-url https://packages.example/simple\n",
    ],
    ids=["index", "extra-index", "address", "file", "range", "binary"],
)
def test_upgrade_to_other_sources_is_rejected(repository: Repository, line: str):
    """A lock that gets more than pins and hashes, such as another index, is not proposed."""
    done = repository.propose(repository.change(lambda: repository.append(line)))
    assert done.returncode == 1
    assert "adds more than pins and hashes" in done.stderr
    assert repository.list_commands() == []
