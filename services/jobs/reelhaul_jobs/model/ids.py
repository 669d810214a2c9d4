"""Ids that sort by the time they were made: UUIDv7, RFC 9562 section 5.7."""

from __future__ import annotations

import secrets
import uuid
from datetime import datetime


def new_id(now: datetime, place: int | None = None) -> str:
    """A fresh job id, lower-case. Those of one time sort by their *place*, 0..4095, where they have one."""
    milliseconds = int(now.timestamp() * 1000)
    counter = secrets.randbits(12) if place is None else place & 0xFFF
    value = milliseconds << 80 | 0x7 << 76 | counter << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))
