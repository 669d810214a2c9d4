"""Seccomp filter: once installed, a process can open no files, reach no hosts and start no processes.

The kernel enforces the filter, and it cannot be removed. It lists the denied system calls, not the allowed
ones, so that a new library version that uses other harmless calls keeps working.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from itertools import chain

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_SECCOMP_MODE_FILTER = 2
_libc = ctypes.CDLL(None, use_errno=True)

# BPF instructions, offsets in seccomp_data, and return values (linux/filter.h, linux/seccomp.h).
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x00010000

# AUDIT_ARCH of each machine, then its system call numbers.
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FILE_CALLS = {
    # open creat openat openat2, unlink unlinkat, rename renameat renameat2, link symlink and -at, truncate
    "x86_64": (2, 85, 257, 437, 87, 263, 82, 264, 316, 86, 265, 88, 266, 76),
    "aarch64": (56, 437, 35, 38, 276, 37, 36, 45),
}
_PROCESS_AND_NETWORK_CALLS = {
    # socket connect bind, execve execveat fork vfork, kill tkill tgkill prlimit, ptrace process_vm pidfd
    "x86_64": (41, 42, 49, 59, 322, 57, 58, 62, 200, 234, 302, 101, 310, 311, 434, 438),
    "aarch64": (198, 203, 200, 221, 281, 129, 130, 131, 261, 117, 270, 271, 434, 438),
}
_KERNEL_CALLS = {
    # io_uring_setup, mount, setns, unshare, bpf, perf_event_open, userfaultfd, add_key request_key keyctl
    "x86_64": (425, 165, 308, 272, 321, 298, 323, 248, 249, 250),
    "aarch64": (425, 40, 268, 97, 280, 241, 282, 217, 218, 219),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
# System calls of the x32 ABI begin here.
_X32_CALLS = 0x40000000


def install_filter() -> bool:
    """Install the filter in this process and its later threads; return False if it is not supported."""
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        return False
    code = _filter_code(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0)


def _filter_code(machine: str) -> bytes:
    denied = [*chain(_FILE_CALLS[machine], _PROCESS_AND_NETWORK_CALLS[machine], _KERNEL_CALLS[machine])]
    code = [
        _instruction(_LOAD, _MACHINE),
        _instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        _instruction(_AT_LEAST, _X32_CALLS, 0, 1),
        _instruction(_RETURN, _REFUSE | errno.EPERM),
        # clone3 has its flags in memory, which a filter cannot read: make the C library fall back to clone.
        _instruction(_EQUAL, _CLONE3, 0, 1),
        _instruction(_RETURN, _REFUSE | errno.ENOSYS),
    ]
    for number in denied:
        code += [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, _REFUSE | errno.EPERM)]
    code += [
        _instruction(_EQUAL, _CLONE[machine], 0, 3),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_ANY_BIT, _CLONE_THREAD, 1, 0),
        _instruction(_RETURN, _REFUSE | errno.EPERM),
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def _instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, then, otherwise, value)
