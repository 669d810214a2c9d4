"""Settings that all services share, read once at start from ``REELHAUL_*``."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from reelhaul_runtime import failpoints

_ADDRESSES = ("gateway_address", "jobs_address", "fetcher_address", "storage_address")


class SuiteSettings(BaseSettings):
    """Settings of every service of the suite. A service's own settings extend it."""

    model_config = SettingsConfigDict(env_prefix="REELHAUL_", env_file=".env", extra="ignore", frozen=True)

    #: Folder of databases, artifacts, the broker's files and work directories, unless set apart.
    data_dir: Path = Path("data")
    #: host:port of each service: where it listens, and where the others find it.
    gateway_address: str = "127.0.0.1:8080"
    jobs_address: str = "127.0.0.1:50051"
    fetcher_address: str = "127.0.0.1:50052"
    storage_address: str = "127.0.0.1:50053"
    #: The broker; ``reelhaul up`` starts one if this is empty.
    nats_url: str = Field(default="", repr=False)
    #: How callers authenticate: with ``none`` all are one tenant, on loopback only.
    auth: Literal["none", "keys"] = "none"
    #: The credential of the services for internal RPCs. ``reelhaul up`` creates one.
    suite_token: str = Field(default="", repr=False)
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: Seconds that running work has to end after SIGTERM.
    drain_seconds: float = Field(default=10.0, ge=0, le=3600)
    #: Whether this is a crash test: failpoints require it.
    chaos: bool = False
    #: Failpoints and their probabilities: ``<point>=kill:<0…1>``, comma separated.
    failpoints: str = ""

    @field_validator("failpoints")
    @classmethod
    def _check_failpoints(cls, value: str) -> str:
        failpoints.parse(value)
        return value

    @model_validator(mode="after")
    def _allow_failpoints_in_crash_tests_only(self) -> Self:
        if self.failpoints and not self.chaos:
            raise ValueError(
                "REELHAUL_FAILPOINTS kills processes: it is for crash tests, with REELHAUL_CHAOS=1"
            )
        return self

    @model_validator(mode="after")
    def _require_loopback_without_authentication(self) -> Self:
        if self.auth == "none":
            for name in _ADDRESSES:
                address = getattr(self, name)
                if not is_loopback(address):
                    raise ValueError(
                        f"REELHAUL_{name.upper()}={address} is not a loopback address:"
                        " REELHAUL_AUTH=none would open the suite to everyone who can reach it"
                    )
        if self.auth == "keys":
            raise ValueError("REELHAUL_AUTH=keys is not supported by this build; use none, on loopback")
        return self


def is_loopback(address: str) -> bool:
    """Return whether *address* (host:port) is reachable from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def describe_errors(error: ValidationError | SettingsError) -> list[str]:
    """Return a line for each wrong setting, with the name of the variable and never its value."""
    if isinstance(error, SettingsError):
        return [str(error)]
    lines = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        text = detail["msg"].removeprefix("Value error, ")
        name = "REELHAUL_" + "_".join(str(part).upper() for part in detail["loc"][:1])
        lines.append(f"{name}: {text[0].lower()}{text[1:]}" if detail["loc"] else text)
    return lines
