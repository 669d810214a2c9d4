"""What the gateway is told from outside, as ``REELHAUL_*``."""

from __future__ import annotations

from pydantic import Field

from reelhaul_runtime.settings import SuiteSettings


class Settings(SuiteSettings):
    """The suite's settings and those of the gateway."""

    #: Largest body of a request, as sent and as inflated.
    gateway_max_request_bytes: int = Field(default=4 << 20, gt=0)
    #: Answers from this size on are compressed for clients that take gzip; 0: never.
    gateway_compress_from_bytes: int = Field(default=2048, ge=0)
    #: Seconds that a connection may idle between two requests.
    gateway_keep_alive_seconds: int = Field(default=75, gt=0)
