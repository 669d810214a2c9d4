"""Settings of an identity provider whose tokens are accepted beside API keys (OpenID Connect)."""

from __future__ import annotations

import ipaddress
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from reelhaul_runtime.auth.level_quotas import Level

_MAX_LEEWAY_SECONDS = 300


class OidcSettings(BaseSettings):
    """Which tokens are accepted, and whose they are."""

    #: Issuer of tokens (JWT) that are accepted beside API keys, exactly as in their claim ``iss``: a URL of
    #: https, on loopback also http. Empty: none are.
    oidc_issuer: str = ""
    #: What the tokens must be for: their claim ``aud``.
    oidc_audience: str = ""
    #: Where the issuer publishes its keys. Empty: as its discovery document says.
    oidc_jwks_url: str = ""
    #: Claim with the id of the tenant, which must exist; of a nested claim its path: ``org.id``.
    oidc_tenant_claim: str = Field(default="tenant", min_length=1, max_length=200)
    #: Claim with the level, or a list of which the highest counts; of a nested one its path.
    oidc_level_claim: str = Field(default="reelhaul_level", min_length=1, max_length=200)
    #: Level by value of that claim, as JSON: {"video-admins": "ADMIN"}. Empty: the names of the levels.
    oidc_levels: dict[str, Level] = Field(default_factory=dict, max_length=100)
    #: Seconds by which the clocks of issuer and server may differ.
    oidc_leeway_seconds: int = Field(default=60, ge=0, le=_MAX_LEEWAY_SECONDS)

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        return check_provider_url(value) if value else value

    @model_validator(mode="after")
    def _require_audience(self) -> Self:
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError(
                "REELHAUL_OIDC_AUDIENCE is not set: without it tokens for other services would be accepted"
            )
        return self


def check_provider_url(url: str) -> str:
    """Return *url* if it is one of an identity provider. Raises ValueError."""
    parts = urlsplit(url)
    if parts.username is not None or parts.fragment or not parts.hostname:
        raise ValueError("must be a URL without user and fragment, for example https://id.example/realm")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ValueError("must be https://…: whoever can change what it answers could make tokens")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
