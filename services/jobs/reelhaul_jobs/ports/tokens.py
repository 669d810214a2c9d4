"""Port of tokens: what jobs needs of an identity provider."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from reelhaul.type.v1.method_policy_pb2 import PermissionLevel


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """Whom a token is of, and what they may do."""

    #: The issuer's id of the user.
    subject: str
    #: Id of the tenant, which may not exist.
    tenant: str
    level: PermissionLevel.ValueType
    #: When it stops working, the tolerance for clocks included.
    expire_time: datetime


class TokenVerifier(Protocol):
    """Verifies tokens of an identity provider."""

    async def verify(self, token: str) -> VerifiedToken:
        """Return whom *token* is of.

        Raises CREDENTIAL_INVALID, PERMISSION_INSUFFICIENT if it has no level, and SERVICE_UNAVAILABLE if the
        keys of the issuer cannot be fetched.
        """
