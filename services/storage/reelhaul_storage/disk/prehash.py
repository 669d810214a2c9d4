"""Prehash cache: hashes files of the shared folder before they are adopted, while they are verified.

It takes nothing over and keeps nothing but digests: an upload that never finishes leaves nothing behind.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reelhaul_runtime.errors import FieldInvalid
from reelhaul_storage.digests import Hasher
from reelhaul_storage.disk.link_import import has_no_writers, open_below

_BUFFER = 1 << 20
_MAX_PREHASHES = 256
# The clock of file times; Python has no name for it.
_CLOCK_REALTIME_COARSE = 5
# A tick of that clock takes 1 to 10 ms; a time far in the future comes from another machine's clock.
_TICK_SECONDS, _MAX_TICKS = 0.001, 20


@dataclass(frozen=True, slots=True)
class _FileState:
    """Identity, size and times of a file. Every change sets ``ctime``, which nobody can set back."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    @classmethod
    def from_fd(cls, fd: int) -> _FileState:
        status = os.fstat(fd)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class _Prehash:
    """A file that is being hashed; *cancelled* stops the thread that reads it."""

    cancelled: threading.Event
    result: Future[tuple[_FileState, Hasher] | None]

    def cancel(self) -> None:
        self.cancelled.set()
        self.result.cancel()


class PrehashCache:
    """Hashes files in *folder*, at most *readers* at a time. Any thread may call it.

    Only files on *device* are hashed: others will be copied, and are hashed on the way.
    """

    def __init__(self, folder: Path, device: int, readers: int) -> None:
        self._folder, self._device = folder, device
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="prehash")
        self._prehashes: OrderedDict[str, _Prehash] = OrderedDict()

    def start(self, upload: str, path: str) -> None:
        """Start hashing the file at *path*, which *upload* will adopt. Returns at once and never raises."""
        if upload in self._prehashes:
            return
        cancelled = threading.Event()
        self._prehashes[upload] = _Prehash(cancelled, self._readers.submit(self._hash, path, cancelled))
        while len(self._prehashes) > _MAX_PREHASHES:
            self._prehashes.popitem(last=False)[1].cancel()

    def take(self, upload: str, fd: int) -> Hasher | None:
        """Return the hasher of the open file *fd* that *upload* adopts; None if it is unknown or changed.

        Waits if the file is being hashed; cancels if that has not started yet.
        """
        prehash = self._prehashes.pop(upload, None)
        if prehash is None or prehash.result.cancel():
            return None
        result = prehash.result.result()
        if result is None:
            return None
        state, hasher = result
        # In this order: an active writer is detected first, and one that has finished has changed the state.
        if not has_no_writers(fd) or state != _FileState.from_fd(fd):
            return None
        return hasher

    def discard(self, upload: str) -> None:
        """Cancel the prehash of *upload*, which will not be finished."""
        if prehash := self._prehashes.pop(upload, None):
            prehash.cancel()

    def close(self) -> None:
        """Cancel every prehash and wait for the threads."""
        for prehash in self._prehashes.values():
            prehash.cancel()
        self._readers.shutdown(cancel_futures=True)

    def _hash(self, path: str, cancelled: threading.Event) -> tuple[_FileState, Hasher] | None:
        """Hash the file; return its state before that. None if a change would go unnoticed."""
        try:
            with open_below(self._folder, path) as (_, _, source):
                state = _FileState.from_fd(source)
                will_be_linked = stat.S_ISREG(os.fstat(source).st_mode) and state.device == self._device
                if not will_be_linked or not has_no_writers(source) or not _wait_past(state.ctime):
                    return None
                hasher = Hasher()
                while not cancelled.is_set() and (piece := os.read(source, _BUFFER)):
                    hasher.update(piece)
                return None if cancelled.is_set() else (state, hasher)
        except (FieldInvalid, OSError):
            return None  # adopting the file will raise the same


def _wait_past(ctime: int) -> bool:
    """Wait until a change from now on gets a later time than *ctime*; False if that takes too long."""
    for _ in range(_MAX_TICKS):
        if time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) > ctime:
            return True
        time.sleep(_TICK_SECONDS)
    return False
