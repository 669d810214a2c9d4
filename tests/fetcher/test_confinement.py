"""Confinement of programs: they open the files that they are given, and nothing else of this machine."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from reelhaul_fetcher.media import confinement, landlock
from reelhaul_fetcher.media.confinement import Mechanism, open_confinement
from reelhaul_runtime.child_process import module_command

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")

_RESTRICT = """
import os, socket, subprocess, sys
from pathlib import Path
from reelhaul_fetcher.media import landlock
rules = {Path(path): getattr(landlock, right) for right, path in (rule.split("=") for rule in sys.argv[1:])}
with landlock.open_ruleset(rules) as ruleset:
    landlock.restrict_self(ruleset)
"""


# Mount namespaces work here, whatever Landlock does.
_namespaces_work = (
    subprocess.run(module_command(confinement.__name__), check=False, stderr=subprocess.DEVNULL).returncode
    == 0
)


@pytest.fixture(
    params=[
        pytest.param(Mechanism.LANDLOCK, marks=needs_landlock),
        pytest.param(
            Mechanism.NAMESPACE,
            marks=pytest.mark.skipif(not _namespaces_work, reason="this system has no user namespaces"),
        ),
    ],
    ids=lambda mechanism: mechanism.value,
)
def files_confined(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with Landlock, and one without it."""
    monkeypatch.setenv(confinement.VARIABLE, request.param.value)


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


@pytest.mark.usefixtures("files_confined")
def test_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program reads the file that it is given, and none beside it, of another job or of the system."""
    given, beside = tmp_path / "given", tmp_path / "beside"
    other = tmp_path.with_name(f"{tmp_path.name}-other")
    other.mkdir()
    for file in (given, beside, other / "file"):
        file.write_text(file.name)
    monkeypatch.chdir(tmp_path)
    assert _run_confined(["cat", str(given)], readable=[given]).stdout == b"given"
    assert _run_confined(["cat", "given"], readable=[given]).stdout == b"given"
    for path in (
        str(beside),
        "beside",
        str(other / "file"),
        os.path.relpath(other / "file"),
        f"/proc/{os.getpid()}/root{beside}",
        f"/proc/{os.getpid()}/environ",
        "/proc/self/environ",
        "/etc/passwd",
        __file__,
    ):
        assert subprocess.run(["cat", path], capture_output=True, check=True).stdout
        completed = _run_confined(["cat", path], readable=[given])
        assert completed.stdout == b"", path
        assert completed.returncode == 1, path


@pytest.mark.usefixtures("files_confined")
def test_write(tmp_path: Path) -> None:
    """A program writes the file that it is given, and creates or changes none beside it."""
    output, given = tmp_path / "output", tmp_path / "given"
    output.touch()
    given.write_text("given")

    def write(path: str) -> int:
        return _run_confined(["tee", path], readable=[given], writable=[output], text=b"text").returncode

    assert write(str(output)) == 0
    assert output.read_text() == "text"
    for path in (str(tmp_path / "new"), str(given), "/new", "/usr/lib/new"):
        assert write(path) == 1
    assert sorted(os.listdir(tmp_path)) == ["given", "output"]
    assert given.read_text() == "given"


@pytest.mark.usefixtures("files_confined")
def test_new_processes() -> None:
    """A program runs, but it cannot start another process."""
    assert _run_confined(["env"]).returncode == 0
    completed = _run_confined(["timeout", "5", "true"])
    assert completed.returncode
    assert b"fork" in completed.stderr


@pytest.mark.usefixtures("files_confined")
def test_other_programs() -> None:
    """A program cannot become another program of the system."""
    assert subprocess.run(["env", "cat", "/dev/null"], check=False).returncode == 0
    assert _run_confined(["env", "cat", "/dev/null"]).returncode in (126, 127)


@pytest.mark.usefixtures("files_confined")
def test_death_of_the_parent() -> None:
    """A confined program ends when its parent is killed."""
    code = """
import subprocess
from reelhaul_fetcher.media.confinement import open_confinement
with open_confinement("sleep") as enter:
    print(subprocess.Popen(["sleep", "60"], preexec_fn=enter).pid, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        program = os.pidfd_open(int(parent.stdout.readline()))
        try:
            assert not select.select([program], [], [], 0)[0]
            parent.kill()
            assert select.select([program], [], [], 20)[0]
        finally:
            os.close(program)


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


_FIND_MECHANISM = """
import logging
from reelhaul_fetcher.media import confinement
logging.basicConfig(format="%(levelname)s %(message)s: %(cause)s", level=logging.WARNING)
confinement.mechanism()
print(confinement.mechanism().value)
"""


def _hide_landlock() -> None:
    """Have the kernel answer this process as one without Landlock does: its three calls do not exist."""
    load_number, jump_if_at_least, end = 0x20, 0x35, 0x06
    code = (
        (load_number, 0, 0, 0),
        (jump_if_at_least, 0, 2, 444),
        (jump_if_at_least, 1, 0, 447),
        (end, 0, 0, 0x00050000 | errno.ENOSYS),
        (end, 0, 0, 0x7FFF0000),
    )
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None)
    # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP with SECCOMP_MODE_FILTER.
    libc.prctl(38, 1, 0, 0, 0)
    libc.prctl(22, 2, program, 0, 0)


def _run_without_landlock(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=_hide_landlock)


@pytest.mark.skipif(not _namespaces_work, reason="this system has no user namespaces")
def test_mechanism_without_landlock() -> None:
    """A kernel without Landlock has mount namespaces; if they are forbidden, that is logged once with why."""
    command = [sys.executable, "-c", _FIND_MECHANISM]
    completed = _run_without_landlock(command)
    assert (completed.stdout, completed.stderr) == ("namespace\n", "")
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    completed = _run_without_landlock(["unshare", "--map-root-user", "sh", "-c", forbid, "sh", *command])
    assert completed.stdout == "none\n"
    (line,) = completed.stderr.splitlines()
    assert line.startswith("WARNING this system offers neither Landlock nor user namespaces")
    assert "unshare: " in line


def test_without_mechanism(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system that offers nothing runs a program; its system calls are still filtered."""
    monkeypatch.setenv(confinement.VARIABLE, Mechanism.NONE.value)
    file = tmp_path / "file"
    file.write_text("text")
    assert _run_confined(["cat", str(file)]).stdout == b"text"
    assert _run_confined(["timeout", "1", "true"]).returncode
