"""Mount namespace: a process sees a few paths of this machine, and no other file, whatever it does.

For kernels without Landlock. The process enters a user and a mount namespace of its own, whose root is a
folder in memory with these paths in it and nothing else, and loses the rights that the namespaces gave it.
See user_namespaces(7), mount_namespaces(7) and pivot_root(2). Programs that it starts are in there as well.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# linux/sched.h, sys/mount.h, linux/prctl.h, linux/securebits.h and linux/capability.h.
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_PROGRAMS = 1, 2, 4, 8
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 28, 38
# SECBIT_NOROOT and SECBIT_NO_SETUID_FIXUP, locked: user 0 is a user like others.
_SECURE_BITS = 0b1111
_CAPABILITY_VERSION = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)

# Hidden by the new root only until the old one is moved: a folder that every system has.
_MOUNT_POINT = "/proc"
_OLD_ROOT = "/.old"
# A program may open this many files beside those that it inherits.
_OPEN_FILES = 256


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder with everything below it, and where it appears."""

    source: str
    target: str
    is_folder: bool
    #: Of each mount in it, by target: its flags.
    flags: Mapping[str, int]


def plan_mounts(rules: Mapping[Path, bool]) -> list[Mount]:
    """Return the mounts for ``enter``: one for each path of *rules*, which say whether it is writable.

    Paths that do not exist are left out. Raises OSError.
    """
    mounts = []
    for path, is_writable in rules.items():
        target, source = str(path.absolute()), str(path.resolve())
        if not os.path.exists(source):
            continue
        read_only = 0 if is_writable else _READ_ONLY
        flags = {
            target + each.removeprefix(source): read_only | _flags_of(each)
            for each in (source, *_mount_points_below(source))
        }
        mounts.append(Mount(source, target, os.path.isdir(source), flags))
    return mounts


def enter(mounts: Sequence[Mount]) -> None:
    """Move this process, which must have one thread, to where it sees *mounts* only, for good.

    It keeps its user, its descriptors, and the path of its working directory. Usable between fork and exec:
    it imports and locks nothing. Raises OSError.
    """
    user, group, folder = os.geteuid(), os.getegid(), os.getcwd()
    highest_descriptor = max(map(int, os.listdir("/proc/self/fd")))
    _check("unshare", _libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER))
    # The same user inside as outside: files keep their owners.
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    _replace_root()
    for mount in mounts:
        _create(mount)
        _mount(_OLD_ROOT + mount.source, mount.target, _BIND | _RECURSIVE)
        for target, flags in mount.flags.items():
            _mount(None, target, _BIND | _REMOUNT | flags)
    os.makedirs(folder, exist_ok=True)
    _check("umount", _libc.umount2(os.fsencode(_OLD_ROOT), _MNT_DETACH))
    os.rmdir(_OLD_ROOT)
    _mount(None, "/", _BIND | _REMOUNT | _READ_ONLY | _NO_SETUID | _NO_DEVICES)
    os.chdir(folder)
    # Without /proc, Python closes every number up to this one before it starts a program.
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest_descriptor + _OPEN_FILES,) * 2)
    _drop_rights()


def _replace_root() -> None:
    """Make an empty folder the root, and move the old one to ``_OLD_ROOT``."""
    _mount(None, "/", _PRIVATE | _RECURSIVE)
    _mount("tmpfs", _MOUNT_POINT, _NO_SETUID | _NO_DEVICES, "tmpfs")
    os.mkdir(_MOUNT_POINT + _OLD_ROOT)
    _check(
        "pivot_root",
        _libc.pivot_root(os.fsencode(_MOUNT_POINT), os.fsencode(_MOUNT_POINT + _OLD_ROOT)),
    )
    os.chdir("/")


def _create(mount: Mount) -> None:
    """Create the place where *mount* appears, if it is not in another mount."""
    os.makedirs(mount.target if mount.is_folder else os.path.dirname(mount.target), exist_ok=True)
    if not os.path.exists(mount.target):
        os.close(os.open(mount.target, os.O_CREAT | os.O_WRONLY, 0o600))


def _drop_rights() -> None:
    _check("prctl", _libc.prctl(_PR_SET_SECUREBITS, _SECURE_BITS, 0, 0, 0))
    header, none = struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _check("capset", _libc.capset(header, none))
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _flags_of(path: str) -> int:
    """Return the flags with which *path* is mounted again: those that it has may not be removed."""
    found = os.statvfs(path).f_flag & (_READ_ONLY | _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS)
    is_device = not os.path.isdir(path) and not os.path.isfile(path)
    return found | _NO_SETUID | (0 if is_device else _NO_DEVICES)


def _mount_points_below(path: str) -> Iterator[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            # Spaces and the like are written in octal.
            point = line.split(" ")[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
            if point.startswith(f"{path}/"):
                yield point


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _mount(source: str | None, target: str, flags: int, kind: str | None = None) -> None:
    arguments = [os.fsencode(each) if each is not None else None for each in (source, target, kind)]
    _check("mount", _libc.mount(*arguments, flags, None))


def _check(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
