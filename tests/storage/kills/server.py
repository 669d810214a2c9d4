"""The storage service as a process that is killed and started again."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.failpoints import read_failpoints_hit

from reelhaul_runtime import serve
from reelhaul_runtime.parent_death import die_with_parent

# The service is forked from a process that has imported it: starting takes a tenth of a second.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["reelhaul_storage.app", "reelhaul_storage.s3.blobs", "reelhaul_runtime.serve"]
)


class StorageServer:
    """Runs ``reelhaul serve storage`` with *environment*, and its log in *log*."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = dict(environment)
        self._log = log
        self._process: ForkServerProcess | None = None

    def start(self, failpoints: Mapping[str, float]) -> None:
        """Start the process, which kills itself at *failpoints* with their probabilities."""
        points = ",".join(f"{name}=kill:{probability}" for name, probability in failpoints.items())
        environment = self._environment | {"REELHAUL_CHAOS": "1", "REELHAUL_FAILPOINTS": points}
        self._process = _CONTEXT.Process(target=_serve, args=(environment, str(self._log)))
        self._process.start()

    async def wait_until_dead(self, seconds: float) -> None:
        """Return when the process has ended, at the latest after *seconds*."""
        assert self._process is not None
        await asyncio.to_thread(self._process.join, seconds)

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        return None if self._process is None else self._process.exitcode

    def kill(self) -> None:
        """Kill the process if it runs, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def failpoints_hit(self) -> list[str]:
        """Return the failpoints at which the process has killed itself, so far."""
        return list(read_failpoints_hit(self._log)) if self._log.exists() else []


def _serve(environment: Mapping[str, str], log: str) -> None:
    die_with_parent()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os._exit(serve.main(["storage"]))
