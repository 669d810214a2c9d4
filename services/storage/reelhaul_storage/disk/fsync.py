"""Durably: file operations that are still done after a power loss, and failures told as ours."""

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
def os_errors_as_unavailable(*but: type[OSError]) -> Iterator[None]:
    """Tell what the disk refuses as STORAGE_UNAVAILABLE; *but* these, which mean something."""
    try:
        yield
    except but:
        raise
    except OSError as error:
        log.error("the disk refuses", extra={"cause": repr(error)})
        text = "the disk is full" if error.errno in _FULL else "the disk does not do what it should"
        raise BackendUnavailable("local", text) from error


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def make_folder(folder: Path, top: Path) -> None:
    """Make *folder* below *top*, durably; one that is there is left as it is."""
    if folder == top or folder.is_dir():
        return
    make_folder(folder.parent, top)
    folder.mkdir(mode=0o750, exist_ok=True)
    sync_folder(folder.parent)


def lock(path: Path, flags: int) -> int:
    """The file at *path*, opened by *flags*, ours alone among those who lock it until it is closed.

    BlockingIOError while another has it; FileNotFoundError where it is gone.
    """
    opened = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and lock it may have been published or dropped: then it is not ours.
        if not os.path.samestat(os.fstat(opened), os.stat(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    except OSError:
        os.close(opened)
        raise
    return opened


@contextmanager
def locked(path: Path, flags: int) -> Iterator[int]:
    """As ``lock``, closed with the block."""
    opened = lock(path, flags)
    try:
        yield opened
    finally:
        os.close(opened)


def write_all(opened: int, content: bytes) -> None:
    """Write all of *content*; the system may take it in parts."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(opened, rest) :]
