"""Moving a process into a network of its own: what the warm parent does first, and loads nothing for."""

from __future__ import annotations

import ctypes
import os

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000

_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def enter(user: int, network: int) -> None:
    """Move this process, which has one thread, into the namespaces; there is no way back. Raises OSError."""
    for descriptor, kind in ((user, NEW_USER), (network, NEW_NETWORK)):
        _check("setns", _libc.setns(descriptor, kind))
        os.close(descriptor)
    # Moving takes from a process the right to read its own /proc.
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def leave() -> None:
    """Move this process, which has one thread, into new namespaces. Raises OSError."""
    _check("unshare", _libc.unshare(NEW_USER | NEW_NETWORK))


def _check(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
