"""What the fetcher is told from outside, as ``REELHAUL_*``."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from reelhaul_runtime.settings import SuiteSettings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(SuiteSettings):
    """The suite's settings, and those that only a fetcher needs."""

    #: Downloads at a time.
    fetcher_slots: int = Field(default=2, ge=1, le=256)
    #: Pool of work that this fetcher takes from.
    fetcher_pool: str = Field(default="default", pattern=r"^[a-z0-9-]{1,32}$")
    #: http://[user:password@]host:port behind the guard; empty means straight out.
    fetcher_upstream_proxy: str = Field(default="", repr=False)
    #: PEM file of certificates to trust besides the usual ones.
    fetcher_ca_file: Path | None = None
    #: CIDRs that the guard lets through besides global addresses, comma separated.
    fetcher_allow_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    #: Folder that storage may take finished files from; the work folder where unset.
    storage_adopt_dir: Path | None = None
    #: Longest play time that is fetched, where the job does not say; seconds.
    fetcher_max_duration_seconds: int = 12 * 3600
    #: Seconds without a received byte, or with less than a trickle, that end an attempt.
    fetcher_stall_seconds: float = Field(default=60.0, gt=0)
    #: CPU seconds that one fetch may burn, its ffmpeg included.
    fetcher_cpu_seconds: int = Field(default=4 * 3600, ge=10)

    @field_validator("fetcher_allow_networks", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())
        return value

    @field_validator("fetcher_ca_file", "storage_adopt_dir", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def work_dir(self) -> Path:
        """Where attempts have their folders."""
        return self.data_dir.absolute() / "work"

    @property
    def adopt_dir(self) -> Path:
        """The folder that storage takes files over from."""
        return (self.storage_adopt_dir or self.work_dir).absolute()
