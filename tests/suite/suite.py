"""The whole suite as a user starts it: ``reelhaul up`` as a process, on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
from tests.s3_server import S3Server

#: Network of the local media site, the only one that is not public and that the guard allows.
SITE_NETWORK = "127.0.0.2/32"

_UP = ("-m", "reelhaul_runtime", "up")
_TIMEOUT = 120
_DRAIN_TIMEOUT = 25

T = TypeVar("T")


class SuiteError(Exception):
    """The suite did not reach a state in time. The message names its log."""


class Suite:
    """A running suite, observed from outside."""

    def __init__(self, data_dir: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.data_dir = data_dir
        #: Output of the suite and its services.
        self.log = log
        self._process = process
        #: Client of the gateway; set when the suite is ready.
        self.http: httpx.Client

    @property
    def supervisor_pid(self) -> int:
        """The pid of ``reelhaul up``."""
        return self._process.pid

    @property
    def ready_seconds(self) -> float:
        """Seconds from the start of the command to readiness, as measured by the suite."""
        return float(self._state()["ready_seconds"])

    def address(self, name: str) -> str:
        """Return the address of *name*: gateway, jobs, fetcher, storage or nats."""
        return str(self._state()["addresses"][name])

    def metrics_url(self, name: str) -> str:
        """Return the URL of the metrics of the service *name*."""
        return f"http://{self._state()['metrics'][name]}/metrics"

    def channel(self, name: str) -> grpc.Channel:
        """Return a new channel to the service *name*; the caller closes it."""
        return grpc.insecure_channel(self.address(name), [("grpc.enable_http_proxy", 0)])

    def pid(self, name: str) -> int:
        """Return the pid of the process *name*; wait for it if it is just being started."""
        return int(self.wait_for(f"process of {name}", lambda: self._state().get("processes", {}).get(name)))

    def processes(self) -> dict[str, int]:
        """Return the pids of the processes that run at this moment, by name."""
        return dict(self._state().get("processes", {}))

    def kill(self, name: str) -> int:
        """Kill the process *name* with SIGKILL; return its pid."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def crash(self) -> None:
        """Kill all processes at once, the supervisor first, as a power failure does."""
        pids = [self._process.pid, *self.processes().values()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        # A subreaper has adopted the services and must reap them; otherwise init does.
        for pid in pids[1:]:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def wait_for_restart(self, name: str, old_pid: int) -> int:
        """Wait until the process *name* runs with another pid than *old_pid*; return the new pid."""
        return self.wait_for(f"new process of {name}", lambda: (pid := self.pid(name)) != old_pid and pid)

    def wait_until_ready(self) -> None:
        """Wait until the suite accepts work."""
        self.wait_for("readiness", lambda: self._state().get("ready_seconds"))
        if not hasattr(self, "http"):
            self.http = httpx.Client(base_url=self.address("gateway"), trust_env=False, timeout=30)
        self.wait_for("readiness of the gateway", self._is_gateway_ready)

    def wait_for(self, what: str, poll: Callable[[], T | None], seconds: float = _TIMEOUT) -> T:
        """Call *poll* until its result is truthy; return it. Raises SuiteError after *seconds*."""
        end = time.monotonic() + seconds
        while not (result := poll()):
            if self._process.poll() is not None:
                raise SuiteError(f"reelhaul up exited with {self._process.returncode}; its log: {self.log}")
            if time.monotonic() > end:
                raise SuiteError(f"no {what} after {seconds:.0f} s; the suite's log: {self.log}")
            time.sleep(0.02)
        return result

    def stop(self) -> None:
        """Drain the suite with SIGTERM; kill what is left after that."""
        if hasattr(self, "http"):
            self.http.close()
        pids = list(self.processes().values())
        self._process.terminate()
        try:
            self._process.wait(_DRAIN_TIMEOUT)
        except subprocess.TimeoutExpired:
            for group in (self._process.pid, *pids):
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            self._process.wait()

    def _is_gateway_ready(self) -> bool:
        try:
            return self.http.get("/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _state(self) -> dict[str, Any]:
        """Return the content of suite.json; empty if this suite has not written it yet."""
        try:
            state: dict[str, Any] = json.loads((self.data_dir / "run/suite.json").read_text())
        except FileNotFoundError:
            return {}
        # An earlier suite on the same folder leaves its own.
        return state if state.get("pid") == self._process.pid else {}


#: The parts of a suite that listen: each has a setting for its address.
SERVERS = (
    "gateway",
    "jobs",
    "fetcher",
    "storage",
    "storage_http",
    "gateway_metrics",
    "jobs_metrics",
    "fetcher_metrics",
    "storage_metrics",
)


@contextmanager
def running_suite(
    data_dir: Path,
    *,
    command: Sequence[str] = _UP,
    s3: S3Server | None = None,
    stdout: int | None = None,
    **settings: str,
) -> Iterator[Suite]:
    """Run the suite on *data_dir* until the block ends; it is ready when the block begins.

    *command*: arguments for Python that run a suite as ``reelhaul up`` does.
    *s3*: server in whose bucket the artifacts are stored, if not in *data_dir*.
    *stdout*: file descriptor for its standard output, if not the log.
    *settings*: REELHAUL_* settings by their lower-case names without the prefix.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / f"{data_dir.name}.log"
    defaults = {"data_dir": str(data_dir), "auth": "none", "fetcher_allow_networks": SITE_NETWORK}
    # The S3 servers of tests.
    defaults["storage_destination_networks"] = "127.0.0.1/32"
    defaults |= {f"{name}_address": "127.0.0.1:0" for name in SERVERS}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")}
    if s3 is not None:
        defaults["storage_url"] = s3.storage_url()
        environment |= s3.credentials()
    environment |= {f"REELHAUL_{name.upper()}": value for name, value in (defaults | settings).items()}
    with log.open("ab") as output:
        # The working directory is the data folder, so that a developer's .env is not read.
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=data_dir,
            env=environment,
            stdout=output if stdout is None else stdout,
            stderr=output,
            start_new_session=True,
        )
    suite = Suite(data_dir, log, process)
    try:
        suite.wait_until_ready()
        yield suite
    finally:
        suite.stop()
