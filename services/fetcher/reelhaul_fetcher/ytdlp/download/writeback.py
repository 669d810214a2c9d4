"""Bytes go to the disk while others still come, so that making them durable is short in the end."""

from __future__ import annotations

import ctypes

_WRITE = 2
_EVERY = 16 * 1024 * 1024
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


class Writeback:
    """Begins to write out a file each time that so many bytes were put into it. Waits for nothing."""

    def __init__(self, file: int) -> None:
        self._file, self._put = file, 0

    def put(self, count: int) -> None:
        """*count* bytes more. A count lost between threads does no harm."""
        self._put += count
        if self._put >= _EVERY and _sync_file_range is not None:
            self._put = 0
            # From the first byte to the last, whatever of it is not on its way yet.
            _sync_file_range(self._file, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE)
