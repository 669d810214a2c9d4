"""Seccomp filters: a process computes, reads what is open, and can do little else.

The kernel enforces a filter, and it cannot be removed. It lists the system calls that are allowed; any other
fails with EPERM, so that a decoder that can do without goes on, and a new one with ENOSYS, so that the C
library falls back to an older one.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
import struct
from dataclasses import dataclass
from enum import Enum

_PR_SET_NAME, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 15, 38, 22
_SECCOMP_MODE_FILTER = 2
_libc = ctypes.CDLL(None, use_errno=True)

# BPF instructions, offsets in seccomp_data, and return values (linux/filter.h, linux/seccomp.h).
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT, _ARGUMENT_BYTES = 0, 4, 16, 8
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000

# AUDIT_ARCH of each machine, and the index of its numbers below.
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_INDEX = {"x86_64": 0, "aarch64": 1}
# System calls of the x32 ABI begin here.
_X32_CALLS = 0x40000000
# clone3 and what came after it. clone3 has its flags in memory, which a filter cannot read.
_FIRST_NEW_CALL = 435

_CLONE_THREAD = 0x00010000
_AT_EMPTY_PATH = 0x1000
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. Not F_SETOWN, which sends signals.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)

_AF_UNIX = 1
# TCGETS, TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX. Not TIOCSTI, which types into a terminal.
_IOCTL_REQUESTS = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)

_Numbers = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class _Condition:
    """What an argument must be: one of *values*, or any bit of one of them."""

    argument: int
    values: tuple[int, ...]
    test: int = _EQUAL
    upper_half: bool = False

    @property
    def offset(self) -> int:
        return _FIRST_ARGUMENT + _ARGUMENT_BYTES * self.argument + (4 if self.upper_half else 0)


# The numbers of each call on x86_64 and aarch64, those first that are frequent.
_COMPUTING: dict[str, _Numbers] = {
    "futex": (202, 98),
    "read": (0, 63),
    "lseek": (8, 62),
    "write": (1, 64),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "brk": (12, 214),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "fstat": (5, 80),
    "close": (3, 57),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fadvise64": (221, 223),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    # On the open channel: no call here makes a socket, or names its peer where it is connected.
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "membarrier": (324, 283),
    "rseq": (334, 293),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "uname": (63, 160),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "sysinfo": (99, 179),
    "clone": (56, 220),
    "fcntl": (72, 25),
    # fstat of newer C libraries.
    "newfstatat": (262, 79),
}
# What a program needs in addition: to start, and to open what Landlock lets it open.
_STARTING: dict[str, _Numbers] = {
    "execve": (59, 221),
    "open": (2, None),
    "openat": (257, 56),
    "getdents64": (217, 61),
    "ftruncate": (77, 46),
    "arch_prctl": (158, None),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
}
# System calls that deno needs in addition: for its event loop, its compiler, and file metadata. Of sockets,
# only local pairs.
_EVENT_LOOP_CALLS: dict[str, _Numbers] = {
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "pipe2": (293, 59),
    "socketpair": (53, 199),
    "shutdown": (48, 210),
    "ioctl": (16, 29),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "pkey_alloc": (330, 289),
    "pkey_free": (331, 290),
    "pkey_mprotect": (329, 288),
    "mincore": (27, 232),
    "stat": (4, None),
    "lstat": (6, None),
    "fstatfs": (138, 44),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
}
_CONDITIONS: dict[str, tuple[_Condition, ...]] = {
    "clone": (_Condition(0, (_CLONE_THREAD,), _ANY_BIT),),
    "fcntl": (_Condition(1, _FCNTL_COMMANDS),),
    "newfstatat": (_Condition(3, (_AT_EMPTY_PATH,), _ANY_BIT),),
    "prctl": (_Condition(0, (_PR_SET_NAME,)),),
    "socketpair": (_Condition(0, (_AF_UNIX,)),),
    "ioctl": (_Condition(1, _IOCTL_REQUESTS),),
    # To read a limit, not to set one.
    "prlimit64": (_Condition(2, (0,)), _Condition(2, (0,), upper_half=True)),
}


class Calls(Enum):
    """Sets of system calls that a filter allows."""

    #: Computing with open files: a decoder in this process.
    COMPUTING = "computing"
    #: Starting a program that opens files as well: ffmpeg.
    PROGRAM = "program"
    #: Starting a program with an event loop: deno.
    EVENT_LOOP = "event loop"


_ALLOWED: dict[Calls, dict[str, _Numbers]] = {
    Calls.COMPUTING: _COMPUTING,
    Calls.PROGRAM: _COMPUTING | _STARTING,
    Calls.EVENT_LOOP: _COMPUTING | _STARTING | _EVENT_LOOP_CALLS,
}


def install_filter(calls: Calls = Calls.COMPUTING) -> bool:
    """Allow this process and its later threads *calls* only; return False if that is not supported.

    No set of *calls* allows to reach hosts, or to start or signal processes.
    """
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        return False
    code = filter_code(machine, calls)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_program, 0, 0) == 0)


@functools.cache
def filter_code(machine: str, calls: Calls) -> bytes:
    """Return the BPF code of the filter for *machine* that allows *calls*."""
    code = [
        _instruction(_LOAD, _MACHINE),
        _instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        _instruction(_AT_LEAST, _X32_CALLS, 0, 1),
        _instruction(_RETURN, _REFUSE | errno.EPERM),
        _instruction(_AT_LEAST, _FIRST_NEW_CALL, 0, 1),
        _instruction(_RETURN, _REFUSE | errno.ENOSYS),
    ]
    for name, numbers in _ALLOWED[calls].items():
        number = numbers[_INDEX[machine]]
        if number is not None:
            allow = [*_condition_code(name), _instruction(_RETURN, _ALLOW)]
            code += [_instruction(_EQUAL, number, 0, len(allow)), *allow]
    code.append(_instruction(_RETURN, _REFUSE | errno.EPERM))
    return b"".join(code)


def _condition_code(name: str) -> list[bytes]:
    """Return code that refuses the call *name* unless its arguments meet its conditions."""
    code = []
    for condition in _CONDITIONS.get(name, ()):
        code.append(_instruction(_LOAD, condition.offset))
        remaining = len(condition.values)
        for value in condition.values:
            # Past the other values and the refusal.
            code.append(_instruction(condition.test, value, remaining, 0))
            remaining -= 1
        code.append(_instruction(_RETURN, _REFUSE | errno.EPERM))
    return code


def _instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, then, otherwise, value)
