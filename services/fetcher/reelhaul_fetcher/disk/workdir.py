"""Work directories on local disk: one per lease. The next lease takes over the media received so far.

``<job>-<epoch>`` is the directory of one lease, with the media as received in ``received``. When the
lease ends, that folder is renamed to ``<job>.<digest of the tenant>.kept``, and the next lease of the job
renames it into its own directory: no two directories ever have it, and no job finds that of another.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model.engine_requests import RECEIVED_FOLDER
from reelhaul_runtime.errors import ReelhaulError

log = logging.getLogger(__name__)

#: Kept folders older than this are deleted: the job continued elsewhere, or this worker missed its end.
MAX_KEPT_SECONDS = 24 * 3600.0

_OWNER_FILE = ".worker"
# A directory without an owner may be one that another thread or fetcher creates at this moment.
_CREATION_SECONDS = 60.0
_KEPT_SUFFIX = ".kept"
# Folders that are being deleted; a later sweep completes the deletion after a crash.
_DROPPED_SUFFIX = ".dropped"


class _KeptFolder(NamedTuple):
    time: float
    size: int
    path: Path


class WorkDirs:
    """``ports.Scratch``: directories in *root*, which several fetchers may share.

    All of *root* may use *quota_bytes* (0: the whole disk), and folders kept for later leases *kept_bytes* of
    that (0: nothing is kept); *disk_free* returns the free bytes of a disk.
    """

    def __init__(
        self,
        root: Path,
        quota_bytes: int = 0,
        disk_free: Callable[[Path], int] | None = None,
        kept_bytes: int = 0,
    ) -> None:
        self._root, self._quota, self._max_kept_bytes = root, quota_bytes, kept_bytes
        self._disk_free = disk_free or _disk_free
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, job: str, epoch: int, tenant: str | None = None) -> Path:
        directory = self._path(job, epoch)
        try:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
            owner = [_process_identity(os.getpid()), *([] if tenant is None else [_kept_name(job, tenant)])]
            (directory / _OWNER_FILE).write_text("\n".join(owner))
            if tenant is not None:
                self._take_over(job, tenant, directory)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ReelhaulError(ErrorReason.WORKER_DISK_FULL, "the worker's disk is full") from error
            raise
        return directory

    async def keep(self, folder: Path) -> None:
        await asyncio.to_thread(self._keep, folder)

    async def remove(self, folder: Path) -> None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def discard(self, job: str) -> None:
        await asyncio.to_thread(self._discard, job)

    async def list_kept_jobs(self) -> list[str]:
        kept = await asyncio.to_thread(self._kept)
        return [f"jobs/{each.path.name.partition('.')[0]}" for each in kept]

    def kept_bytes(self) -> int:
        """Return the disk usage of the media kept for later leases. Blocks on the disk."""
        return sum(kept.size for kept in self._kept())

    def free_bytes(self) -> int:
        free = self._disk_free(self._root)
        return min(free, max(0, self._quota - _used_bytes(self._root))) if self._quota else free

    def used_bytes(self, job: str, epoch: int) -> int:
        return _used_bytes(self._path(job, epoch))

    async def make_space(self, free_bytes: int) -> None:
        await asyncio.to_thread(self._make_space, free_bytes)

    async def sweep(self) -> int:
        """Delete the directories of dead fetchers, and kept folders beyond the limits; return how many.

        Media that dead fetchers received is kept.
        """
        return await asyncio.to_thread(self._sweep)

    def _path(self, job: str, epoch: int) -> Path:
        return self._root / f"{_job_id(job)}-{epoch}"

    def _take_over(self, job: str, tenant: str, directory: Path) -> None:
        """Move the media that an earlier lease of *job* received into *directory*."""
        prefix = f"{_job_id(job)}-"
        for other in self._directories():
            if other != directory and other.name.startswith(prefix) and not _is_owner_alive(other):
                self._keep(other)
        with suppress(FileNotFoundError):
            os.rename(self._root / _kept_name(job, tenant), directory / RECEIVED_FOLDER)
            log.info("took over the media received by an earlier lease", extra={"job": job})

    def _keep(self, directory: Path) -> None:
        """Remove *directory*; keep its received folder if its job may continue."""
        received, name = directory / RECEIVED_FOLDER, _read_kept_name(directory)
        with suppress(OSError):
            is_useful = name and not received.is_symlink() and _has_media(received)
            if is_useful and _used_bytes(received) <= self._max_kept_bytes:
                kept = self._root / name
                self._drop(kept)
                os.rename(received, kept)
                # Renaming does not change it: the age counts from now.
                os.utime(kept)
        shutil.rmtree(directory, ignore_errors=True)
        self._enforce_limits()

    def _drop(self, kept: Path) -> None:
        """Delete *kept*, by a name of its own: a lease that takes it over has all of it, or nothing."""
        doomed = self._root / f"{uuid.uuid4().hex}{_DROPPED_SUFFIX}"
        with suppress(OSError):
            os.rename(kept, doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _discard(self, job: str) -> None:
        for kept in self._kept():
            if kept.path.name.startswith(f"{_job_id(job)}."):
                self._drop(kept.path)

    def _make_space(self, free_bytes: int) -> None:
        for kept in self._kept():
            if self.free_bytes() >= free_bytes:
                break
            self._drop(kept.path)
            log.info("deleted a kept folder: the disk is short", extra=_fields(kept))

    def _sweep(self) -> int:
        count = 0
        for directory in self._directories():
            if not _is_owner_alive(directory):
                self._keep(directory)
                count += 1
        if count:
            log.info("swept work folders of dead fetchers", extra={"folders": count})
        return count + self._enforce_limits()

    def _enforce_limits(self) -> int:
        """Delete kept folders that are too old, and the oldest beyond the size limit; return how many."""
        all_kept, count = self._kept(), 0
        total = sum(kept.size for kept in all_kept)
        oldest = time.time() - MAX_KEPT_SECONDS
        for kept in all_kept:
            if kept.time >= oldest and total <= self._max_kept_bytes:
                break
            self._drop(kept.path)
            log.info("deleted a kept folder: over the limit or too old", extra=_fields(kept))
            total -= kept.size
            count += 1
        return count

    def _directories(self) -> Iterator[Path]:
        """Yield the directories of leases."""
        for path in list(self._root.iterdir()):
            if path.suffix != _KEPT_SUFFIX and path.is_dir() and not path.is_symlink():
                yield path

    def _kept(self) -> list[_KeptFolder]:
        """Return the kept folders, oldest first."""
        result = []
        for path in self._root.glob(f"*{_KEPT_SUFFIX}"):
            # Another fetcher, or its job, may take it meanwhile.
            with suppress(OSError):
                result.append(_KeptFolder(path.lstat().st_mtime, _used_bytes(path), path))
        return sorted(result)


def _job_id(job: str) -> str:
    return job.removeprefix("jobs/")


def _kept_name(job: str, tenant: str) -> str:
    return f"{_job_id(job)}.{hashlib.sha256(tenant.encode()).hexdigest()[:16]}{_KEPT_SUFFIX}"


def _read_kept_name(directory: Path) -> str:
    """Return the name for the kept folder of *directory*; empty if its job cannot continue."""
    try:
        lines = (directory / _OWNER_FILE).read_text().splitlines()
    except (OSError, ValueError):
        return ""
    name = lines[1] if len(lines) > 1 else ""
    job_id = directory.name.rpartition("-")[0]
    is_valid = name.startswith(f"{job_id}.") and name.endswith(_KEPT_SUFFIX) and "/" not in name
    return name if job_id and is_valid else ""


def _has_media(received: Path) -> bool:
    with os.scandir(received) as entries:
        return any(entry.is_file(follow_symlinks=False) and entry.stat().st_size for entry in entries)


def _fields(kept: _KeptFolder) -> dict[str, object]:
    return {"job": f"jobs/{kept.path.name.partition('.')[0]}", "bytes": kept.size}


def _disk_free(path: Path) -> int:
    return shutil.disk_usage(path).free


def _used_bytes(root: Path) -> int:
    """Return the allocated bytes below *root*: of a sparse file less than its length, of links once."""
    used, linked = 0, set()
    for directory, _, names in os.walk(root):
        for name in names:
            # Fragments may be deleted meanwhile.
            with suppress(OSError):
                status = os.lstat(os.path.join(directory, name))
                if status.st_nlink > 1:
                    if status.st_ino in linked:
                        continue
                    linked.add(status.st_ino)
                used += status.st_blocks * 512
    return used


def _is_owner_alive(directory: Path) -> bool:
    try:
        identity = _read_owner(directory)
        if not identity:
            return time.time() - directory.stat().st_mtime < _CREATION_SECONDS
        return identity == _process_identity(int(identity.split()[0]))
    except (OSError, ValueError):
        return False


def _read_owner(directory: Path) -> str:
    """Return the first line of the owner file; empty if there is none yet."""
    try:
        return (directory / _OWNER_FILE).read_text().partition("\n")[0]
    except FileNotFoundError:
        return ""


def _process_identity(pid: int) -> str:
    """Return *pid* with the process's start time: another process may get the same pid later."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{pid} {fields[19]}"
