"""Settings that all services share, read once at start from ``REELHAUL_*`` and ``.env``."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from reelhaul_runtime import failpoints
from reelhaul_runtime.addresses import Network
from reelhaul_runtime.auth.level_quotas import LevelQuotaSetting
from reelhaul_runtime.auth.oidc_settings import OidcSettings
from reelhaul_runtime.certificate import (
    CertificateError,
    TlsFiles,
    check_authorities,
)
from reelhaul_runtime.metrics.settings import MetricsSettings
from reelhaul_runtime.nats_security import NatsSecurity
from reelhaul_runtime.secret_files import SecretFileError, SecretFiles
from reelhaul_runtime.server_addresses import (
    check_address,
    ip_version,
    is_loopback,
    is_port,
    split_addresses,
)
from reelhaul_runtime.tls_settings import TlsSettings, check_pair
from reelhaul_runtime.tracing.settings import TracingSettings
from reelhaul_runtime.validation.access import normalize_sites
from reelhaul_runtime.validation.violations import FieldViolations

PREFIX = "REELHAUL_"
ENV_FILE = ".env"

ADDRESSES = ("gateway_address", "jobs_address", "fetcher_address", "storage_address")
#: All settings that are host:port of a listener.
LISTENERS = (*ADDRESSES, "storage_http_address")
#: The settings that are addresses of health; each may be empty.
HEALTH_ADDRESSES = ("jobs_health_address", "fetcher_health_address", "storage_health_address")
#: All settings that are addresses of replicas.
REPLICAS = ("jobs_addresses", "fetcher_addresses", "storage_addresses")

_DATABASE_URL = (
    "must be sqlite:///FILE or postgresql://user:password@host:port/name; of several servers:"
    " postgresql://user:password@host1:port,host2:port/name?target_session_attrs=read-write"
)


class InvalidSetting(Exception):
    """Settings that this command or this machine cannot use; each line of the text begins with a name."""


class SuiteSettings(MetricsSettings, OidcSettings, TlsSettings, TracingSettings):
    """Settings of every service of the suite. A service's own settings extend it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True)

    #: Folder of databases, artifacts, the broker's files and work directories, unless set apart.
    data_dir: Path = Path("data")
    #: host:port of each service: where it listens, and where the others find it.
    gateway_address: str = "127.0.0.1:8080"
    jobs_address: str = "127.0.0.1:50051"
    fetcher_address: str = "127.0.0.1:50052"
    storage_address: str = "127.0.0.1:50053"
    #: host:port where storage serves signed links over HTTP. It may be reachable from everywhere.
    storage_http_address: str = "127.0.0.1:50055"
    #: host:port where each service serves its gRPC health alone, without TLS and to everyone, for probes that
    #: cannot use the address above. Empty: nowhere.
    jobs_health_address: str = ""
    fetcher_health_address: str = ""
    storage_health_address: str = ""
    #: host:port of each replica of a service, comma separated, where its clients connect to; a DNS name may
    #: resolve to several. Empty: the one at the address above.
    jobs_addresses: str = ""
    fetcher_addresses: str = ""
    storage_addresses: str = ""
    #: Networks that fetches may reach in addition to public addresses, comma separated. The guard of each
    #: fetcher enforces it; jobs rejects URLs with other addresses when they are created.
    fetcher_allow_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    #: The broker, or the servers of a cluster, comma separated, which have the same credentials;
    #: ``reelhaul up`` starts one if this is empty.
    nats_url: str = Field(default="", repr=False)
    #: PEM files for a broker at ``tls://…``: the authorities of its certificate (unset: the well-known ones),
    #: and the certificate of its clients with its key, if it asks for one.
    nats_ca: Path | None = None
    nats_certificate: Path | None = None
    nats_key: Path | None = None
    #: A file of a user's JWT and seed for the broker, as ``nsc generate creds`` writes it.
    nats_credentials: Path | None = None
    #: How callers authenticate: with ``none`` all are one tenant, on loopback only.
    auth: Literal["none", "keys"] = "keys"
    #: The API key of the command line; no service reads it.
    api_key: str = Field(default="", repr=False)
    #: Sites that jobs and probes may be of, and may not be of, comma separated; their subdomains and other
    #: domains of their operators too. jobs and fetchers enforce them. Empty: all, and none.
    allowed_sites: Annotated[tuple[str, ...], NoDecode] = ()
    denied_sites: Annotated[tuple[str, ...], NoDecode] = ()
    #: Limits of keys that set none, as JSON by level and field of Quota (api_key.proto); -1: no limit. What
    #: is missing keeps its default: {"DOWNLOAD": {"jobs_per_day": 500, "seconds_per_job": 14400}}.
    level_quotas: LevelQuotaSetting = Field(default_factory=dict)
    #: Redis or Valkey that counts calls for the rate limits of all processes together, ``redis://…``, or
    #: ``rediss://…`` with TLS. Empty: each process counts for itself.
    rate_limit_url: str = Field(default="", repr=False)
    #: Units per minute that calls without a valid credential from one address (an IPv4 address or an IPv6
    #: /64) may cost at one process. A call with a wrong credential costs ten.
    anonymous_requests_per_minute: int = Field(default=120, gt=0, le=1_000_000)
    #: Whether REELHAUL_AUTH=none may be combined with addresses beyond loopback: everyone who can connect to
    #: them then has full access. For a private network behind another gateway that authenticates callers.
    allow_unauthenticated_network: bool = False
    #: Whether the parent process holds the ports of the addresses, which are bound with SO_REUSEPORT then;
    #: ``reelhaul up`` sets it, so that no other program takes a port before a service listens or restarts.
    reuse_port: bool = False
    #: PEM files of the gateway's certificate chain and its key: it then serves HTTPS. Unset: HTTP.
    gateway_tls_certificate: Path | None = None
    gateway_tls_key: Path | None = None
    #: The credential of the services for internal RPCs. ``reelhaul up`` creates one.
    suite_token: str = Field(default="", repr=False)
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: Whether requests and responses of RPCs are logged, without their secrets. They contain URLs and titles
    #: of what users download.
    log_bodies: bool = False
    #: Seconds that running work has to end after SIGTERM.
    drain_seconds: float = Field(default=10.0, ge=0, le=3600)
    #: Whether this is a crash test: failpoints require it.
    chaos: bool = False
    #: Failpoints and their probabilities: ``<point>=kill:<0…1>``, comma separated.
    failpoints: str = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of values: each variable may name a file instead if it is a secret."""

        def with_files(source: PydanticBaseSettingsSource) -> tuple[PydanticBaseSettingsSource, ...]:
            assert isinstance(source, EnvSettingsSource)
            return SecretFiles(settings_cls, PREFIX, source.env_vars), source

        return init_settings, *with_files(env_settings), *with_files(dotenv_settings)

    @field_validator("data_dir")
    @classmethod
    def _check_data_dir(cls, value: Path) -> Path:
        return check_folder(value)

    @field_validator(
        "gateway_tls_certificate",
        "gateway_tls_key",
        "nats_ca",
        "nats_certificate",
        "nats_key",
        "nats_credentials",
        mode="before",
    )
    @classmethod
    def _unset_empty_tls_file(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator(*LISTENERS)
    @classmethod
    def _check_address(cls, value: str) -> str:
        return check_address(value)

    @field_validator(*HEALTH_ADDRESSES)
    @classmethod
    def _check_health_address(cls, value: str) -> str:
        return check_address(value) if value else value

    @field_validator(*REPLICAS)
    @classmethod
    def _check_replicas(cls, value: str) -> str:
        addresses = split_addresses(value)
        for address in addresses:
            check_address(address)
        versions = {ip_version(address) for address in addresses}
        if len(addresses) > 1 and versions not in ({4}, {6}):
            raise ValueError(
                "several addresses must be IP addresses of one version, for example"
                " 10.0.0.1:50052,10.0.0.2:50052; one DNS name may stand for several"
            )
        return ",".join(addresses)

    @field_validator("fetcher_allow_networks", mode="before")
    @classmethod
    def _split_networks(cls, value: object) -> object:
        return split_networks(value)

    @field_validator("allowed_sites", "denied_sites", mode="before")
    @classmethod
    def _split_sites(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        violations = FieldViolations()
        sites = normalize_sites(split_addresses(value), "sites", violations)
        if violations:
            raise ValueError("must be host names, for example youtube.com,vimeo.com; at most 100")
        return tuple(sites)

    @field_validator("nats_url")
    @classmethod
    def _check_nats_url(cls, value: str) -> str:
        servers = split_addresses(value)
        for server in servers:
            scheme, _, rest = server.partition("://")
            port = rest.rpartition("@")[2].rstrip("/").rpartition("]")[2].partition(":")
            if scheme not in ("nats", "tls") or not rest or (port[1] and not is_port(port[2])):
                raise ValueError(
                    "must be nats://host:port or tls://host:port; several servers, comma separated:"
                    " nats://host1:4222,nats://host2:4222"
                )
        parts = [urlsplit(server) for server in servers]
        if len({part.scheme for part in parts}) > 1:
            raise ValueError("must begin with tls:// for each server or for none")
        if len({part.netloc.rpartition("@")[0] for part in parts}) > 1:
            raise ValueError("must have the same user and password, or token, for each server")
        return ",".join(servers)

    @field_validator("rate_limit_url")
    @classmethod
    def _check_rate_limit_url(cls, value: str) -> str:
        scheme, _, rest = value.partition("://")
        port = re.split("[/?]", rest.rpartition("@")[2], maxsplit=1)[0].rpartition("]")[2].partition(":")
        if value and (scheme not in ("redis", "rediss") or not rest or (port[1] and not is_port(port[2]))):
            raise ValueError("must be redis://user:password@host:port/number, or rediss:// with TLS")
        return value

    @field_validator("suite_token")
    @classmethod
    def _check_suite_token(cls, value: str) -> str:
        # It is sent as gRPC metadata, which holds printable ASCII only.
        if value and not (value.strip() and value.isascii() and value.isprintable()):
            raise ValueError("must be printable ASCII characters, for example of `openssl rand -hex 32`")
        return value

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
        if self.auth == "none" and not self.allow_unauthenticated_network:
            for name in ADDRESSES:
                address = getattr(self, name)
                if not is_loopback(address):
                    raise ValueError(
                        f"REELHAUL_{name.upper()}={address} is not a loopback address:"
                        " REELHAUL_AUTH=none would open the suite to everyone who can reach it;"
                        " set REELHAUL_AUTH=keys"
                    )
            for name in REPLICAS:
                for address in split_addresses(getattr(self, name)):
                    if not is_loopback(address):
                        raise ValueError(
                            f"REELHAUL_{name.upper()}: {address} is not a loopback address, as"
                            " REELHAUL_AUTH=none requires"
                        )
        return self

    @model_validator(mode="after")
    def _check_nats_security(self) -> Self:
        check_pair("REELHAUL_NATS", self.nats_certificate, self.nats_key)
        if self.nats_ca is not None:
            try:
                check_authorities(self.nats_ca)
            except CertificateError as error:
                raise ValueError(f"REELHAUL_NATS_CA: {error}") from None
        for name in ("nats_ca", "nats_certificate"):
            # Not every service has a URL.
            if getattr(self, name) is not None and self.nats_url and not self.nats_url.startswith("tls://"):
                raise ValueError(
                    f"REELHAUL_NATS_URL must begin with tls:// if REELHAUL_{name.upper()} is set"
                )
        return self

    @property
    def nats_security(self) -> NatsSecurity:
        """The files of connections to the broker."""
        files = TlsFiles(self.nats_certificate, self.nats_key, self.nats_ca)
        return NatsSecurity(files, self.nats_credentials)

    @property
    def jobs_target(self) -> str:
        """Where clients of jobs connect to: addresses, comma separated."""
        return self.jobs_addresses or self.jobs_address

    @property
    def fetcher_target(self) -> str:
        """Where clients of the fetchers connect to: addresses, comma separated."""
        return self.fetcher_addresses or self.fetcher_address

    @property
    def storage_target(self) -> str:
        """Where clients of storage connect to: addresses, comma separated."""
        return self.storage_addresses or self.storage_address


#: What `Settings()` and the checks of this module raise; see `describe_errors`.
ERRORS = (ValidationError, SettingsError, InvalidSetting, SecretFileError)


def check_folder(path: Path) -> Path:
    """Return *path* if it is a folder to write into, or can become one. Raises ValueError."""
    existing = path.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError as error:
        raise ValueError(f"{path} cannot be used: {error.strerror}") from None
    if not existing.is_dir():
        raise ValueError(f"{existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"this user cannot write into {existing}")
    return path


def check_database_url(url: str) -> str:
    """Return *url* if it is empty or of a database that can be used.

    Raises ValueError, whose text never has the password. PostgreSQL is not contacted: it may be up later.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgresql", "postgres") and separator:
        hosts = re.split("[/?]", rest.rpartition("@")[2], maxsplit=1)[0]
        for host in hosts.split(","):
            _, colon, port = host.rpartition("]")[2].partition(":")
            if colon and not is_port(port):
                raise ValueError(_DATABASE_URL)
    elif scheme == "sqlite" and rest.startswith("/") and rest[1:] not in ("", ":memory:"):
        file = Path(rest[1:].partition("?")[0])
        check_folder(file.parent)
        if file.is_dir():
            raise ValueError(f"{file} is a folder")
        if file.exists() and not os.access(file, os.R_OK | os.W_OK):
            raise ValueError(f"this user cannot read and write {file}")
    elif url:
        raise ValueError(_DATABASE_URL)
    return url


def split_networks(value: object) -> object:
    """Return the networks in *value* if it is text, comma separated. Raises ValueError."""
    if isinstance(value, str):
        return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())
    return value


def describe_errors(
    error: ValidationError | SettingsError | InvalidSetting | SecretFileError,
) -> list[str]:
    """Return a line for each wrong setting, with the name of the variable and never its value."""
    if isinstance(error, InvalidSetting | SecretFileError):
        return str(error).splitlines()
    if isinstance(error, SettingsError):  # a setting that is JSON and does not parse
        field = re.search(r'field "(\w+)"', str(error))
        return [f"{PREFIX}{field[1].upper()}: must be JSON" if field else str(error)]
    lines = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        text = detail["msg"].removeprefix("Value error, ")
        name = PREFIX + "_".join(str(part).upper() for part in detail["loc"][:1])
        lines.append(f"{name}: {text[0].lower()}{text[1:]}" if detail["loc"] else text)
    return lines
