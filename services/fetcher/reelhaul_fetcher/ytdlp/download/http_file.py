"""A plain file on its way: over one connection, or over several where one is slow.

Each writes at its own place of one file. Whatever is not provably of the file that was begun
starts it over: what is finished is one version of it, or there is a failure.
"""

from __future__ import annotations

from io import FileIO
from pathlib import Path

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model.byte_ranges import RangeAllocator
from reelhaul_fetcher.ytdlp.download.parallel import Hear, ParallelDownload
from reelhaul_fetcher.ytdlp.download.remote_file import Remote, RemoteFileChanged, Version
from reelhaul_runtime.errors import ReelhaulError

# Side by side, alone, and without asking for parts at all.
_STARTS = 3


class FileDownload:
    """The file at *path*, fetched over at most *most* connections, telling *hear*."""

    def __init__(self, path: Path, most: int, hear: Hear) -> None:
        self.path = path
        self._most, self._hear = most, hear
        self._spans: RangeAllocator | None = None
        self._version = Version()

    def receive(self, remote: Remote) -> None:
        """Fetch all of it, or the rest of it from a fresh URL after a failure.

        Raises RequestError, OSError, what *hear* raises, VERIFICATION_FAILED for a file that never stays.
        """
        for start in range(_STARTS):
            if start == _STARTS - 1:
                remote.forget_ranges()
            try:
                return self._received(remote, self._most if start == 0 else 1)
            except RemoteFileChanged:
                self.forget()
        text = "the file changed each time that it was fetched"
        raise ReelhaulError(ErrorReason.VERIFICATION_FAILED, text, metadata={"check": "version"})

    def forget(self) -> None:
        """Begin anew at the next ``receive``."""
        self._spans, self._version = None, Version()

    def _received(self, remote: Remote, most: int) -> None:
        if self._spans is None:
            # Not the old one emptied: who still writes into that must not reach the new one.
            self.path.unlink(missing_ok=True)
        file = FileIO(self.path, "x+" if self._spans is None else "r+")
        crew = ParallelDownload(remote, file, self._spans or RangeAllocator(), self._version, self._hear)
        try:
            crew.work(most)
        finally:
            self._spans, self._version = (crew.spans if crew.resumable else None), crew.version
