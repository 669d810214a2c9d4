"""Which bytes of a file are still to come, and who fetches which of them."""

from __future__ import annotations

from dataclasses import dataclass

#: Halves smaller than this are not worth a connection of their own.
SMALLEST = 512 * 1024


@dataclass(slots=True, eq=False)
class ByteRange:
    """Bytes from ``start`` to before ``stop``; ``start`` moves as they come. No ``stop``: to the end."""

    start: int
    stop: int | None
    #: Since it last moved on.
    failures: int = 0
    #: Where it stood at its last failure.
    failed_at: int = -1

    @property
    def left(self) -> int:
        """Bytes to come; 0 where that is not known."""
        return 0 if self.stop is None else self.stop - self.start

    def fail(self) -> int:
        """Count a failure; how many there were with next to nothing between them."""
        self.failures = 1 if self.start - self.failed_at >= SMALLEST // 2 else self.failures + 1
        self.failed_at = self.start
        return self.failures


class RangeAllocator:
    """A file in spans: taken by those who fetch them, or loose. Whoever is done halves another's."""

    def __init__(self) -> None:
        self._loose = [ByteRange(0, None)]
        self._taken: list[ByteRange] = []
        self.received = 0

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to fetch."""
        return not self._loose and not self._taken

    @property
    def left(self) -> int:
        """Bytes to come, as far as that is known."""
        return sum(span.left for span in (*self._loose, *self._taken))

    @property
    def divisible(self) -> bool:
        """Whether there is work for one more."""
        return bool(self._loose) or any(span.left >= 2 * SMALLEST for span in self._taken)

    def take(self) -> ByteRange | None:
        """A loose span, or the second half of the largest; None where it is not worth it."""
        if self._loose:
            span = self._loose.pop(0)
        else:
            largest = max(self._taken, key=lambda taken: taken.left, default=None)
            if largest is None or largest.left < 2 * SMALLEST:
                return None
            middle = largest.start + largest.left // 2
            span = ByteRange(middle, largest.stop)
            largest.stop = middle
        self._taken.append(span)
        return span

    def advance(self, span: ByteRange, count: int) -> None:
        """*count* bytes of *span* have come; those past its end, taken by another meanwhile, do not count."""
        count = count if span.stop is None else min(count, span.left)
        span.start += count
        self.received += count

    def give_back(self, span: ByteRange) -> None:
        """Leave the rest of *span* to others, if there is a rest."""
        self._taken.remove(span)
        if span.stop is None or span.left:
            self._loose.append(span)

    def rewind(self, span: ByteRange) -> None:
        """The bytes of *span*, which is the whole file, are to come once more."""
        span.start = self.received = 0

    def release(self) -> None:
        """Nobody fetches any more: what was not received is loose."""
        for span in list(self._taken):
            self.give_back(span)
