"""Nothing of the working directory or of the user's folders runs in a process of the suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fetcher.conftest import open_harness
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import running_suite

from reelhaul_fetcher import engine_trial
from reelhaul_fetcher.guard.supervisor import GuardConfig
from reelhaul_fetcher.media import tools
from reelhaul_fetcher.ytdlp.process.environment import build_environment

_ROOT = Path(__file__).parents[2]

#: Modules that the suite's processes import, or try to.
_MODULES = ("mutagen", "brotli", "secretstorage", "curl_cffi", "sitecustomize", "usercustomize")
_PROGRAMS = ("ffmpeg", "ffprobe", "deno", "node")


class Traps:
    """A folder of files that leave a line in ``caught`` if something runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._caught = folder / "traps", folder / "caught"
        self.folder.mkdir(mode=0o700)
        for name in _MODULES:
            self.add_module(self.folder / f"{name}.py")
        for folder in (
            self.folder,
            self.folder / ".config/yt-dlp/plugins/trap",
            self.folder / "yt-dlp-plugins/t",
        ):
            self.add_module(folder / "yt_dlp_plugins/extractor/trap.py")
            self.add_module(folder / "yt_dlp_plugins/postprocessor/trap.py")
        for name in ("yt-dlp.conf", ".config/yt-dlp/config", ".config/yt-dlp.conf", ".yt-dlp/config"):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"--exec before_dl:'echo {name} >> {self._caught}'\n")
        for name in _PROGRAMS:
            program = self.folder / name
            program.write_text(f"#!/bin/sh\necho {name} >> {self._caught}\n")
            program.chmod(0o700)

    def add_module(self, path: Path) -> None:
        """Add a module that is a trap at *path*."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(self._caught)!r}, 'a').write({path.name!r} + '\\n')\n")

    @property
    def caught(self) -> list[str]:
        """The names of the files that ran."""
        return self._caught.read_text().split() if self._caught.exists() else []

    def clear(self) -> None:
        """Forget what ran."""
        self._caught.unlink(missing_ok=True)


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Traps:
    """Traps in the working directory, in the home folder, and on PATH by way of ``.``."""
    traps = Traps(tmp_path)
    subprocess.run([sys.executable, "-c", "import mutagen"], cwd=traps.folder, check=True)
    assert traps.caught == ["mutagen.py"]
    traps.clear()
    monkeypatch.chdir(traps.folder)
    monkeypatch.setenv("HOME", str(traps.folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PATH", f".{os.pathsep}{os.environ['PATH']}")
    return traps


def test_suite_in_a_folder_of_traps(traps: Traps, site: Site) -> None:
    """`reelhaul up` downloads as usual from a folder full of traps, and none of them runs."""
    script = str(Path(sys.executable).parent / "reelhaul")
    # The suite's working directory is its data folder.
    with running_suite(traps.folder, command=(script, "up")) as suite:
        last = wait_for_end(suite, create_download(suite, site.url("/watch/demo")))
        assert "completed" in last, last
    assert traps.caught == []


async def test_engine_in_a_folder_of_traps(
    traps: Traps, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With plugins, which a token provider needs, the installed ones are loaded and no others.

    The empty folder in PYTHONPATH is the working directory to Python.
    """
    installed = tmp_path / "installed/yt_dlp_plugins/extractor"
    installed.mkdir(parents=True)
    loaded = tmp_path / "loaded"
    (installed / "provider.py").write_text(f"open({str(loaded)!r}, 'w').close()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(tmp_path / "installed"), "."]))
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    environment = build_environment(tools.link(tmp_path / "tools"), home, None, plugins=True)
    async with open_harness(environment, work, GuardConfig(allow_networks=("127.0.0.2/32",))) as harness:
        result = await harness.fetch(site.url("/watch/demo"))
    assert result.products
    assert loaded.exists()
    assert traps.caught == []


def test_format_selectors_load_no_plugins(traps: Traps) -> None:
    """The fetcher's own process evaluates format selectors with yt-dlp, and without plugins of its user."""
    code = (
        "from reelhaul.type.v1.media_pb2 import Format\n"
        "from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine\n"
        "offered = [Format(format_id='a', video_codec='h264', audio_codec='aac', height=720)]\n"
        "print(len(YtDlpEngine({}, 'worker').select_formats('best', offered)))\n"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1"
    assert traps.caught == []


def test_engine_of_another_python(traps: Traps, tmp_path: Path) -> None:
    """The engine trial finds the yt-dlp of another Python, not one in the working directory."""
    traps.add_module(traps.folder / "yt_dlp/__init__.py")
    target = tmp_path / "candidate"
    target.mkdir()
    engine = engine_trial.collect_engine(sys.executable, target)
    assert (engine / "yt_dlp/YoutubeDL.py").exists()
    assert traps.caught == []


def test_modules_are_run_by_one_function() -> None:
    """No process of the suite is started with ``-m`` but by ``module_command``, which adds ``-P``."""
    sources = [path for name in ("libs", "services") for path in (_ROOT / name).rglob("*.py")]
    found = [path.name for path in sources if re.search(r"""["']-m["']""", path.read_text())]
    assert found == ["child_process.py"]
