"""A sealed process computes on, and does nothing else, whatever library in it would like to."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SEALED = """
import ctypes, os, socket, sys, threading
from reelhaul_fetcher.media import seccomp
if not seccomp.install_filter():
    sys.exit("this kernel cannot")
"""


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _SEALED + code], capture_output=True, text=True, timeout=20, check=False
    )
    return done.stdout.strip() or done.stderr.strip()[-200:]


@pytest.mark.parametrize(
    "deed",
    [
        "open('/etc/hostname')",
        "open('/proc/%d/mem' % os.getppid(), 'rb')",
        "open('new', 'w')",
        "os.unlink('/nothing')",
        "socket.socket()",
        "socket.socketpair()[0].connect('/nobody')",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
    ],
)
def test_refused(deed: str) -> None:
    """What would touch anything beyond it is refused, and it lives on."""
    code = f"""
try:
    {deed}
except PermissionError as error:
    print("refused")
"""
    assert _run(code) == "refused"


def test_no_reading_of_others() -> None:
    """The memory of other processes is out of reach by the kernel's own calls as well."""
    code = "print(ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0), ctypes.get_errno())"
    assert _run(code).startswith("-1 ")


def test_threads_go_on() -> None:
    """A decoder may still work in several threads."""
    code = """
said = []
threads = [threading.Thread(target=said.append, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(said))
"""
    assert _run(code) == "4"
