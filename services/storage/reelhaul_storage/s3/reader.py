"""RangeReader: reads a part of an object in order, and opens it again where the connection broke. Blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.s3.bucket import Bucket, errors_as_unavailable

if TYPE_CHECKING:
    from botocore.response import StreamingBody

_BATCH = 2 << 20
_PIECE = 512 << 10
# How often a read goes on after a broken connection without a byte in between.
_REOPENINGS = 3


class RangeReader:
    """Reads *length* bytes of the object at *key* from *offset*. Raises KeyError if there is no object."""

    def __init__(self, bucket: Bucket, key: str, offset: int, length: int) -> None:
        self._bucket, self._key, self._offset, self._length = bucket, key, offset, length
        self._body: StreamingBody | None = None
        if length:
            self._body = self._open()
        elif bucket.head(key) is None:
            raise KeyError(key)

    def read_batch(self, batch: int = _BATCH) -> list[bytes]:
        """Return the next *batch* bytes in pieces of at most 512 KiB; less at the end of object or range."""
        pieces: list[bytes] = []
        size = 0
        while size < batch and self._length and (piece := self._read_piece(batch - size)):
            pieces.append(piece)
            size += len(piece)
        return pieces

    def read_all(self) -> Iterator[bytes]:
        """Yield everything; close the object at the end."""
        try:
            while batch := self.read_batch():
                yield from batch
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection unless all was read."""
        if self._body is not None:
            self._body.close()

    def _read_piece(self, limit: int) -> bytes:
        for attempt in range(_REOPENINGS + 1):
            try:
                if self._body is None:
                    self._body = self._open()
                with errors_as_unavailable():
                    piece: bytes = self._body.read(min(_PIECE, limit, self._length)) if self._body else b""
            except BackendUnavailable:
                self.close()
                self._body = None
                if attempt == _REOPENINGS:
                    raise
            else:
                self._offset, self._length = self._offset + len(piece), self._length - len(piece)
                return piece
        raise AssertionError("unreachable")

    def _open(self) -> StreamingBody | None:
        return self._bucket.get(self._key, self._offset, self._length)
