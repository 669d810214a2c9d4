"""Adoption: taking a file over from the folder shared with fetchers, without trusting its path."""

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


def adopt(folder: Path, path: str, target: Path, known: Callable[[int], Hasher | None]) -> Hasher | None:
    """Let *target* be the file at *path* in *folder*: the same one by a link, else a copy.

    What hashed it is returned where *known* has that of the opened file; a copy is hashed on
    the way. Nobody writes to the file afterwards: it is read-only, and one that is still open
    for writing is refused. FIELD_INVALID as BlobStore.adopt says.
    """
    with open_below(folder, path) as (parent, name, source):
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise FieldInvalid(_FIELD, "is no plain file")
        target.unlink(missing_ok=True)
        hasher = known(source)
        try:
            os.link(name, target, src_dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            return _copied(source, target)
        if not os.path.samestat(os.fstat(source), os.lstat(target)):
            target.unlink()
            raise FieldInvalid(_FIELD, "changed while it was taken over")
        os.fchmod(source, 0o440)
        _be_unwritten(source)
        return hasher


@contextmanager
def open_below(folder: Path, path: str) -> Iterator[tuple[int, str, int]]:
    """The folder of the file at *path*, its name there, and the file opened for reading.

    Each step is opened below the one before and follows no link, so that nothing that
    moves meanwhile can lead out of *folder*.
    """
    parts = path.split("/")
    if not 0 < len(parts) <= _MAX_DEPTH or any(p in ("", ".", "..") or "\0" in p for p in parts):
        raise FieldInvalid(_FIELD, "must be relative, without dots, at most 16 folders deep")
    opened = [_step(str(folder), os.O_RDONLY | os.O_DIRECTORY, None)]
    try:
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            opened.append(_step(part, flags, opened[-1]))
        # Without O_NONBLOCK a pipe would hold us until someone writes to it.
        opened.append(_step(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, opened[-1]))
        yield opened[-2], parts[-1], opened[-1]
    finally:
        for each in opened:
            os.close(each)


# All of them mean: send the bytes instead.
_LEADS_NOWHERE = {
    errno.EACCES,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,
    errno.EPERM,
}


def _step(part: str, flags: int, parent: int | None) -> int:
    try:
        return os.open(part, flags | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno in _LEADS_NOWHERE:
            raise FieldInvalid(_FIELD, "leads to no file in the shared folder") from error
        raise


def has_no_writers(opened: int) -> bool:
    """Whether nobody has the file open for writing, for certain: False where that cannot be told."""
    try:
        return _lease(opened)
    except BlockingIOError:
        return False


def _be_unwritten(opened: int) -> None:
    """FIELD_INVALID while anybody has the file open for writing, as far as that can be told."""
    try:
        _lease(opened)
    except BlockingIOError as error:
        raise FieldInvalid(_FIELD, "is still open for writing") from error


def _lease(opened: int) -> bool:
    """Whether a read lease is granted: only where nobody writes, see F_SETLEASE in fcntl(2).

    BlockingIOError where somebody does; False where this filesystem, or its owner, gives none.
    """
    # Whoever opens it for writing in this very moment would have SIGIO kill us.
    fcntl.fcntl(opened, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        raise
    except OSError:
        return False
    with suppress(OSError):
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def _copied(source: int, target: Path) -> Hasher:
    hasher = Hasher()
    copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o440)
    try:
        while piece := os.read(source, _BUFFER):
            hasher.update(piece)
            fsync.write_all(copy, piece)
    finally:
        os.close(copy)
    return hasher
