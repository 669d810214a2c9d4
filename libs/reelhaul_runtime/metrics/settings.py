"""Settings of metrics."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from reelhaul_runtime.server_addresses import check_address, is_loopback

#: The settings that are addresses of metrics; each may be empty.
METRICS_ADDRESSES = (
    "gateway_metrics_address",
    "jobs_metrics_address",
    "fetcher_metrics_address",
    "storage_metrics_address",
)


class MetricsSettings(BaseSettings):
    """Where services serve their metrics, and to whom."""

    #: host:port where each service serves its metrics, as GET /metrics. Empty: nowhere.
    gateway_metrics_address: str = "127.0.0.1:9180"
    jobs_metrics_address: str = "127.0.0.1:9181"
    fetcher_metrics_address: str = "127.0.0.1:9182"
    storage_metrics_address: str = "127.0.0.1:9183"
    #: Bearer token that scrapes must present. Required if one of these addresses is not loopback.
    metrics_token: str = Field(default="", repr=False)

    @field_validator(*METRICS_ADDRESSES)
    @classmethod
    def _check_metrics_address(cls, value: str) -> str:
        return check_address(value) if value else value

    @field_validator("metrics_token")
    @classmethod
    def _check_metrics_token(cls, value: str) -> str:
        # Scrapes send it in a header.
        if value and not (value.strip() == value and value.isascii() and value.isprintable()):
            raise ValueError("must be printable ASCII characters, for example of `openssl rand -hex 32`")
        return value

    @model_validator(mode="after")
    def _require_metrics_token(self) -> Self:
        for name in METRICS_ADDRESSES:
            address = getattr(self, name)
            if address and not is_loopback(address) and not self.metrics_token:
                raise ValueError(
                    f"REELHAUL_{name.upper()}={address} is not a loopback address: set"
                    " REELHAUL_METRICS_TOKEN, for example to the output of `openssl rand -hex 32`"
                )
        return self
