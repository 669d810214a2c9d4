"""Confinement of programs: they open the files that they are given, and nothing else of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from reelhaul_fetcher.media import landlock
from reelhaul_fetcher.media.confinement import open_confinement

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")

_RESTRICT = """
import os, socket, subprocess, sys
from pathlib import Path
from reelhaul_fetcher.media import landlock
rules = {Path(path): getattr(landlock, right) for right, path in (rule.split("=") for rule in sys.argv[1:])}
with landlock.open_ruleset(rules) as ruleset:
    landlock.restrict_self(ruleset)
"""


def _run_confined(
    command: Sequence[str], *, readable: Sequence[Path] = (), writable: Sequence[Path] = (), text: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    with open_confinement(command[0], readable=readable, writable=writable) as enter:
        return subprocess.run(
            command, input=text, capture_output=True, check=False, timeout=20, preexec_fn=enter
        )


def _run_restricted(code: str, **rules: Path) -> str:
    arguments = [f"{right}={path}" for right, path in rules.items()]
    completed = subprocess.run(
        [sys.executable, "-c", _RESTRICT + code, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return completed.stdout.strip() or completed.stderr.strip()[-200:]


@needs_landlock
def test_read(tmp_path: Path) -> None:
    """A program reads the file that it is given, and none beside it, of another job, or of the system."""
    given, beside = tmp_path / "given", tmp_path / "beside"
    other = tmp_path.with_name(f"{tmp_path.name}-other")
    other.mkdir()
    for file in (given, beside, other / "file"):
        file.write_text(file.name)
    assert _run_confined(["cat", str(given)], readable=[given]).stdout == b"given"
    relative = os.path.relpath(other / "file", tmp_path)
    for path in (
        str(beside),
        str(other / "file"),
        f"{tmp_path}/{relative}",
        "/etc/hostname",
        "/proc/self/environ",
    ):
        completed = _run_confined(["cat", path], readable=[given])
        assert completed.stdout == b""
        assert b"Permission denied" in completed.stderr, path


@needs_landlock
def test_write(tmp_path: Path) -> None:
    """A program writes the file that it is given, and creates none beside it."""
    output = tmp_path / "output"
    output.touch()
    assert _run_confined(["tee", str(output)], writable=[output], text=b"text").returncode == 0
    assert output.read_text() == "text"
    completed = _run_confined(["tee", str(tmp_path / "new")], writable=[output], text=b"text")
    assert b"Permission denied" in completed.stderr
    assert os.listdir(tmp_path) == ["output"]


def test_new_processes() -> None:
    """A program runs, but it cannot start another process."""
    assert _run_confined(["env"]).returncode == 0
    completed = _run_confined(["timeout", "5", "true"])
    assert completed.returncode
    assert b"fork" in completed.stderr


@needs_landlock
def test_other_programs() -> None:
    """A program cannot become another program of the system."""
    completed = _run_confined(["env", "cat", "/dev/null"])
    assert b"Permission denied" in completed.stderr


@needs_landlock
def test_restricted_process(tmp_path: Path) -> None:
    """A restricted process opens what its rules name, also by programs that it starts."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    code = f"""
print(Path("{folder}/a").read_text())
for action in (
    lambda: Path("{tmp_path}/b").read_text(),
    lambda: Path("{folder}/a").write_text("x"),
    lambda: Path("{folder}/../b").read_text(),
    lambda: os.listdir("/"),
    lambda: os.mkdir("{folder}/new"),
    lambda: os.rename("{folder}/a", "{folder}/b"),
):
    try:
        action()
        print("allowed")
    except PermissionError:
        pass
"""
    assert _run_restricted(code, READ=folder) == "a"


@needs_landlock
@pytest.mark.skipif(landlock.version() < 4, reason="this Landlock knows no sockets")
def test_no_connections(tmp_path: Path) -> None:
    """A restricted process cannot connect to a port of this machine; an unrestricted one can."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        code = f"""
try:
    socket.create_connection({address!r}, timeout=5)
except PermissionError:
    print("refused")
"""
        assert _run_restricted(code, READ=tmp_path) == "refused"
        socket.create_connection(address, timeout=5).close()


@needs_landlock
@pytest.mark.skipif(landlock.version() < 6, reason="this Landlock knows no signals")
def test_no_signals(tmp_path: Path) -> None:
    """A restricted process cannot signal its parent."""
    code = """
try:
    os.kill(os.getppid(), 0)
except PermissionError:
    print("refused")
"""
    assert _run_restricted(code, READ=tmp_path) == "refused"


def test_without_landlock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a kernel without Landlock a program runs; its system calls are still filtered."""
    monkeypatch.setattr(landlock, "version", lambda: 0)
    file = tmp_path / "file"
    file.write_text("text")
    assert _run_confined(["cat", str(file)]).stdout == b"text"
    assert _run_confined(["timeout", "1", "true"]).returncode
