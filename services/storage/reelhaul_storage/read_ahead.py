"""Read-ahead: the memory that the readers of a blob store share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Each reader holds up to two batches. Handing work to a thread pays only in large ones.
_TOTAL = 64 << 20
_MAX_BATCH = 2 << 20
_MIN_BATCH = 128 << 10


class ReadAhead:
    """Shares the memory of one store's readers."""

    def __init__(self) -> None:
        self._readers = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a reader until the block exits."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    @property
    def batch(self) -> int:
        """How many bytes a reader reads next: fewer the more readers there are."""
        return max(_MIN_BATCH, min(_MAX_BATCH, _TOTAL // max(1, self._readers)))
