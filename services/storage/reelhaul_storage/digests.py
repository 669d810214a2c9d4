"""Content digests: size and SHA-256 identify content, CRC32C checks it cheaply."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import google_crc32c  # type: ignore[import-untyped, unused-ignore]

#: SHA-256 of empty content.
EMPTY_SHA256 = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True)
class Digests:
    """Digests of one complete content; ``sha256`` is lower-case hex."""

    size: int
    sha256: str
    crc32c: int


class Hasher:
    """Computes the digests of content that arrives in pieces. Blocks for as long as hashing takes."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._crc32c = 0

    def update(self, content: bytes) -> None:
        """Add the next piece."""
        self.size += len(content)
        self._sha256.update(content)
        self._crc32c = google_crc32c.extend(self._crc32c, content)

    def copy(self) -> Hasher:
        """Return a hasher of the same content, to which other content can be added."""
        copy = Hasher()
        copy.size, copy._sha256, copy._crc32c = self.size, self._sha256.copy(), self._crc32c
        return copy

    def digests(self) -> Digests:
        """Return the digests of everything added so far."""
        return Digests(self.size, self._sha256.hexdigest(), self._crc32c)


def crc32c(content: bytes) -> int:
    """Return the CRC32C (Castagnoli) of *content*; 10 MB take about a millisecond."""
    value: int = google_crc32c.value(content)
    return value


def extend_crc32c(crc: int, content: bytes) -> int:
    """Return the CRC32C of data whose CRC32C is *crc* followed by *content*."""
    value: int = google_crc32c.extend(crc, content)
    return value
