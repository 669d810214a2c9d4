"""``reelhaul fetcher canary`` and ``version``: another yt-dlp compared with the installed one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from datetime import date
from pathlib import Path

import pytest
import yt_dlp
from click.testing import CliRunner
from tests.sites.site import Site
from tests.sites.youtube.site import YouTube

from reelhaul_fetcher.commands import fetcher
from reelhaul_fetcher.engine_trial import Outcome
from reelhaul_fetcher.ytdlp.version import compute_age

INSTALLED = Path(yt_dlp.__file__).parent


def run_canary(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``reelhaul fetcher canary`` as a user does."""
    variables = {f"REELHAUL_FETCHER_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "reelhaul_fetcher", "canary", *arguments]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=90, check=False
    )


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another version of yt-dlp, whose generic extractor always fails."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(INSTALLED, folder / "yt_dlp", ignore=shutil.ignore_patterns("__pycache__"))
    generic = folder / "yt_dlp/extractor/generic.py"
    text = generic.read_text()
    assert "def _real_extract(self, url):\n" in text
    generic.write_text(
        text.replace(
            "def _real_extract(self, url):\n",
            "def _real_extract(self, url):\n"
            "        if 'warm.invalid' not in url:\n"
            "            raise ExtractorError('the page has changed')\n",
            1,
        )
    )
    (folder / "yt_dlp/version.py").write_text((INSTALLED / "version.py").read_text())
    version = folder / "yt_dlp/version.py"
    version.write_text(version.read_text().replace(yt_dlp.version.__version__, "2031.01.01"))
    return folder


def test_worse_engine(site: Site, broken: Path) -> None:
    """If only the other engine fails, the table shows it and the exit code is 1."""
    process = run_canary(site.url("/watch/demo"), "--engine", str(broken), allow_networks="127.0.0.2/32")
    assert process.returncode == 1, process.stderr + process.stdout
    _, _, present, other, verdict = process.stdout.splitlines()
    assert present.split()[1] == yt_dlp.version.__version__
    assert present.endswith("ok")
    assert other.split()[1] == "2031.01.01"
    assert "EXTRACTOR_FAILED" in other
    assert verdict == "the other engine is worse at 1 of 1"


def test_equal_engine(youtube: YouTube, tmp_path: Path) -> None:
    """The same engine in another folder is as good, and only its packages are used of that folder."""
    (tmp_path / "yt_dlp").symlink_to(INSTALLED)
    (tmp_path / "reelhaul_fetcher").mkdir()
    (tmp_path / "reelhaul_fetcher/__init__.py").write_text("raise SystemExit('imported by mistake')")
    process = run_canary(
        *(youtube.watch_url("plain360"), "--engine", str(tmp_path), "--json"),
        upstream_proxy=youtube.proxy_url,
        ca_file=str(youtube.ca_file),
    )
    assert process.returncode == 0, process.stderr + process.stdout
    present, other = map(json.loads, process.stdout.splitlines())
    assert present["reason"] == other["reason"] == ""
    assert (present["formats"], present["height"]) == (other["formats"], other["height"])
    assert other["received_bytes"] > 0


def test_without_another_engine(site: Site) -> None:
    """Without another engine the installed one is tried; the exit code is 1 if it fails."""
    process = run_canary(site.url("/status/404"), allow_networks="127.0.0.2/32")
    assert process.returncode == 1
    assert "MEDIA_NOT_FOUND" in process.stdout
    assert process.stdout.splitlines()[-1] == "the engine fails at 1 of 1"


@pytest.mark.parametrize("engine", ["/nowhere", "/bin/true", "2031.02.30"])
def test_no_such_engine(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not exist is an error before any trial."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    process = CliRunner().invoke(fetcher, ["canary", "http://127.0.0.1:1/", "--engine", engine])
    assert process.exit_code == 1
    assert engine in process.output


@pytest.mark.parametrize(
    ("other", "worse"),
    [
        (Outcome("e", "u", formats=10, height=1080), False),
        (Outcome("e", "u", formats=5, height=1080), False),
        (Outcome("e", "u", formats=4, height=1080), True),
        (Outcome("e", "u", formats=20, height=720), True),
        (Outcome("e", "u", "MEDIA_NOT_FOUND: gone"), True),
    ],
)
def test_is_worse_than(other: Outcome, worse: bool) -> None:
    """A failure is worse, and so are a lower video and less than half of the formats."""
    installed = Outcome("e", "u", formats=10, height=1080)
    assert other.is_worse_than(installed) is worse
    assert not other.is_worse_than(Outcome("e", "u", "EXTRACTOR_FAILED: broken"))


@pytest.mark.parametrize(
    ("engine", "days", "state"),
    [
        ("yt-dlp 2026.10.26", 27, "ok"),
        ("yt-dlp 2026.08.19", 95, "old"),
        ("yt-dlp 2026.7.4", 141, "below the floor"),
        ("yt-dlp 2026.10.26.233000.dev0", 27, "ok"),
        ("yt-dlp unknown", None, "ok"),
        ("yt-dlp 2026.13.45", None, "ok"),
    ],
)
def test_age(engine: str, days: int | None, state: str) -> None:
    """An engine is old after two months; one older than the floor is below it whatever its age."""
    age = compute_age(engine, date(2026, 11, 22), "2026.8.19")
    assert (age.days, age.state) == (days, state)


def test_version_command() -> None:
    """``version`` prints the version, its age and the floor, as text and as JSON."""
    age = json.loads(CliRunner().invoke(fetcher, ["version", "--json"]).output)
    assert age["engine"].startswith("yt-dlp 20")
    assert age["days"] > 0
    assert age["floor"].startswith("20")
    assert "days old" in CliRunner().invoke(fetcher, ["version"]).output


def test_version_is_not_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is downloaded without a hash: a warning says so, and no build code of a source runs."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    marker = tmp_path / "ran"
    source = tmp_path / "yt_dlp-2031.1.1"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    with tarfile.open(tmp_path / "yt_dlp-2031.1.1.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    process = run_canary("http://127.0.0.2/", "--engine", "2031.1.1")
    assert process.returncode == 1
    warning, *_, error = process.stderr.splitlines()
    assert warning.startswith("warning: yt-dlp 2031.1.1 is not verified: there is no hash")
    assert "cannot be installed" in process.stderr, error
    assert not marker.exists()


def test_folder_needs_no_warning(tmp_path: Path) -> None:
    """An engine that the operator has unpacked is used, or refused, without that warning."""
    process = run_canary("http://127.0.0.2/", "--engine", str(tmp_path))
    assert process.stderr.splitlines() == [f"Error: there is no yt-dlp in {tmp_path}"]
