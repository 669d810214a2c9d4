"""Work folders on local disk: one for each lease, none left behind."""

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

_LOCK = ".worker"


class WorkDirs:
    """Folders ``<job>-<epoch>`` in one place, which other fetchers may share.

    All that lies in the place may take *quota_bytes* (0: what the disk has); *disk_free* says
    what a disk has.
    """

    def __init__(
        self, place: Path, quota_bytes: int = 0, disk_free: Callable[[Path], int] | None = None
    ) -> None:
        self._place, self._quota = place, quota_bytes
        self._disk_free = disk_free or _disk_free
        place.mkdir(parents=True, exist_ok=True)

    def create(self, job: str, epoch: int) -> Path:
        """As ``ports.Scratch.make``."""
        folder = self._folder(job, epoch)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            (folder / _LOCK).write_text(_identity(os.getpid()))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ReelhaulError(ErrorReason.WORKER_DISK_FULL, "the worker's disk is full") from error
            raise
        return folder

    async def remove(self, folder: Path) -> None:
        """As ``ports.Scratch.remove``."""
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def free_bytes(self) -> int:
        """As ``ports.Scratch.free_bytes``."""
        free = self._disk_free(self._place)
        return min(free, max(0, self._quota - _taken(self._place))) if self._quota else free

    def used_bytes(self, job: str, epoch: int) -> int:
        """As ``ports.Scratch.used_bytes``."""
        return _taken(self._folder(job, epoch))

    def _folder(self, job: str, epoch: int) -> Path:
        return self._place / f"{job.removeprefix('jobs/')}-{epoch}"

    async def sweep(self) -> int:
        """Remove the folders of fetchers that are dead; how many there were."""
        return await asyncio.to_thread(self._sweep)

    def _sweep(self) -> int:
        swept = 0
        for folder in self._place.iterdir():
            if folder.is_dir() and not folder.is_symlink() and not _owner_lives(folder):
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
        if swept:
            log.info("swept work folders of dead fetchers", extra={"folders": swept})
        return swept


def _disk_free(place: Path) -> int:
    return shutil.disk_usage(place).free


def _taken(place: Path) -> int:
    """Bytes of disk below *place*: what files have of it, not how long they claim to be."""
    taken = 0
    for folder, _, names in os.walk(place):
        for name in names:
            # Gone meanwhile: fragments come and go.
            with suppress(OSError):
                taken += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return taken


def _owner_lives(folder: Path) -> bool:
    try:
        told = (folder / _LOCK).read_text()
        return told == _identity(int(told.split()[0]))
    except (OSError, ValueError, IndexError):
        return False


def _identity(pid: int) -> str:
    """A process told apart from later ones of its number: by when it was started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{pid} {fields[19]}"
