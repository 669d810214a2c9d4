"""Files: the blocking file operations of DiskBlobStore."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_storage.digests import Digests, Hasher
from reelhaul_storage.disk import fsync
from reelhaul_storage.disk.link_import import adopt, open_below
from reelhaul_storage.disk.prehash import PrehashCache
from reelhaul_storage.errors import BackendUnavailable, DeletionPaused, OffsetConflict
from reelhaul_storage.model import DiskSpace

# A lock on this file, beside the folders of the blobs, pauses deletions.
_DELETION_LOCK = ".deletion.lock"
# How long a pause waits for deletions.
_PAUSE_SECONDS = 1.0
_MAX_HASHERS = 1024
_PIECE = 512 << 10
_BUFFER = 1 << 20


class Files:
    """Staged and published files below *folder*. Every method blocks; any thread may call it."""

    def __init__(self, folder: Path, adopt_from: Path, reserve: int, *, must_exist: bool = False) -> None:
        self.staging = folder / "staging"
        self.blobs = folder / "blobs"
        self._folder = folder
        self._adopt_from = adopt_from
        self._reserve = reserve
        # Hashers of recent writes, so that most uploads need not be read again to be finished.
        self._hashers: OrderedDict[str, Hasher] = OrderedDict()
        if self.blobs.is_dir() or not must_exist:
            for subfolder in (self.staging, self.blobs):
                subfolder.mkdir(parents=True, exist_ok=True, mode=0o750)
            fsync.sync_folder(folder)
        device = self.staging.stat().st_dev if self.staging.is_dir() else -1
        self.prehashes = PrehashCache(adopt_from, device, os.cpu_count() or 1)

    def open_for_append(self, upload: str, offset: int) -> int:
        """Open and lock the staged file, whose size must be *offset*; return its descriptor."""
        self.check_free_space()
        with fsync.os_errors_as_unavailable(BlockingIOError, FileNotFoundError):
            try:
                fd = fsync.lock(self.staging / upload, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            except (BlockingIOError, FileNotFoundError) as error:
                raise OffsetConflict("another writer is active", offset) from error
        if (size := os.fstat(fd).st_size) != offset:
            os.close(fd)
            raise OffsetConflict(f"write_offset is {offset}, but {size} bytes are staged", size)
        return fd

    def staged_size(self, upload: str) -> int:
        """Sync the staged file; return its size, 0 if there is none."""
        with fsync.os_errors_as_unavailable(FileNotFoundError), suppress(FileNotFoundError):
            fd = os.open(self.staging / upload, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(fd).st_size
                os.fsync(fd)
            finally:
                os.close(fd)
            return size
        self._check_mounted()
        return 0

    def hash_staged(self, upload: str) -> Digests:
        """Return the digests of the staged file; reads it only if this process did not write it."""
        with fsync.os_errors_as_unavailable(FileNotFoundError), suppress(FileNotFoundError):
            with self._open_locked(upload) as fd:
                hasher = self._hashers.get(upload)
                if hasher is None or hasher.size != os.fstat(fd).st_size:
                    hasher = Hasher()
                    while piece := os.read(fd, _BUFFER):
                        hasher.update(piece)
                    self.keep_hasher(upload, hasher)
            return hasher.digests()
        self._check_mounted()
        return Hasher().digests()

    def can_adopt(self, path: str) -> bool:
        """Return whether *path* is a regular file in the shared folder."""
        try:
            with fsync.os_errors_as_unavailable(), open_below(self._adopt_from, path) as (_, _, source):
                return stat.S_ISREG(os.fstat(source).st_mode)
        except FieldInvalid:
            return False

    def adopt(self, upload: str, path: str) -> None:
        """Stage the file at *path*: a link if the shared folder is on the same filesystem, else a copy."""
        temporary = self.staging / f"{upload}.adopted"
        self.check_free_space()
        with fsync.os_errors_as_unavailable():
            hasher = adopt(self._adopt_from, path, temporary, partial(self.prehashes.take, upload))
            self._hashers.pop(upload, None)
            temporary.replace(self.staging / upload)
        if hasher is not None:
            self.keep_hasher(upload, hasher)

    def publish(self, upload: str, key: str, size: int) -> None:
        """Move the staged file to *key*, read-only and durable."""
        source, target = self.staging / upload, self.blobs / key
        with fsync.os_errors_as_unavailable():
            with self._open_locked(upload) as fd:
                staged_size = os.fstat(fd).st_size
                if staged_size != size:
                    raise OffsetConflict("the upload was written to while it was finished", staged_size)
                os.fchmod(fd, 0o440)
                os.fsync(fd)
                fsync.make_folder(target.parent, self.blobs)
                failpoints.hit("storage.publish.before_rename")
                source.replace(target)
            fsync.sync_folder(target.parent)
        self._hashers.pop(upload, None)

    @contextmanager
    def _open_locked(self, upload: str) -> Iterator[int]:
        """Open the staged file for reading and lock it against writers."""
        try:
            fd = fsync.lock(self.staging / upload, os.O_RDONLY)
        except BlockingIOError as error:
            raise OffsetConflict("another writer is active", self.staged_size(upload)) from error
        try:
            yield fd
        finally:
            os.close(fd)

    def discard(self, upload: str) -> None:
        """Delete the staged file and cancel its prehash."""
        self.prehashes.discard(upload)
        self._hashers.pop(upload, None)
        with fsync.os_errors_as_unavailable():
            for name in (upload, f"{upload}.adopted"):
                (self.staging / name).unlink(missing_ok=True)

    def size(self, key: str) -> int | None:
        """Return the size of a published file; None if there is none."""
        with fsync.os_errors_as_unavailable(FileNotFoundError), suppress(FileNotFoundError):
            return (self.blobs / key).stat().st_size
        self._check_mounted()
        return None

    def open(self, key: str) -> int:
        """Open a published file for reading; return its descriptor. Raises KeyError if there is none."""
        with fsync.os_errors_as_unavailable(FileNotFoundError):
            try:
                return os.open(self.blobs / key, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._check_mounted()
                raise KeyError(key) from None

    def _check_mounted(self) -> None:
        """Raise STORAGE_UNAVAILABLE if the folders are missing, which says nothing about a file in them."""
        if not (self.staging.is_dir() and self.blobs.is_dir()):
            raise BackendUnavailable("local", "the folder of the artifacts is missing; is its disk mounted?")

    def delete(self, key: str) -> None:
        """Delete a published file. A missing one is not an error. Raises DeletionPaused."""
        with fsync.os_errors_as_unavailable(BlockingIOError):
            try:
                with _locked_deletion(self._folder, fcntl.LOCK_SH):
                    (self.blobs / key).unlink(missing_ok=True)
            except BlockingIOError as error:
                raise DeletionPaused("local") from error

    def check(self) -> None:
        """Write a file, read it back and delete it; a full disk fails as well."""
        self.check_free_space()
        # Without a name where the file system allows that: a crash leaves nothing behind.
        with fsync.os_errors_as_unavailable(), tempfile.TemporaryFile(dir=self.staging) as probe:
            probe.write(b"reelhaul")
            probe.seek(0)
            if probe.read() != b"reelhaul":
                raise BackendUnavailable("local", "the disk does not return what was written to it")

    def check_free_space(self) -> None:
        """Raise STORAGE_UNAVAILABLE if less than the reserve is free, or the disk is not mounted."""
        self._check_mounted()
        with fsync.os_errors_as_unavailable():
            filesystem = os.statvfs(self.staging)
        free = filesystem.f_bavail * filesystem.f_frsize
        if free < self._reserve:
            message = "the disk is full: only the reserve is left"
            raise BackendUnavailable("local", message, freeBytes=str(free))

    def measure_space(self) -> DiskSpace:
        """Return the space on the disk of the staged and published files."""
        with fsync.os_errors_as_unavailable():
            filesystem = os.statvfs(self.staging)
            staged = 0
            with os.scandir(self.staging) as entries:
                for entry in entries:
                    # It may be published or discarded meanwhile.
                    with suppress(FileNotFoundError):
                        staged += entry.stat(follow_symlinks=False).st_size
            free = filesystem.f_bavail * filesystem.f_frsize
            try:
                adopts_by_link = self._adopt_from.stat().st_dev == self.staging.stat().st_dev
            except FileNotFoundError:
                adopts_by_link = False
        return DiskSpace(
            free=free,
            total=filesystem.f_blocks * filesystem.f_frsize,
            available=max(0, free - self._reserve) + staged,
            adopts_by_link=adopts_by_link,
        )

    def take_hasher(self, upload: str, size: int) -> Hasher | None:
        """Return the hasher of the first *size* bytes of *upload*; None if they must be read again."""
        hasher = self._hashers.pop(upload, None)
        if hasher is not None and hasher.size == size:
            return hasher
        return None if size else Hasher()

    def keep_hasher(self, upload: str, hasher: Hasher) -> None:
        """Keep *hasher* for the next write to *upload* or its finish."""
        self._hashers[upload] = hasher
        while len(self._hashers) > _MAX_HASHERS:
            with suppress(KeyError):
                self._hashers.popitem(last=False)


@contextmanager
def pause_deletion(folder: Path) -> Iterator[None]:
    """Let no process delete a published file of the store in *folder* until the end of the block.

    Raises BlockingIOError if deletion is paused already.
    """
    end = time.monotonic() + _PAUSE_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(_locked_deletion(folder, fcntl.LOCK_EX))
                break
            except BlockingIOError:
                # It may be that a file is deleted right now, which takes no time.
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE_SECONDS / 1000)
        yield


@contextmanager
def _locked_deletion(folder: Path, operation: int) -> Iterator[None]:
    fd = os.open(folder / _DELETION_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def read_pieces(fd: int, offset: int, length: int) -> list[bytes]:
    """Read *length* bytes from *offset* in pieces; fewer or none at the end of the file."""
    end = offset + length
    with fsync.os_errors_as_unavailable():
        return [os.pread(fd, min(_PIECE, end - at), at) for at in range(offset, end, _PIECE)]


def list_files_before(folder: Path, before: datetime) -> list[Path]:
    """Return the files below *folder*, or itself, that were last written *before*, without hidden ones."""
    files = []
    # Keys of a store on S3, from which blobs were moved here, have no folders.
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            if path.is_file() and path.name[0] != "." and path.stat().st_mtime < before.timestamp():
                files.append(path)
    return files
