"""The parts of the suite: what `up` runs, in the order in which they are needed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.up import nats_server


@dataclass(frozen=True, slots=True)
class SuiteProcess:
    """One process of the suite."""

    name: str
    command: tuple[str, ...]
    #: Where it answers: ``http://host:port`` (the gateway), ``nats://…``, else ``host:port`` (gRPC).
    address: str
    #: The proto service whose gRPC health tells readiness.
    health: str = ""
    #: What its environment has beyond the supervisor's own.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def services(settings: SuiteSettings, nats_url: str, suite_token: str) -> list[SuiteProcess]:
    """The four services, told where all of them are; each leans on those before it at most."""
    environment = {
        "REELHAUL_DATA_DIR": str(settings.data_dir),
        "REELHAUL_NATS_URL": nats_url,
        "REELHAUL_SUITE_TOKEN": suite_token,
        "REELHAUL_GATEWAY_ADDRESS": settings.gateway_address,
        "REELHAUL_JOBS_ADDRESS": settings.jobs_address,
        "REELHAUL_FETCHER_ADDRESS": settings.fetcher_address,
        "REELHAUL_STORAGE_ADDRESS": settings.storage_address,
        # The supervisor alone decides how the logs look in the end.
        "REELHAUL_LOG_FORMAT": "json",
    }

    def part(name: str, address: str, health: str = "") -> SuiteProcess:
        # -P: a file in the working directory must not pass for a module of ours.
        command = (sys.executable, "-P", "-m", "reelhaul_runtime", "serve", name)
        return SuiteProcess(name, command, address, health, environment)

    return [
        part("storage", settings.storage_address, "reelhaul.storage.v1.StorageService"),
        part("jobs", settings.jobs_address, "reelhaul.jobs.v1.JobService"),
        part("fetcher", settings.fetcher_address, "reelhaul.fetcher.v1.FetcherService"),
        part("gateway", f"http://{settings.gateway_address}"),
    ]


def nats(folder: Path, port: int) -> SuiteProcess:
    """A broker of our own on loopback, with its streams in *folder*. FileNotFoundError without the wheel."""
    config = nats_server.write_config(folder, port)
    return SuiteProcess(
        "nats", (nats_server.find_executable(), "-c", str(config)), f"nats://127.0.0.1:{port}"
    )
