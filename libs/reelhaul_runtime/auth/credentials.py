"""Credentials: where a caller puts its API key or token, and what a verified one stands for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from reelhaul.admin.v1 import api_key_pb2
from reelhaul.admin.v1.api_key_service_pb2 import VerifyApiKeyResponse
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import errors
from reelhaul_runtime.addresses import Network, unmap
from reelhaul_runtime.auth.level_quotas import LevelQuotas, effective_quota
from reelhaul_runtime.auth.peers import Metadata
from reelhaul_runtime.identity import Caller

AUTHORIZATION_KEY, API_KEY_KEY = "authorization", "x-api-key"

_SCHEME = "bearer"
# An API key has 57 characters; tokens of identity providers with many claims have a few thousand.
_MAX_LENGTH = 8192


@dataclass(frozen=True, slots=True)
class VerifiedCredential:
    """What a credential stands for."""

    caller: Caller
    #: The networks that it may be used from; empty means all.
    networks: tuple[Network, ...] = ()
    #: Seconds since the epoch when it stops working; infinity if it does not expire.
    expiry: float = float("inf")
    #: Seconds for which it may be used again without a check.
    max_age: float = 0.0


def find_credential(metadata: Metadata) -> str:
    """Return the key or token that *metadata* holds; empty without one.

    Raises CREDENTIAL_INVALID if two differ, or if the scheme is not Bearer (RFC 6750 section 2.1).
    """
    authorization, api_key = metadata.get(AUTHORIZATION_KEY, ""), metadata.get(API_KEY_KEY, "")
    if not authorization and not api_key:
        return ""
    token = _parse_authorization(str(authorization)) if authorization else ""
    key = str(api_key).strip()
    if token and key and token != key:
        raise rejection("authorization and x-api-key hold different credentials: send one of them")
    credential = token or key
    if len(credential) > _MAX_LENGTH:
        raise rejection(f"a credential has at most {_MAX_LENGTH} characters")
    return credential


def check_address(credential: VerifiedCredential, address: str) -> None:
    """Raise ADDRESS_FORBIDDEN if *credential* may not be used from the IP address *address*."""
    if not credential.networks:
        return
    try:
        parsed = unmap(ipaddress.ip_address(address))
    except ValueError:
        parsed = None
    if parsed is None or not any(parsed in network for network in credential.networks):
        raise errors.ReelhaulError(
            ErrorReason.ADDRESS_FORBIDDEN,
            f"this key may not be used from {address or 'an unknown address'}, only from its allowed_cidrs",
        )


def credential_of_key(response: VerifyApiKeyResponse, levels: LevelQuotas) -> VerifiedCredential:
    """Return what the key of *response* stands for; its quota becomes the one that applies by *levels*."""
    key = api_key_pb2.ApiKey()
    key.CopyFrom(response.api_key)
    key.quota.CopyFrom(effective_quota(key.permission, key.quota, response.tenant.quota, levels))
    caller = Caller(
        key.tenant.removeprefix("tenants/"),
        key.permission,
        principal=key.name,
        api_key=key,
        tenant_resource=response.tenant,
    )
    return VerifiedCredential(
        caller,
        tuple(ipaddress.ip_network(cidr) for cidr in key.allowed_cidrs),
        key.expire_time.ToNanoseconds() / 1e9 if key.HasField("expire_time") else float("inf"),
        response.max_age.ToTimedelta().total_seconds(),
    )


def rejection(text: str) -> errors.ReelhaulError:
    """Return the error CREDENTIAL_INVALID; *text* holds nothing of the credential."""
    return errors.ReelhaulError(ErrorReason.CREDENTIAL_INVALID, text)


def _parse_authorization(value: str) -> str:
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != _SCHEME or not token or "," in token:
        raise rejection("authorization must be one Bearer credential: `authorization: Bearer <key>`")
    return token.strip()
