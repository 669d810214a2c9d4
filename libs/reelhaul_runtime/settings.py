"""Settings that all services share, read once at the edge from ``REELHAUL_*``."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from reelhaul_runtime import failpoints


class SuiteSettings(BaseSettings):
    """What every service of the suite is told. A service's own settings add to it."""

    model_config = SettingsConfigDict(env_prefix="REELHAUL_", env_file=".env", extra="ignore", frozen=True)

    #: Where databases, artifacts, the broker's files and work folders lie, unless told apart.
    data_dir: Path = Path("data")
    #: host:port of each service: what it listens on, and where the others find it.
    gateway_address: str = "127.0.0.1:8080"
    jobs_address: str = "127.0.0.1:50051"
    fetcher_address: str = "127.0.0.1:50052"
    storage_address: str = "127.0.0.1:50053"
    #: The broker; ``reelhaul up`` starts one where this is empty.
    nats_url: str = ""
    #: How callers are known: ``none`` takes all of them for one tenant, on loopback only.
    auth: Literal["none", "keys"] = "none"
    #: What the services show each other for internal RPCs. ``reelhaul up`` makes one.
    suite_token: str = Field(default="", repr=False)
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: Seconds that work in hand is given to end after SIGTERM.
    drain_seconds: float = Field(default=10.0, ge=0, le=3600)
    #: Whether this is a crash test, which alone may ask for what follows.
    chaos: bool = False
    #: Where processes kill themselves, and by which odds: ``<point>=kill:<0…1>``, comma separated.
    failpoints: str = ""

    @field_validator("failpoints")
    @classmethod
    def _readable(cls, value: str) -> str:
        failpoints.parse(value)
        return value

    @model_validator(mode="after")
    def _die_only_in_crash_tests(self) -> Self:
        if self.failpoints and not self.chaos:
            raise ValueError(
                "REELHAUL_FAILPOINTS kills processes: it is for crash tests, with REELHAUL_CHAOS=1"
            )
        return self

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> Self:
        if self.auth == "none":
            for name in ("gateway_address", "jobs_address", "fetcher_address", "storage_address"):
                address = getattr(self, name)
                if not is_loopback(address):
                    raise ValueError(
                        f"REELHAUL_{name.upper()}={address} is not a loopback address:"
                        " REELHAUL_AUTH=none would open the suite to everyone who can reach it"
                    )
        if self.auth == "keys":
            raise ValueError("REELHAUL_AUTH=keys is not served by this build yet; use none, on loopback")
        return self


def is_loopback(address: str) -> bool:
    """Whether *address* (host:port) can be reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def describe_errors(error: ValidationError | SettingsError) -> list[str]:
    """What is wrong with the settings, a line for each, naming the variable and never its value."""
    if isinstance(error, SettingsError):
        return [str(error)]
    lines = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        text = fault["msg"].removeprefix("Value error, ")
        name = "REELHAUL_" + "_".join(str(step).upper() for step in fault["loc"][:1])
        lines.append(f"{name}: {text[0].lower()}{text[1:]}" if fault["loc"] else text)
    return lines
