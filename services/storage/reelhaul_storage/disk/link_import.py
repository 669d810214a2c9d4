"""Link import: adopts a file from the folder shared with fetchers without trusting its path."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reelhaul_runtime.errors import FieldInvalid
from reelhaul_storage.digests import Hasher
from reelhaul_storage.disk import fsync

_FIELD = "adopt_path"
_BUFFER = 1 << 20
_MAX_DEPTH = 16


def adopt(
    folder: Path, path: str, target: Path, find_hasher: Callable[[int], Hasher | None]
) -> Hasher | None:
    """Make *target* a hard link to the file at *path* in *folder*, or a copy where no link is possible.

    Returns the file's hasher: that of *find_hasher*, called with the opened file, or the one that
    hashed the copy. A linked file becomes read-only, and is rejected while it is open for writing.
    Raises FIELD_INVALID as BlobStore.adopt does.
    """
    with open_below(folder, path) as (parent, name, source):
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise FieldInvalid(_FIELD, "must be a regular file")
        target.unlink(missing_ok=True)
        hasher = find_hasher(source)
        try:
            os.link(name, target, src_dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            return _copy(source, target)
        if not os.path.samestat(os.fstat(source), os.lstat(target)):
            target.unlink()
            raise FieldInvalid(_FIELD, "was replaced while it was adopted")
        os.fchmod(source, 0o440)
        _check_no_writers(source)
        return hasher


@contextmanager
def open_below(folder: Path, path: str) -> Iterator[tuple[int, str, int]]:
    """Open the file at *path* in *folder* for reading; yield its parent folder, its name, and the file.

    Each path component is opened relative to the one before and no link is followed, so that a
    concurrent rename cannot lead out of *folder*.
    """
    parts = path.split("/")
    if not 0 < len(parts) <= _MAX_DEPTH or any(p in ("", ".", "..") or "\0" in p for p in parts):
        raise FieldInvalid(_FIELD, "must be a relative path without dots, at most 16 folders deep")
    opened = [_open_part(str(folder), os.O_RDONLY | os.O_DIRECTORY, None)]
    try:
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            opened.append(_open_part(part, flags, opened[-1]))
        # Without O_NONBLOCK, opening a pipe would block until someone writes to it.
        opened.append(_open_part(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, opened[-1]))
        yield opened[-2], parts[-1], opened[-1]
    finally:
        for fd in opened:
            os.close(fd)


# The caller's remedy for all of them is to send the bytes instead.
_NOT_A_FILE = {
    errno.EACCES,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,
    errno.EPERM,
}


def _open_part(part: str, flags: int, parent: int | None) -> int:
    try:
        return os.open(part, flags | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise FieldInvalid(_FIELD, "is not a file in the shared folder") from error
        raise


def has_no_writers(fd: int) -> bool:
    """Return whether the file is certainly not open for writing anywhere; False if that is unknown."""
    try:
        return _try_lease(fd)
    except BlockingIOError:
        return False


def _check_no_writers(fd: int) -> None:
    """Raise FIELD_INVALID if the file is open for writing anywhere, as far as that can be known."""
    try:
        _try_lease(fd)
    except BlockingIOError as error:
        raise FieldInvalid(_FIELD, "is still open for writing") from error


def _try_lease(fd: int) -> bool:
    """Return whether a read lease is granted, which means that nobody writes (F_SETLEASE in fcntl(2)).

    Raises BlockingIOError if somebody does; returns False if the filesystem or the file's owner
    does not allow leases.
    """
    # A process that opens the file for writing at this very moment would send SIGIO, which kills.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        raise
    except OSError:
        return False
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def _copy(source: int, target: Path) -> Hasher:
    """Copy the opened file *source* to *target*; return the hasher of its content."""
    hasher = Hasher()
    copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o440)
    try:
        while piece := os.read(source, _BUFFER):
            hasher.update(piece)
            fsync.write_all(copy, piece)
    finally:
        os.close(copy)
    return hasher
