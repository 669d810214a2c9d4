"""Sealing a process: it computes on, and opens nothing, reaches nobody and begins nothing, whoever is in it.

By a filter of the kernel's, which cannot be taken off. What it refuses is named, not what it allows:
a library that asks for something new is to find out that it works, not that it fails.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from itertools import chain

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_FILTER = 2
_libc = ctypes.CDLL(None, use_errno=True)

# Of a filter's instructions, and what it may answer.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x00010000

# The kernel's mark of a machine, then its numbers of calls.
_MARKS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FILES = {
    # open creat openat openat2, unlink unlinkat, rename renameat renameat2, link symlink and -at, truncate
    "x86_64": (2, 85, 257, 437, 87, 263, 82, 264, 316, 86, 265, 88, 266, 76),
    "aarch64": (56, 437, 35, 38, 276, 37, 36, 45),
}
_OTHERS = {
    # socket connect bind, execve execveat fork vfork, kill tkill tgkill prlimit, ptrace process_vm pidfd
    "x86_64": (41, 42, 49, 59, 322, 57, 58, 62, 200, 234, 302, 101, 310, 311, 434, 438),
    "aarch64": (198, 203, 200, 221, 281, 129, 130, 131, 261, 117, 270, 271, 434, 438),
}
_KERNEL = {
    # io_uring_setup, mount, setns, unshare, bpf, perf_event_open, userfaultfd, add_key request_key keyctl
    "x86_64": (425, 165, 308, 272, 321, 298, 323, 248, 249, 250),
    "aarch64": (425, 40, 268, 97, 280, 241, 282, 217, 218, 219),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
# Calls of x86_64 in its other numbering begin here.
_FOREIGN = 0x40000000


def install_filter() -> bool:
    """Seal this process, and what threads it begins; False where machine or kernel cannot."""
    machine = platform.machine()
    if machine not in _MARKS:
        return False
    code = _filter(machine)
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(_libc.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0) == 0)


def _filter(machine: str) -> bytes:
    refused = [*chain(_FILES[machine], _OTHERS[machine], _KERNEL[machine])]
    steps = [
        _step(_LOAD, _MACHINE),
        _step(_EQUAL, _MARKS[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, _FOREIGN, 0, 1),
        _step(_RETURN, _REFUSE | errno.EPERM),
        # Its flags are in memory, where no filter looks: the C library takes the older one, then.
        _step(_EQUAL, _CLONE3, 0, 1),
        _step(_RETURN, _REFUSE | errno.ENOSYS),
    ]
    for number in refused:
        steps += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _REFUSE | errno.EPERM)]
    steps += [
        _step(_EQUAL, _CLONE[machine], 0, 3),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, _CLONE_THREAD, 1, 0),
        _step(_RETURN, _REFUSE | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, then, otherwise, value)
