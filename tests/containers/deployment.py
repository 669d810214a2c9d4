"""The deployment of compose.yaml with the stand-ins of compose.ci.yaml, as operators and clients use it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
from tests.containers.engine import Engine
from tests.containers.images import ROOT
from tests.servers import free_port
from tests.sites import media, tools

#: Where the site of compose.test.yaml is, and what fetchers and jobs may reach besides public addresses.
SITE, RECEIVER, NETWORK = "http://172.31.200.10:8000", "http://172.31.200.11:8000", "172.31.200.0/24"
_FILES = ("compose.yaml", "compose.ci.yaml", "tests/containers/compose.test.yaml")
_START_SECONDS = 180

# `docker compose logs` writes them also where there is no terminal.
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

T = TypeVar("T")


class DeploymentError(Exception):
    """The deployment did not do what it should."""


@dataclass
class Deployment:
    """The running project."""

    engine: Engine
    http: httpx.Client
    #: Where its logs are read.
    log: str = "docker compose logs"
    environment: dict[str, str] = field(default_factory=dict)

    def compose(self, *arguments: str, seconds: float = 300, check: bool = True) -> str:
        """Run ``docker compose`` with *arguments*; return its output. Raises EngineError."""
        files = [option for file in _FILES for option in ("--file", str(ROOT / file))]
        output = self.engine.run("compose", "--ansi=never", *files, *arguments, seconds=seconds, check=check)
        return _ESCAPE.sub("", output)

    def containers(self, service: str) -> list[str]:
        """Return the ids of the containers of *service*, also of those that do not run."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def kill(self, container: str) -> None:
        """Kill the first process of *container*, as the kernel does when memory is short."""
        os.kill(int(self.engine.run("inspect", "--format={{.State.Pid}}", container)), signal.SIGKILL)

    def wait_until_healthy(self, container: str, restarts: int, seconds: float = 90) -> None:
        """Wait until *container* has been restarted *restarts* times and is healthy."""

        def is_healthy() -> bool:
            state = json.loads(self.engine.run("inspect", container))[0]
            return (
                state["RestartCount"] >= restarts
                and state["State"]["Running"]
                and state["State"].get("Health", {}).get("Status") == "healthy"
            )

        self.wait_for(f"{container[:12]} is healthy", is_healthy, seconds)

    def wait_for(self, what: str, condition: Callable[[], T | None], seconds: float = 60) -> T:
        """Return the first true result of *condition*. Raises DeploymentError after *seconds*."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if result := condition():
                    return result
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise DeploymentError(f"not within {seconds:.0f} s: {what}")

    def deliveries(self) -> list[dict[str, Any]]:
        """Return the requests that the endpoint of webhooks has received."""
        lines = self.compose("logs", "--no-log-prefix", "--no-color", "receiver").splitlines()
        return [json.loads(line[line.index("{") :]) for line in lines if "{" in line]


@contextmanager
def running_deployment(engine: Engine, secrets: Path) -> Iterator[Deployment]:
    """Run compose.yaml with secrets that the shipped script creates; at the end nothing of it is left.

    Raises EngineError if a container does not become healthy.
    """
    subprocess.run([ROOT / "deploy/compose/create_secrets.sh", secrets], check=True, capture_output=True)
    address = f"127.0.0.1:{free_port()}"
    environment = engine.environment | {
        "REELHAUL_PUBLISH": address,
        "REELHAUL_SECRETS": str(secrets),
        "REELHAUL_FETCHER_ALLOW_NETWORKS": NETWORK,
        "REELHAUL_JOBS_WEBHOOK_NETWORKS": NETWORK,
        "TEST_SOURCE": str(ROOT / "tests"),
        "TEST_FFMPEG": str(tools.ffmpeg().parent),
        "TEST_MEDIA": str(media.ensure_media().folder.parent),
    }
    with httpx.Client(base_url=f"http://{address}", timeout=30, trust_env=False) as http:
        deployment = Deployment(replace(engine, environment=environment), http)
        try:
            deployment.compose("up", "--detach", "--wait", "--no-build", seconds=_START_SECONDS)
            key = deployment.compose("exec", "--no-TTY", "jobs", "reelhaul", "first-key").split()[-1]
            http.headers["Authorization"] = f"Bearer {key}"
            yield deployment
        except Exception:
            print(deployment.compose("ps", "--all", check=False))
            logs = deployment.compose("logs", "--no-color", "--tail=40", check=False)
            print("\n".join(line[:400] for line in logs.splitlines() if '"INFO"' not in line))
            raise
        finally:
            # Containers of a profile are left unless it is named.
            deployment.compose(
                "--profile",
                "monitoring",
                "down",
                "--volumes",
                "--remove-orphans",
                "--timeout=10",
                check=False,
            )
