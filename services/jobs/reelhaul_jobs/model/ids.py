"""Ids that sort by the time they were made: UUIDv7, RFC 9562 section 5.7."""

from __future__ import annotations

import secrets
import uuid
from datetime import datetime


def new_id(now: datetime) -> str:
    """A fresh job id, lower-case."""
    milliseconds = int(now.timestamp() * 1000)
    bits = secrets.randbits(74)
    value = milliseconds << 80 | 0x7 << 76 | (bits >> 62) << 64 | 0b10 << 62 | bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=value))
