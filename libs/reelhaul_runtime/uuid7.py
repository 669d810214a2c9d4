"""Ids that sort by creation time: UUIDv7, RFC 9562 section 5.7."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import datetime


def new_id(now: datetime, position: int | None = None) -> str:
    """Create an id in lower case. Ids of the same time sort by *position*, 0 to 4095, if given."""
    counter = secrets.randbits(12) if position is None else position
    return _format(_milliseconds(now), counter, secrets.randbits(62))


def new_ids(now: datetime, count: int) -> Iterator[str]:
    """Create *count* ids, at most 4096, in ascending order."""
    milliseconds, random_bytes = _milliseconds(now), secrets.token_bytes(8 * count)
    for position in range(count):
        random_bits = int.from_bytes(random_bytes[8 * position : 8 * position + 8]) >> 2
        yield _format(milliseconds, position, random_bits)


def _milliseconds(now: datetime) -> int:
    return int(now.timestamp() * 1000)


def _format(milliseconds: int, counter: int, random_bits: int) -> str:
    value = milliseconds << 80 | 0x7 << 76 | (counter & 0xFFF) << 64 | 0b10 << 62 | random_bits
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
