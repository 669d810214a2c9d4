"""Digests: what content is known by. Size and SHA-256 name it, CRC32C checks it cheaply."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import google_crc32c  # type: ignore[import-untyped, unused-ignore]

#: SHA-256 of nothing.
EMPTY_SHA256 = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True)
class Digests:
    """Of one whole content; ``sha256`` in lower-case hex."""

    size: int
    sha256: str
    crc32c: int


class Hasher:
    """Digests of content that comes in pieces. Blocks for as long as hashing takes."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._crc32c = 0

    def update(self, content: bytes) -> None:
        """Take in the next piece."""
        self.size += len(content)
        self._sha256.update(content)
        self._crc32c = google_crc32c.extend(self._crc32c, content)

    def digests(self) -> Digests:
        """Of all that was taken in so far."""
        return Digests(self.size, self._sha256.hexdigest(), self._crc32c)


def crc32c(content: bytes) -> int:
    """CRC32C (Castagnoli) of *content*; a millisecond for some ten megabytes."""
    value: int = google_crc32c.value(content)
    return value


def extend_crc32c(begun: int, content: bytes) -> int:
    """CRC32C of something whose CRC32C is *begun*, followed by *content*."""
    value: int = google_crc32c.extend(begun, content)
    return value
