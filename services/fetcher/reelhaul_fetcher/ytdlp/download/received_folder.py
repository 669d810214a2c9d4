"""The received folder, which a later attempt may take over, and its records.

A record is a sidecar ``<file>.state`` that states which ranges of which version of a file were received.
Without a valid record, a file is received from the beginning.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOCK_FILE = ".lock"
# More than the longest record.
_MAX_RECORD_BYTES = 16 * 1024 * 1024


class ReceivedFolder:
    """The folder at *path*, locked by this process.

    If a process of an earlier attempt still holds the lock, its files are unlinked, and nothing is taken
    over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._claimed: list[str] = []
        path.mkdir(mode=0o700, exist_ok=True)
        if not self._lock():
            for entry in path.iterdir():
                entry.unlink()
            self._lock()
        for entry in list(path.iterdir()):
            if not _is_private_file(entry) and not _replace_by_copy(entry):
                entry.unlink()

    def claim(self, name: str) -> Path:
        """Return the path of the file *name*, which this attempt needs."""
        self._claimed.append(name)
        return self.path / name

    def delete_unclaimed(self) -> None:
        """Delete the files that belong to no claimed one: those of streams that earlier attempts chose."""
        for entry in self.path.iterdir():
            if entry.name != _LOCK_FILE and not entry.name.startswith(tuple(self._claimed)):
                entry.unlink()

    def _lock(self) -> bool:
        """Lock the folder until the process ends; return False if another process has the lock."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self._lock_file = os.open(self.path / _LOCK_FILE, flags, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_file)
            return False
        return True


def record_path(file: Path) -> Path:
    """Return the path of the record of *file*."""
    return file.with_name(f"{file.name}.state")


def write_record(file: Path, record: dict[str, Any]) -> None:
    """Replace the record of *file* atomically: a crash leaves the old one or the new one. Raises OSError."""
    body = json.dumps({**record, "boot": _boot_id()}).encode()
    path = record_path(file)
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    os.replace(temporary, path)


def read_record(file: Path) -> dict[str, Any]:
    """Return the record of *file*; empty if there is none or it is damaged.

    Also empty if the machine was restarted since: the file itself may not have reached the disk.
    """
    try:
        with record_path(file).open("rb") as opened:
            digest, _, body = opened.read(_MAX_RECORD_BYTES).partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return {}
        record = json.loads(body)
    except (OSError, ValueError, RecursionError):
        return {}
    is_valid = isinstance(record, dict) and record.pop("boot", "") == _boot_id() != ""
    return record if is_valid else {}


def remove_files(file: Path) -> None:
    """Delete *file* and its parts; its record first, so that a crash leaves no record without its bytes."""
    record_path(file).unlink(missing_ok=True)
    for entry in file.parent.iterdir():
        if entry.name.startswith(file.name):
            entry.unlink(missing_ok=True)


def link(file: Path, target: Path) -> Path:
    """Create *target* as a hard link to *file*, and return it. It may be deleted, but not modified."""
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        # Without hard links, a later attempt receives the file again.
        file.rename(target)
    return target


def _is_private_file(path: Path) -> bool:
    """Return whether *path* is a file without other links: storage adopts finished files by hard link."""
    with suppress(OSError):
        status = path.lstat()
        return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and bool(status.st_mode & stat.S_IWUSR)
    return False


def _replace_by_copy(path: Path) -> bool:
    """Replace a hard-linked file by a copy; return False if it is no file or the copy fails."""
    copy = path.with_name(f"{path.name}.copy")
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        shutil.copyfile(path, copy)
    except OSError:
        copy.unlink(missing_ok=True)
        return False
    os.replace(copy, path)
    return True


def _boot_id() -> str:
    """Return the kernel's boot id; empty if it is not available."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
