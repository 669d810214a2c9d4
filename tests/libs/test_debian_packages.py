"""Programs of Debian packages for tests: what is said where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import debian_packages


def test_not_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without apt, the reason names it, so that a skipped test says what is missing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(debian_packages.Missing, match="no apt-get: this machine is not Debian"):
        debian_packages.unpack("hello")


def test_no_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the cache folder cannot be created, the reason says which setting helps."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(debian_packages.Missing, match="set XDG_CACHE_HOME"):
        debian_packages.unpack("hello")


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Unpacked programs are found before those of the machine, and find their libraries."""
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    environment = debian_packages.environment(tmp_path)
    path = environment["PATH"].split(":")
    assert path.index(str(tmp_path / "usr/bin")) < path.index("/usr/bin")
    assert environment["LD_LIBRARY_PATH"] == str(libraries)
