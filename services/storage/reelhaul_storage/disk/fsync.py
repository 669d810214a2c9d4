"""Durable file operations: what they did survives a power loss, and OS errors become STORAGE_UNAVAILABLE."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reelhaul_storage.errors import BackendUnavailable

log = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def os_errors_as_unavailable(*except_for: type[OSError]) -> Iterator[None]:
    """Raise STORAGE_UNAVAILABLE for an OSError, but let *except_for* pass: the caller handles those."""
    try:
        yield
    except except_for:
        raise
    except OSError as error:
        log.error("disk operation failed", extra={"cause": repr(error)})
        message = "the disk is full" if error.errno in _FULL else "the disk operation failed"
        raise BackendUnavailable("local", message) from error


def sync_folder(folder: Path) -> None:
    """Make the directory entries of *folder* durable."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def make_folder(folder: Path, top: Path) -> None:
    """Create *folder* below *top*, parents included, durably. An existing folder is left as it is."""
    if folder == top or folder.is_dir():
        return
    make_folder(folder.parent, top)
    folder.mkdir(mode=0o750, exist_ok=True)
    sync_folder(folder.parent)


def lock(path: Path, flags: int) -> int:
    """Open the file at *path* with *flags* and lock it exclusively until it is closed.

    Raises BlockingIOError while it is locked elsewhere, and FileNotFoundError if it does not exist.
    """
    opened = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been published or deleted between open and lock; then the lock is worthless.
        if not os.path.samestat(os.fstat(opened), os.stat(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    except OSError:
        os.close(opened)
        raise
    return opened


def write_all(opened: int, content: bytes) -> None:
    """Write all of *content*; one os.write may write only a part of it."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(opened, rest) :]
