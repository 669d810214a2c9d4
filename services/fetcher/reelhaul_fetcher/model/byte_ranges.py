"""Byte ranges of a file: which are missing, and which connection downloads which of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

#: Bytes before a gap that are received again, to compare them with what an earlier attempt received.
OVERLAP_BYTES = 64 * 1024
#: Smaller halves of a range are not worth a connection.
MIN_RANGE_BYTES = 512 * 1024


@dataclass(slots=True, eq=False)
class ByteRange:
    """Missing bytes from ``start`` up to but not including ``stop``; ``start`` moves as bytes arrive."""

    start: int
    #: None: to the end of a file of unknown length.
    stop: int | None
    #: Failures since the range last moved on.
    failures: int = 0
    failed_at: int = -1
    #: The bytes before this offset were received before: they are received again and compared.
    compare_until: int = 0

    @property
    def left(self) -> int:
        """Missing bytes; 0 if unknown."""
        return 0 if self.stop is None else self.stop - self.start

    def fail(self) -> int:
        """Count a failure; return how many there were with next to no bytes between them."""
        self.failures = 1 if self.start - self.failed_at >= MIN_RANGE_BYTES // 2 else self.failures + 1
        self.failed_at = self.start
        return self.failures


class RangeAllocator:
    """Divides a file into ranges, each taken by one connection or free."""

    def __init__(self) -> None:
        self._free = [ByteRange(0, None)]
        self._taken: list[ByteRange] = []
        self.received = 0

    @classmethod
    def resume(cls, total: int, received: Sequence[tuple[int, int]]) -> Self:
        """Return the missing ranges of a file of *total* bytes, of which the ranges *received* were received.

        *received* are pairs of the first byte and the byte after the last, in order. The last bytes of each
        range count as missing, for comparison.
        """
        ranges = cls()
        ranges._free = []
        begin = end = 0
        for start, stop in [*received, (total, total)]:
            overlap = min(OVERLAP_BYTES, end - begin)
            if end - overlap < start:
                ranges._free.append(ByteRange(end - overlap, start, compare_until=end))
            begin, end = start, stop
        ranges.received = total - ranges.left
        return ranges

    @property
    def complete(self) -> bool:
        """Whether no bytes are missing."""
        return not self._free and not self._taken

    @property
    def left(self) -> int:
        """Missing bytes, as far as they are known."""
        return sum(byte_range.left for byte_range in (*self._free, *self._taken))

    def list_received(self, total: int) -> list[tuple[int, int]]:
        """Return the ranges received of a file of *total* bytes, in the form of ``resume``."""
        result, position = [], 0
        for missing in sorted((*self._free, *self._taken), key=lambda missing: missing.start):
            if missing.start == missing.stop:
                continue
            if missing.start > position:
                result.append((position, missing.start))
            position = total if missing.stop is None else missing.stop
        return [*result, (position, total)] if position < total else result

    @property
    def divisible(self) -> bool:
        """Whether there is a range for one more connection."""
        return bool(self._free) or any(taken.left >= 2 * MIN_RANGE_BYTES for taken in self._taken)

    def take(self) -> ByteRange | None:
        """Take a free range, or the second half of the largest one taken; None if that is too small."""
        if self._free:
            byte_range = self._free.pop(0)
        else:
            largest = max(self._taken, key=lambda taken: taken.left, default=None)
            if largest is None or largest.left < 2 * MIN_RANGE_BYTES:
                return None
            middle = largest.start + largest.left // 2
            byte_range = ByteRange(middle, largest.stop)
            largest.stop = middle
        self._taken.append(byte_range)
        return byte_range

    def advance(self, byte_range: ByteRange, count: int) -> None:
        """Record that *count* bytes arrived. Bytes beyond its end, taken by another since, do not count."""
        count = count if byte_range.stop is None else min(count, byte_range.left)
        byte_range.start += count
        self.received += count

    def release(self, byte_range: ByteRange) -> None:
        """Free what is left of *byte_range*, if anything."""
        self._taken.remove(byte_range)
        if byte_range.stop is None or byte_range.left:
            self._free.append(byte_range)

    def rewind(self, byte_range: ByteRange) -> None:
        """Start *byte_range*, which is the whole file, from its first byte again."""
        byte_range.start = self.received = 0

    def release_all(self) -> None:
        """Free all ranges: no connection is left."""
        for byte_range in list(self._taken):
            self.release(byte_range)
