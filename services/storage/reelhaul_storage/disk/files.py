"""Files: what Disk does, step by step, in a thread."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from reelhaul_storage.digests import Digests, Hasher
from reelhaul_storage.disk import fsync
from reelhaul_storage.disk.link_import import adopt
from reelhaul_storage.disk.prehash import PrehashCache
from reelhaul_storage.errors import BackendUnavailable, OffsetConflict

_HASHERS = 1024
_READ_BATCH = 2 << 20
_PIECE = 512 << 10
_BUFFER = 1 << 20


class Files:
    """Staged and published files below *folder*. Every method blocks; any thread may call it."""

    def __init__(self, folder: Path, adopt_from: Path, reserve: int) -> None:
        self.staging = folder / "staging"
        self.blobs = folder / "blobs"
        self._adopt_from = adopt_from
        self._reserve = reserve
        # Of writes that ended a moment ago: so that most need not be read again to finish.
        self._hashers: OrderedDict[str, Hasher] = OrderedDict()
        for each in (self.staging, self.blobs):
            each.mkdir(parents=True, exist_ok=True, mode=0o750)
        fsync.sync_folder(folder)
        self.prehashes = PrehashCache(adopt_from, self.staging.stat().st_dev, os.cpu_count() or 1)

    def open_for_append(self, upload: str, offset: int) -> int:
        """The staged file, opened for appending at *offset* and locked."""
        with fsync.os_errors_as_unavailable(BlockingIOError, FileNotFoundError):
            self.check_free_space()
            try:
                opened = fsync.lock(self.staging / upload, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            except (BlockingIOError, FileNotFoundError) as error:
                raise OffsetConflict("another writer is active", offset) from error
        if (size := os.fstat(opened).st_size) != offset:
            os.close(opened)
            raise OffsetConflict(f"write_offset is {offset}, but {size} bytes are here", size)
        return opened

    def staged_size(self, upload: str) -> int:
        """As BlobStore.staged_size."""
        with fsync.os_errors_as_unavailable(FileNotFoundError), suppress(FileNotFoundError):
            opened = os.open(self.staging / upload, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(opened).st_size
                os.fsync(opened)
            finally:
                os.close(opened)
            return size
        return 0

    def hash_staged(self, upload: str) -> Digests:
        """As BlobStore.digests."""
        with fsync.os_errors_as_unavailable(FileNotFoundError), suppress(FileNotFoundError):
            with self._alone(upload) as opened:
                hasher = self._hashers.get(upload)
                if hasher is None or hasher.size != os.fstat(opened).st_size:
                    hasher = Hasher()
                    while piece := os.read(opened, _BUFFER):
                        hasher.update(piece)
                    self.keep_hasher(upload, hasher)
            return hasher.digests()
        return Hasher().digests()

    def adopt(self, upload: str, path: str) -> None:
        """As BlobStore.adopt."""
        between = self.staging / f"{upload}.adopted"
        with fsync.os_errors_as_unavailable():
            self.check_free_space()
            hasher = adopt(self._adopt_from, path, between, partial(self.prehashes.take, upload))
            self._hashers.pop(upload, None)
            between.replace(self.staging / upload)
        if hasher is not None:
            self.keep_hasher(upload, hasher)

    def publish(self, upload: str, key: str, size: int) -> None:
        """As BlobStore.publish."""
        source, target = self.staging / upload, self.blobs / key
        with fsync.os_errors_as_unavailable():
            with self._alone(upload) as opened:
                found = os.fstat(opened).st_size
                if found != size:
                    raise OffsetConflict("the upload was written to while it was finished", found)
                os.fchmod(opened, 0o440)
                os.fsync(opened)
                fsync.make_folder(target.parent, self.blobs)
                source.replace(target)
            fsync.sync_folder(target.parent)
        self._hashers.pop(upload, None)

    @contextmanager
    def _alone(self, upload: str) -> Iterator[int]:
        """The staged file, opened for reading, while nobody writes to it."""
        try:
            opened = fsync.lock(self.staging / upload, os.O_RDONLY)
        except BlockingIOError as error:
            raise OffsetConflict("another writer is active", self.staged_size(upload)) from error
        try:
            yield opened
        finally:
            os.close(opened)

    def discard(self, upload: str) -> None:
        """As BlobStore.discard."""
        self.prehashes.forget(upload)
        self._hashers.pop(upload, None)
        with fsync.os_errors_as_unavailable():
            for name in (upload, f"{upload}.adopted"):
                (self.staging / name).unlink(missing_ok=True)

    def size(self, key: str) -> int | None:
        """As BlobStore.size."""
        with fsync.os_errors_as_unavailable(FileNotFoundError), suppress(FileNotFoundError):
            return (self.blobs / key).stat().st_size
        return None

    def open(self, key: str) -> int:
        """The published file, opened for reading. KeyError if there is none."""
        with fsync.os_errors_as_unavailable(FileNotFoundError):
            try:
                return os.open(self.blobs / key, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise KeyError(key) from None

    def delete(self, key: str) -> None:
        """As BlobStore.delete."""
        with fsync.os_errors_as_unavailable():
            (self.blobs / key).unlink(missing_ok=True)

    def check(self) -> None:
        """As BlobStore.check."""
        probe = self.staging / f".probe-{os.getpid()}"
        with fsync.os_errors_as_unavailable():
            self.check_free_space()
            probe.write_bytes(b"reelhaul")
            if probe.read_bytes() != b"reelhaul":
                raise BackendUnavailable("local", "the disk does not hold what is written to it")
            probe.unlink()

    def check_free_space(self) -> None:
        """Raise STORAGE_UNAVAILABLE where only the reserve is left."""
        room = os.statvfs(self.staging)
        if room.f_bavail * room.f_frsize < self._reserve:
            raise BackendUnavailable("local", "the disk is full: only the reserve is left")

    def take_hasher(self, upload: str, size: int) -> Hasher | None:
        """What goes on hashing *upload* after *size* bytes; None where nobody knows them."""
        kept = self._hashers.pop(upload, None)
        if kept is not None and kept.size == size:
            return kept
        return None if size else Hasher()

    def keep_hasher(self, upload: str, hasher: Hasher) -> None:
        """Remember what hashed *upload*, for the next who asks."""
        self._hashers[upload] = hasher
        while len(self._hashers) > _HASHERS:
            with suppress(KeyError):
                self._hashers.popitem(last=False)


def read_pieces(opened: int, offset: int, length: int) -> list[bytes]:
    """The next bytes from *offset* on, at most *length*; fewer, or none, at the end of the file."""
    end = offset + min(length, _READ_BATCH)
    with fsync.os_errors_as_unavailable():
        return [os.pread(opened, min(_PIECE, end - at), at) for at in range(offset, end, _PIECE)]


def list_files_before(folder: Path, before: datetime) -> list[Path]:
    """Files below *folder* that were last written *before*; hidden ones are not ours to tell of."""
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and path.name[0] != "." and path.stat().st_mtime < before.timestamp():
                found.append(path)
    return found
