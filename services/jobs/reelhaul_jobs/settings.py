"""Settings of the jobs service, from ``REELHAUL_*``."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_runtime.addresses import Network
from reelhaul_runtime.sealing import check_keys, load_or_create_key, parse_keys
from reelhaul_runtime.settings import SuiteSettings, check_database_url, split_networks


class Settings(SuiteSettings):
    """The suite's settings and those of jobs."""

    #: ``sqlite:///FILE`` or ``postgresql://…``; empty: jobs.db in the data folder.
    jobs_database_url: str = Field(default="", repr=False)
    #: Seconds that a worker's lease lasts; the worker renews it every third of that.
    jobs_lease_seconds: float = Field(default=30.0, ge=1.0, le=600.0)
    #: Days that an ended job and its artifacts are kept, unless its caller says.
    jobs_retention_days: float = Field(default=7.0, gt=0, le=3650)
    #: Servers of the broker's cluster that keep a copy of each stream: 1, 3 or 5. With 3 the cluster may lose
    #: one server, with 5 two. Existing streams are changed at the start.
    jobs_stream_replicas: int = 1
    #: Jobs of one site that run at once; 0: any number.
    jobs_site_limit: int = Field(default=16, ge=0, le=100_000)
    #: The same for single sites, as JSON: {"youtube.com": 4}.
    jobs_site_limits: dict[str, Annotated[int, Field(ge=0, le=100_000)]] = Field(default_factory=dict)
    #: Seconds between two starts at one site through one egress; more where the site asks for it.
    jobs_site_delay_seconds: float = Field(default=0.0, ge=0.0, le=3600.0)
    #: Seconds of the cool-down of a site that blocks us; doubled each time, up to 30 minutes.
    jobs_park_seconds: float = Field(default=30.0, ge=0.1, le=1800.0)
    #: A tenant's share of the workers, where another tenant's is 1, as JSON: {"acme": 3}.
    jobs_tenant_weights: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(default_factory=dict)
    #: Keys that the secrets of webhooks are encrypted with, comma separated: the first encrypts, any
    #: decrypts. Empty: one in the data folder, created when it is first needed.
    jobs_seal_keys: str = Field(default="", repr=False)
    #: Networks that webhooks may be in in addition to public addresses, also by http, comma separated.
    jobs_webhook_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    #: PEM file of certificate authorities that webhooks may have besides those of this machine.
    jobs_webhook_ca_file: Path | None = None
    #: File that gets the string of a new FULL_ACCESS key, with mode 0600, if none works when jobs starts with
    #: REELHAUL_AUTH=keys. ``reelhaul up`` sets it. Unset: none is created; ``reelhaul first-key`` does.
    jobs_first_key_file: Path | None = None

    @field_validator("jobs_first_key_file", "jobs_webhook_ca_file", mode="before")
    @classmethod
    def _unset_empty_file(cls, value: object) -> object:
        return None if value == "" else value

    #: Days that the audit log is kept.
    jobs_audit_days: float = Field(default=400.0, ge=1, le=3650)

    @field_validator("jobs_database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        return check_database_url(value)

    @field_validator("jobs_stream_replicas")
    @classmethod
    def _check_stream_replicas(cls, value: int) -> int:
        if value not in (1, 3, 5):
            raise ValueError("must be 1, 3 or 5: a majority of the servers must be up")
        return value

    @field_validator("jobs_seal_keys")
    @classmethod
    def _check_seal_keys(cls, value: str) -> str:
        check_keys(value)
        return value

    @field_validator("jobs_webhook_networks", mode="before")
    @classmethod
    def _split_webhook_networks(cls, value: object) -> object:
        return split_networks(value)

    @field_validator("jobs_webhook_ca_file")
    @classmethod
    def _check_webhook_ca_file(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(f"{value} is no PEM file of certificate authorities: {error}") from None
        return value

    @property
    def site_limits(self) -> SiteLimits:
        """The limits of requests to one site."""
        return SiteLimits(
            max_running=self.jobs_site_limit,
            max_running_by_site=self.jobs_site_limits,
            min_delay=timedelta(seconds=self.jobs_site_delay_seconds),
            first_cooldown=timedelta(seconds=self.jobs_park_seconds),
        )

    @property
    def database_url(self) -> str:
        """The database's URL, with the default applied."""
        return self.jobs_database_url or f"sqlite:///{self.data_dir}/jobs.db"

    def load_seal_keys(self) -> tuple[str, ...]:
        """Return the keys of ``jobs_seal_keys``, or the one in the data folder."""
        return parse_keys(self.jobs_seal_keys) or (load_or_create_key(self.seal_key_path),)

    @property
    def seal_key_path(self) -> Path:
        """The key in the data folder, which is created when it is first needed."""
        return self.data_dir / "jobs-seal.key"
