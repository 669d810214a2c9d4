"""Settings of the gateway, from ``REELHAUL_*``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reelhaul_runtime.settings import SuiteSettings


class Settings(SuiteSettings):
    """The settings of the suite and those of the gateway."""

    #: Largest request body in bytes, as sent and as inflated.
    gateway_max_request_bytes: int = Field(default=4 << 20, gt=0)
    #: Smallest response in bytes that is compressed for clients that accept gzip; 0: never.
    gateway_compress_from_bytes: int = Field(default=2048, ge=0)
    #: Seconds that a connection may be idle between two requests.
    gateway_keep_alive_seconds: int = Field(default=75, gt=0)
    #: The pages that may embed downloads: those of the same origin, of the same site, or all.
    gateway_resource_policy: Literal["same-origin", "same-site", "cross-origin"] = "same-origin"
