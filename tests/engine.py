"""The fetcher's tests with another yt-dlp than the locked: ``python -m tests.engine latest``, or ``floor``.

Sites change faster than we do: the newest of the registry must pass, and so must the oldest that
pyproject.toml allows. It goes to a folder of its own, which comes before the environment's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

_ROOT = Path(__file__).parents[1]
#: What an engine must pass: itself, the sites that it reads, and YouTube through the whole suite.
_TESTS = ("tests/fetcher", "tests/sites")
_SUITE = ("test_youtube*.py", "test_formats.py", "test_preferences.py", "test_site_failures.py")
_FLOOR = re.compile(r"yt-dlp>=([\d.]+)")


def floor() -> str:
    """The oldest yt-dlp that pyproject.toml allows."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]["fetcher"]
    return next(found[1] for name in wanted if (found := _FLOOR.fullmatch(name)))


def installed(which: str, folder: Path) -> str:
    """The version of yt-dlp that is in *folder* now: the newest, the floor, or *which*; its solver is too.

    Raises CalledProcessError where the registry does not have it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    wanted = {"latest": "yt-dlp", "floor": f"yt-dlp=={floor()}"}.get(which, f"yt-dlp=={which}")
    _install(wanted, folder)
    (engine,) = distributions(name="yt-dlp", path=[str(folder)])
    # Its riddles' solver is released with it, and is of no use to another.
    solver = [
        need.partition(";")[0].strip() for need in engine.requires or () if need.startswith("yt-dlp-ejs")
    ]
    for need in solver[:1]:
        _install(need, folder)
    return engine.version


def main() -> int:
    """Install, say what, run; the exit code is that of the tests."""
    which, *arguments = sys.argv[1:]
    folder = _ROOT / ".yt-dlp" / which
    told, locked = installed(which, folder), version("yt-dlp")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path}
    same = "the locked one" if told == locked else f"locked is {locked}"
    print(f"yt-dlp {told} ({which}; {same})", flush=True)
    files = (file for each in _SUITE for file in (_ROOT / "tests/suite").glob(each))
    suite = sorted(str(file.relative_to(_ROOT)) for file in files)
    command = [sys.executable, "-m", "pytest", *_TESTS, *suite, *arguments]
    return subprocess.run(command, cwd=_ROOT, env=environment, check=False).returncode


def _install(wanted: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(folder)]
    subprocess.run([*pip, wanted], check=True)


if __name__ == "__main__":
    sys.exit(main())
