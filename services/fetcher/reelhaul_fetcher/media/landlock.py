"""Landlock: a process restricts itself, for good, to a few paths, no TCP and no signals to others.

See landlock(7). A path that no rule names cannot be opened, whatever the process does; descriptors that are
open already stay usable. Programs that the process starts are restricted as well.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# System calls: the same numbers on every machine. Commands and flags of linux/landlock.h.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _RULE_PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
#: What a rule allows.
READ = _READ_FILE
EXECUTE = _EXECUTE | _READ_FILE
WRITE = _READ_FILE | _WRITE_FILE | _TRUNCATE
LIST = _READ_DIRECTORY

# How many rights each version of the interface has: of files since 1, then with REFER, TRUNCATE, IOCTL_DEV.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
# Rights to bind and connect TCP sockets (since version 4), and the scopes of abstract sockets and signals
# (since version 6).
_TCP_RIGHTS, _SCOPES = 0b11, 0b11


@functools.cache
def version() -> int:
    """Return the version of the kernel's Landlock interface; 0: there is none, or it is disabled."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


@contextmanager
def open_ruleset(rules: Mapping[Path, int]) -> Iterator[int | None]:
    """Yield a descriptor of a ruleset for ``restrict_self``; None if the kernel has no Landlock.

    *rules* are the rights on each file, or on everything below each folder. Paths that do not exist are
    left out. Raises OSError.
    """
    if not version():
        yield None
        return
    handled = (1 << _FILE_RIGHTS.get(version(), _FILE_RIGHTS[5])) - 1
    attributes = [handled]
    if version() >= 4:
        attributes.append(_TCP_RIGHTS)
    if version() >= 6:
        attributes.append(_SCOPES)
    ruleset = _call(_CREATE_RULESET, struct.pack(f"={len(attributes)}Q", *attributes), 8 * len(attributes), 0)
    try:
        for path, rights in rules.items():
            _add_rule(ruleset, path, rights & handled)
        yield ruleset
    finally:
        os.close(ruleset)


def restrict_self(ruleset: int | None) -> None:
    """Restrict this thread, and what it starts, to *ruleset*; None changes nothing. Raises OSError.

    Usable between fork and exec: it makes two system calls.
    """
    if ruleset is not None:
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, ruleset, 0)


def _add_rule(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= ~_READ_DIRECTORY
        _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: bytes | int) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
