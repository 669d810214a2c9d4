"""Work directories on local disk: one per lease, deleted after it, also those of dead fetchers."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

log = logging.getLogger(__name__)

_OWNER_FILE = ".worker"


class WorkDirs:
    """``ports.Scratch``: directories ``<job>-<epoch>`` in *root*, which several fetchers may share.

    All of *root* may use *quota_bytes* (0: the whole disk); *disk_free* returns the free bytes of a disk.
    """

    def __init__(
        self, root: Path, quota_bytes: int = 0, disk_free: Callable[[Path], int] | None = None
    ) -> None:
        self._root, self._quota = root, quota_bytes
        self._disk_free = disk_free or _disk_free
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, job: str, epoch: int) -> Path:
        directory = self._path(job, epoch)
        try:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
            (directory / _OWNER_FILE).write_text(_process_identity(os.getpid()))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ReelhaulError(ErrorReason.WORKER_DISK_FULL, "the worker's disk is full") from error
            raise
        return directory

    async def remove(self, folder: Path) -> None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def free_bytes(self) -> int:
        free = self._disk_free(self._root)
        return min(free, max(0, self._quota - _used_bytes(self._root))) if self._quota else free

    def used_bytes(self, job: str, epoch: int) -> int:
        return _used_bytes(self._path(job, epoch))

    async def sweep(self) -> int:
        """Delete the directories of dead fetchers; return how many there were."""
        return await asyncio.to_thread(self._sweep)

    def _path(self, job: str, epoch: int) -> Path:
        return self._root / f"{job.removeprefix('jobs/')}-{epoch}"

    def _sweep(self) -> int:
        count = 0
        for directory in self._root.iterdir():
            if directory.is_dir() and not directory.is_symlink() and not _is_owner_alive(directory):
                shutil.rmtree(directory, ignore_errors=True)
                count += 1
        if count:
            log.info("swept work folders of dead fetchers", extra={"folders": count})
        return count


def _disk_free(path: Path) -> int:
    return shutil.disk_usage(path).free


def _used_bytes(root: Path) -> int:
    """Return the allocated bytes below *root*; a sparse file counts less than its length."""
    used = 0
    for directory, _, names in os.walk(root):
        for name in names:
            # Fragments may be deleted meanwhile.
            with suppress(OSError):
                used += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return used


def _is_owner_alive(directory: Path) -> bool:
    try:
        identity = (directory / _OWNER_FILE).read_text()
        return identity == _process_identity(int(identity.split()[0]))
    except (OSError, ValueError, IndexError):
        return False


def _process_identity(pid: int) -> str:
    """Return *pid* with the process's start time: another process may get the same pid later."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{pid} {fields[19]}"
