"""Parent-death signal: the kernel ends a child process whose parent has died.

Imports next to nothing: it is used between fork and exec, and in processes that must start fast.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


def die_with_parent(number: signal.Signals = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have the kernel send *number* to this process when its parent dies (prctl(2), PR_SET_PDEATHSIG).

    With *parent*, the process id of the parent, exit at once with code 1 if the parent died before
    the kernel was asked. Safe as a ``preexec_fn`` beside threads: it calls prctl and getppid only.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
