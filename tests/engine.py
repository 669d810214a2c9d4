"""Run the fetcher's tests with another yt-dlp than the locked one: ``python -m tests.engine latest|floor``.

Sites change faster than we do: both the newest release of the registry and the oldest version that
pyproject.toml allows must pass. It is installed into a folder of its own, before the environment's on the
path.
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
#: What a yt-dlp version must pass: the fetcher, the test sites, and YouTube through the whole suite.
_TESTS = ("tests/fetcher", "tests/sites")
_SUITE = ("test_youtube*.py", "test_format_preferences.py", "test_site_failures.py")
_FLOOR = re.compile(r"yt-dlp>=([\d.]+)")


def floor() -> str:
    """Return the oldest yt-dlp version that pyproject.toml allows."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["optional-dependencies"]["fetcher"]
    return next(match[1] for name in requirements if (match := _FLOOR.fullmatch(name)))


def install(which: str, folder: Path) -> str:
    """Install yt-dlp into *folder*: the latest, the floor, or version *which*; return its version.

    Raises CalledProcessError if the registry does not have it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    _pip_install({"latest": "yt-dlp", "floor": f"yt-dlp=={floor()}"}.get(which, f"yt-dlp=={which}"), folder)
    (ytdlp,) = distributions(name="yt-dlp", path=[str(folder)])
    # yt-dlp-ejs solves YouTube's challenges; each yt-dlp release needs the one released with it.
    solvers = [
        requirement.partition(";")[0].strip()
        for requirement in ytdlp.requires or ()
        if requirement.startswith("yt-dlp-ejs")
    ]
    for requirement in solvers[:1]:
        _pip_install(requirement, folder)
    return ytdlp.version


def main() -> int:
    """Install, print the version, run the tests; return their exit code."""
    which, *arguments = sys.argv[1:]
    folder = _ROOT / ".yt-dlp" / which
    installed, locked = install(which, folder), version("yt-dlp")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path}
    comparison = "the locked one" if installed == locked else f"locked is {locked}"
    print(f"yt-dlp {installed} ({which}; {comparison})", flush=True)
    files = (file for pattern in _SUITE for file in (_ROOT / "tests/suite").glob(pattern))
    suite = sorted(str(file.relative_to(_ROOT)) for file in files)
    command = [sys.executable, "-m", "pytest", *_TESTS, *suite, *arguments]
    return subprocess.run(command, cwd=_ROOT, env=environment, check=False).returncode


def _pip_install(requirement: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(folder)]
    subprocess.run([*pip, requirement], check=True)


if __name__ == "__main__":
    sys.exit(main())
