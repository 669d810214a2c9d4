"""Ids that sort by the time they were made: UUIDv7, RFC 9562 section 5.7."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import datetime


def new_id(now: datetime, position: int | None = None) -> str:
    """A fresh job id, lower-case. Those of one time sort by their *place*, 0..4095, where they have one."""
    counter = secrets.randbits(12) if position is None else position
    return _written(_milliseconds(now), counter, secrets.randbits(62))


def new_ids(now: datetime, count: int) -> Iterator[str]:
    """*number* fresh job ids, 4096 at most, that sort as they come."""
    milliseconds, chance = _milliseconds(now), secrets.token_bytes(8 * count)
    for place in range(count):
        drawn = int.from_bytes(chance[8 * place : 8 * place + 8]) >> 2
        yield _written(milliseconds, place, drawn)


def _milliseconds(now: datetime) -> int:
    return int(now.timestamp() * 1000)


def _written(milliseconds: int, counter: int, chance: int) -> str:
    value = milliseconds << 80 | 0x7 << 76 | (counter & 0xFFF) << 64 | 0b10 << 62 | chance
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
