"""Tokens: verifies JWT of an identity provider (RFC 7519, RFC 8725), and maps their claims."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.oidc.key_set import ALGORITHMS, REQUEST_SECONDS, KeySet
from reelhaul_jobs.ports.tokens import VerifiedToken
from reelhaul_runtime.auth.credentials import rejection
from reelhaul_runtime.auth.oidc_settings import OidcSettings
from reelhaul_runtime.errors import ReelhaulError

_LEVELS = {
    name.removeprefix("PERMISSION_LEVEL_"): value
    for name, value in PermissionLevel.items()
    if value >= PermissionLevel.PERMISSION_LEVEL_READ_ONLY
}
# OpenID Connect Core 1.0 section 2: at most 255 ASCII characters.
_MAX_SUBJECT_LENGTH = 255
_MAX_VALUES = 1000
# The end of the year 9999.
_MAX_EXPIRY = 253402300799


class OidcTokens:
    """TokenVerifier for the issuer of *settings*, whose keys are *keys*."""

    def __init__(self, settings: OidcSettings, keys: KeySet) -> None:
        self._settings, self._keys = settings, keys

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: OidcSettings) -> AsyncIterator[OidcTokens]:
        """Open a verifier until the block exits."""
        # A redirect could lead away from what the operator trusts.
        async with httpx.AsyncClient(
            timeout=REQUEST_SECONDS, trust_env=False, follow_redirects=False
        ) as client:
            yield cls(settings, KeySet(client, settings.oidc_issuer, settings.oidc_jwks_url))

    async def verify(self, token: str) -> VerifiedToken:
        """Return whom *token* is of."""
        claims = await self._decode(token)
        subject = claims["sub"]
        if not 1 <= len(subject) <= _MAX_SUBJECT_LENGTH or not subject.isprintable() or not subject.isascii():
            raise rejection("the subject of the token is not 1 to 255 ASCII characters")
        tenant = _find_claim(claims, self._settings.oidc_tenant_claim)
        if not isinstance(tenant, str) or not tenant or not tenant.isprintable():
            raise rejection(f"the token names no tenant in its claim {self._settings.oidc_tenant_claim}")
        expiry = min(int(claims["exp"]) + self._settings.oidc_leeway_seconds, _MAX_EXPIRY)
        return VerifiedToken(subject, tenant, self._find_level(claims), datetime.fromtimestamp(expiry, UTC))

    async def _decode(self, token: str) -> dict[str, Any]:
        """Return the claims of *token*, which are true. Raises CREDENTIAL_INVALID."""
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), header.get("kid", "")
            if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
                raise rejection(f"tokens must be signed by {', '.join(ALGORITHMS)}")
            key = await self._keys.find(key_id)
            if key is None or key.algorithm_name != algorithm:
                raise rejection("the token is not signed by a key of the issuer")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=settings.oidc_audience,
                issuer=settings.oidc_issuer,
                leeway=settings.oidc_leeway_seconds,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise rejection("the token is expired") from None
        except jwt.ImmatureSignatureError:
            raise rejection("the token is not valid yet") from None
        except jwt.InvalidAudienceError:
            raise rejection("the token is for another audience") from None
        except jwt.InvalidIssuerError:
            raise rejection("the token is of another issuer") from None
        except jwt.MissingRequiredClaimError as error:
            raise rejection(f"the token has no claim {error.claim}") from None
        # The library raises TypeError for a time that is a list or an object.
        except (jwt.PyJWTError, OverflowError, TypeError):
            raise rejection("the token is malformed, or its signature is wrong") from None
        return claims

    def _find_level(self, claims: Mapping[str, Any]) -> PermissionLevel.ValueType:
        """Return the highest level that *claims* give. Raises PERMISSION_INSUFFICIENT if they give none."""
        name, mapping = self._settings.oidc_level_claim, self._settings.oidc_levels
        value = _find_claim(claims, name)
        values = value[:_MAX_VALUES] if isinstance(value, list) else [value]
        names = [mapping.get(each) if mapping else each for each in values if isinstance(each, str)]
        levels = [_LEVELS[each] for each in names if each in _LEVELS]
        if not levels:
            raise ReelhaulError(
                ErrorReason.PERMISSION_INSUFFICIENT,
                f"the claim {name} of the token gives no level",
                metadata={"required": "READ_ONLY", "granted": "PUBLIC"},
            )
        return max(levels)


def _find_claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return the claim *name*, or the one at this path; None if there is none."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
