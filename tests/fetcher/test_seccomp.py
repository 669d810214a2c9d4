"""Seccomp filter: a sandboxed process still computes, and can do nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PREAMBLE = """
import ctypes, os, socket, sys, threading
from reelhaul_fetcher.media import seccomp
if not seccomp.install_filter():
    sys.exit("this kernel does not support it")
"""


def _run(code: str) -> str:
    completed = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + code], capture_output=True, text=True, timeout=20, check=False
    )
    return completed.stdout.strip() or completed.stderr.strip()[-200:]


@pytest.mark.parametrize(
    "statement",
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
def test_denied_calls(statement: str) -> None:
    """Calls that affect anything outside the process fail, and the process goes on."""
    code = f"""
try:
    {statement}
except PermissionError as error:
    print("refused")
"""
    assert _run(code) == "refused"


def test_memory_of_other_processes() -> None:
    """ptrace is denied."""
    code = "print(ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0), ctypes.get_errno())"
    assert _run(code).startswith("-1 ")


def test_threads() -> None:
    """A decoder may still start threads."""
    code = """
results = []
threads = [threading.Thread(target=results.append, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(results))
"""
    assert _run(code) == "4"
