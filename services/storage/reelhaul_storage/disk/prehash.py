"""Ahead: files of the shared folder are read before they are taken over, while others still try them.

Nothing is taken meanwhile, and nothing is kept but a digest: who never comes back leaves nothing behind.
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
_MOST = 256
# CLOCK_REALTIME_COARSE, the clock of files; Python has no name for it.
_CLOCK_OF_FILES = 5
# A clock tick is 1 to 10 ms; a time far ahead is that of another machine.
_TICK_SECONDS, _TICKS = 0.001, 20


@dataclass(frozen=True, slots=True)
class _State:
    """Of a file: whatever is done to it changes this, and nobody can turn ``changed`` back."""

    device: int
    inode: int
    size: int
    written: int
    changed: int

    @classmethod
    def of(cls, opened: int) -> _State:
        told = os.fstat(opened)
        return cls(told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class _Read:
    """A file that is being read; *over* is set when nobody wants it any more."""

    over: threading.Event
    found: Future[tuple[_State, Hasher] | None]

    def stop(self) -> None:
        self.over.set()
        self.found.cancel()


class PrehashCache:
    """Reads files in *folder*, at most *readers* at a time. Any thread may call it.

    Only those on *device*: from elsewhere they are copied, and hashed on the way.
    """

    def __init__(self, folder: Path, device: int, readers: int) -> None:
        self._folder, self._device = folder, device
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="ahead")
        self._reads: OrderedDict[str, _Read] = OrderedDict()

    def start(self, upload: str, path: str) -> None:
        """Read the file at *path*, which *upload* is to take over. Returns at once, and never fails."""
        if upload in self._reads:
            return
        over = threading.Event()
        self._reads[upload] = _Read(over, self._readers.submit(self._read, path, over))
        while len(self._reads) > _MOST:
            self._reads.popitem(last=False)[1].stop()

    def take(self, upload: str, opened: int) -> Hasher | None:
        """What hashed the file *opened* for *upload*, once all is read; None where it is not that any more.

        Blocks while it is being read. What was not begun by now is not read at all.
        """
        read = self._reads.pop(upload, None)
        if read is None or read.found.cancel():
            return None
        found = read.found.result()
        # In this order: who still writes is refused, and who has ended has left a trace.
        if found is None or not has_no_writers(opened) or found[0] != _State.of(opened):
            return None
        return found[1]

    def forget(self, upload: str) -> None:
        """*upload* will not come."""
        if read := self._reads.pop(upload, None):
            read.stop()

    def close(self) -> None:
        """Read no further."""
        for read in self._reads.values():
            read.stop()
        self._readers.shutdown(cancel_futures=True)

    def _read(self, path: str, over: threading.Event) -> tuple[_State, Hasher] | None:
        """What hashed the file, and the state that it was in before; None where that would prove nothing."""
        try:
            with open_below(self._folder, path) as (_, _, source):
                state = _State.of(source)
                ours = stat.S_ISREG(os.fstat(source).st_mode) and state.device == self._device
                if not ours or not has_no_writers(source) or not _past(state.changed):
                    return None
                hasher = Hasher()
                while not over.is_set() and (piece := os.read(source, _BUFFER)):
                    hasher.update(piece)
                return None if over.is_set() else (state, hasher)
        except (FieldInvalid, OSError):
            return None  # whoever takes it over will hear of that


def _past(changed: int) -> bool:
    """Wait until a change from now on has another time than *changed*; False where that takes long."""
    for _ in range(_TICKS):
        if time.clock_gettime_ns(_CLOCK_OF_FILES) > changed:
            return True
        time.sleep(_TICK_SECONDS)
    return False
