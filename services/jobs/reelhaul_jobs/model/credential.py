"""Credentials: whom a key or a ticket stands for, and tickets, of which only the hash is stored."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.model.api_key import ApiKey
from reelhaul_jobs.model.tenant import Tenant

#: How long services may keep what a key resolves to.
MAX_AGE = timedelta(seconds=60)

#: How long a ticket can be used.
TICKET_LIFETIME = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a credential stands for, and how long services may rely on it."""

    #: The key, or what a caller without a key may do.
    key: ApiKey | api_key_pb2.ApiKey
    #: None if the tenant of a caller without a key is not one of ours.
    tenant: Tenant | None
    max_age: timedelta = MAX_AGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a ticket stands for: the key that created it, or what a caller without a key may do."""

    #: SHA-256 of its text.
    hash: bytes = field(repr=False)
    #: Id of the key; empty if the caller has none.
    key: str = ""
    #: Id of the caller's tenant.
    tenant: str
    #: What a caller without a key may do, named by its principal.
    grantee: api_key_pb2.ApiKey | None = None
    expire_time: datetime


def create_ticket_text() -> str:
    """Return a new ticket's text: 32 random bytes, 43 characters of base64url."""
    return secrets.token_urlsafe(32)


def hash_ticket_text(text: str) -> bytes:
    """Return the SHA-256 of a ticket's *text*, of any length."""
    return hashlib.sha256(text.encode(errors="replace")).digest()
