"""System calls that move a process into another network. Imports next to nothing: it must have one thread."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def enter(user: int, network: int) -> None:
    """Move this process into the namespaces behind the descriptors, for good. Raises OSError."""
    for descriptor, kind in ((user, CLONE_NEWUSER), (network, CLONE_NEWNET)):
        _check("setns", _libc.setns(descriptor, kind))
        os.close(descriptor)
    # A process that changed its namespace may not read its own /proc otherwise.
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def unshare() -> None:
    """Move this process into new namespaces. Raises OSError."""
    _check("unshare", _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET))


def _check(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
