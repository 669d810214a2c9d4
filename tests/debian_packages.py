"""Debian packages unpacked into a cache folder, for tests of programs that PyPI does not have.

apt downloads them from the sources that this machine is configured with, into folders of its own; nothing is
installed, and no privileges are needed. Delete the cache folder to get newer versions.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: How long apt may take to load lists, and to download.
_UPDATE_SECONDS, _DOWNLOAD_SECONDS = 60, 240
#: Lists are loaded again after a day; after a failure, nothing is tried for ten minutes.
_LISTS_SECONDS, _FAILURE_SECONDS = 86400, 600
_OPTIONS = {
    "APT::Get::Assume-Yes": "true",
    "APT::Install-Recommends": "false",
    "APT::Sandbox::User": "root",
    "Acquire::GzipIndexes": "true",
    "Acquire::Languages": "none",
    "Acquire::Retries": "1",
    "Acquire::http::Timeout": "10",
    "Acquire::https::Timeout": "10",
    "Dir::Cache::pkgcache": "",
    "Dir::Cache::srcpkgcache": "",
}
_SOURCE = re.compile(r"^'(\S+?)/dists/([^/\s]+)/InRelease'", re.MULTILINE)


class Missing(Exception):
    """The packages cannot be had here; the message says what is missing."""


def unpack(*names: str, suite: str | None = None, dependencies: bool = True) -> Path:
    """Return a folder that contains the Debian packages *names*, unpacked: ``<folder>/usr/bin/…``.

    *suite*: the release that they come from, such as ``trixie``, if not this machine's own.
    *dependencies*: whether those of their dependencies that this machine lacks come with them.

    The first call takes seconds to minutes, later calls nothing. Raises Missing.
    """
    cache = _cache_folder()
    target = cache / "-".join([suite or "own", "with" if dependencies else "without", *sorted(names)])
    if target.is_dir():
        return target
    for program in ("apt-get", "apt-cache", "dpkg-deb"):
        if not shutil.which(program):
            raise Missing(
                f"no {program}: this machine is not Debian, and {' '.join(names)} cannot be had here"
            )
    with _locked(cache / f"{target.name}.lock") as lock:
        if target.is_dir():
            return target
        _raise_recent_failure(lock)
        try:
            _unpack(target, names, suite, dependencies)
        except Missing as error:
            lock.write_text(str(error))
            raise
        lock.write_text("")
    return target


def environment(folder: Path) -> dict[str, str]:
    """Return the variables with which programs in *folder* find each other, and their libraries."""
    programs = [str(folder / each) for each in ("usr/local/bin", "usr/bin", "usr/sbin", "bin", "sbin")]
    libraries = [
        str(each) for pattern in ("usr/lib/*-linux-*", "lib/*-linux-*") for each in folder.glob(pattern)
    ]
    path, library_path = os.environ.get("PATH", ""), os.environ.get("LD_LIBRARY_PATH", "")
    return {
        "PATH": os.pathsep.join([*programs, path]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [*libraries, library_path])),
    }


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "reelhaul" / "debian-packages"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Missing(
            f"no cache folder: {error}; set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Hold the lock of the file *path* against other processes; the steps under it are bounded in time."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path


def _raise_recent_failure(lock: Path) -> None:
    """Raise Missing if a process has just failed: on a machine without a network each attempt takes long."""
    failure = lock.read_text()
    if failure and time.time() - lock.stat().st_mtime < _FAILURE_SECONDS:
        raise Missing(failure)


def _unpack(target: Path, names: Sequence[str], suite: str | None, dependencies: bool) -> None:
    apt = _Apt(target.parent / f"apt-{suite or 'own'}")
    with _locked(apt.folder / "lock"):
        apt.update(suite)
        files = apt.download(names, dependencies)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            root = Path(temporary) / "root"
            root.mkdir()
            for file in files:
                _run(["dpkg-deb", "--extract", str(file), str(root)], _DOWNLOAD_SECONDS)
            (root / "packages.txt").write_text("".join(f"{file.stem}\n" for file in sorted(files)))
            root.rename(target)
        apt.delete_downloads()


class _Apt:
    """apt with its state in *folder*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._archives, self._lists = folder / "archives", folder / "lists"
        for each in (self._archives / "partial", self._lists / "partial"):
            each.mkdir(parents=True, exist_ok=True)
        status = Path(_run(["apt-config", "shell", "status", "Dir::State::status/f"], 10).split("'")[1])
        shutil.copyfile(status, folder / "status")
        self._options = _OPTIONS | {
            "Dir::State": str(folder),
            "Dir::State::status": str(folder / "status"),
            "Dir::State::lists": str(self._lists),
            "Dir::Cache": str(folder),
            "Dir::Cache::archives": str(self._archives),
        }

    def update(self, suite: str | None) -> None:
        """Load the lists of the machine's sources, or of *suite* from its mirror, unless they are recent."""
        if suite is not None:
            mirror = self._find_mirror()
            source = self.folder / "sources.list"
            source.write_text(f"deb {mirror} {suite} main\n")
            self._options |= {"Dir::Etc::sourcelist": str(source), "Dir::Etc::sourceparts": "/dev/null"}
        loaded = self.folder / "lists.stamp"
        if loaded.exists() and time.time() - loaded.stat().st_mtime < _LISTS_SECONDS:
            return
        self._run("apt-get", "update", seconds=_UPDATE_SECONDS)
        if not any(self._lists.glob("*_Packages*")):
            raise Missing("apt could load no list of Debian packages: is there a network?")
        loaded.touch()

    def download(self, names: Sequence[str], dependencies: bool) -> list[Path]:
        """Download packages, with the dependencies that this machine lacks or without; return their files."""
        self.delete_downloads()
        if dependencies:
            self._run(
                "apt-get", "install", "--download-only", "--reinstall", *names, seconds=_DOWNLOAD_SECONDS
            )
        else:
            self._run("apt-get", "download", *names, seconds=_DOWNLOAD_SECONDS)
        return list(self._archives.glob("*.deb"))

    def delete_downloads(self) -> None:
        """Delete the files of the packages."""
        for file in self._archives.glob("*.deb"):
            file.unlink()

    def _find_mirror(self) -> str:
        """Return the mirror that the release of this machine comes from."""
        release = Path("/etc/os-release").read_text()
        codename = re.search(r"^VERSION_CODENAME=(\S+)$", release, re.MULTILINE)
        for mirror, suite in _SOURCE.findall(self._run("apt-get", "update", "--print-uris", seconds=10)):
            if codename and suite == codename[1]:
                return str(mirror)
        raise Missing("apt has no source of this machine's release from which another suite could be loaded")

    def _run(self, *command: str, seconds: float) -> str:
        options = [f"-o{name}={value}" for name, value in self._options.items()]
        return _run([command[0], *options, *command[1:]], seconds, self._archives)


def _run(command: list[str], seconds: float, folder: Path | None = None) -> str:
    """Run *command*; return its output. Raises Missing if it fails or takes longer than *seconds*."""
    arguments = " ".join(each for each in command if not each.startswith("-o"))
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"`{arguments}` took longer than {seconds:.0f} s: is there a network?") from None
    if done.returncode:
        lines = [
            line for line in done.stderr.splitlines() if line.startswith("E:")
        ] or done.stderr.splitlines()
        raise Missing(f"`{arguments}` failed: {' '.join(lines[:3])}")
    return done.stdout
