"""The whole suite as a person starts it: ``reelhaul up`` as a process, on free ports and fresh data."""

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

#: Where the local media site serves: the one network beside the public ones that the guard lets through.
SITE_NETWORK = "127.0.0.2/32"

_UP = ("-m", "reelhaul_runtime", "up")
_READY_SECONDS = 60
_DRAIN_SECONDS = 25

T = TypeVar("T")


class SuiteError(Exception):
    """The suite did not do in time what it should; says where its log is."""


class Suite:
    """A running suite, seen from outside."""

    def __init__(self, data_dir: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.data_dir = data_dir
        #: What the suite and its services wrote.
        self.log = log
        self._process = process
        #: JSON through the gateway, once it is ready.
        self.http: httpx.Client

    @property
    def ready_seconds(self) -> float:
        """What the suite measured from the command to readiness."""
        return float(self._record()["ready_seconds"])

    def address(self, name: str) -> str:
        """Where the part *name* (gateway, jobs, fetcher, storage, nats) answers."""
        return str(self._record()["addresses"][name])

    def channel(self, name: str) -> grpc.Channel:
        """A channel to the service *name*; close it."""
        return grpc.insecure_channel(self.address(name), [("grpc.enable_http_proxy", 0)])

    def pid(self, name: str) -> int:
        """The process of the part *name* that runs now, awaited if it is just being started."""
        return int(self.awaited(f"process of {name}", lambda: self._record().get("processes", {}).get(name)))

    def processes(self) -> dict[str, int]:
        """The pids of the parts that run at this moment, by name."""
        return dict(self._record().get("processes", {}))

    def kill(self, name: str) -> int:
        """``kill -9`` the part *name* as it is now; returns the pid that was."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def crash(self) -> None:
        """``kill -9`` all of it at once, its supervisor first: as a machine that loses its power."""
        killed = [self._process.pid, *self.processes().values()]
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        # They are ours to bury where we adopt orphans, else init's.
        for pid in killed[1:]:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def await_another(self, name: str, than: int) -> int:
        """Wait until the part *name* runs again, as another process *than* this; returns its pid."""
        return self.awaited(f"new process of {name}", lambda: (pid := self.pid(name)) != than and pid)

    def await_ready(self) -> None:
        """Wait until the whole suite takes work."""
        self.awaited("readiness", lambda: self._record().get("ready_seconds"))
        if not hasattr(self, "http"):
            self.http = httpx.Client(base_url=self.address("gateway"), trust_env=False, timeout=30)
        self.awaited("readiness of the gateway", self._is_ready)

    def awaited(self, what: str, look: Callable[[], T | None], seconds: float = _READY_SECONDS) -> T:
        """What *look* finds, as soon as it is truthy. Raises SuiteError naming *what* after *seconds*."""
        end = time.monotonic() + seconds
        while not (found := look()):
            if self._process.poll() is not None:
                raise SuiteError(f"reelhaul up ended with {self._process.returncode}; its log: {self.log}")
            if time.monotonic() > end:
                raise SuiteError(f"no {what} after {seconds:.0f} s; the suite's log: {self.log}")
            time.sleep(0.02)
        return found

    def stop(self) -> None:
        """Drain it as Ctrl-C does; kill what is left of it after that."""
        if hasattr(self, "http"):
            self.http.close()
        left = list(self.processes().values())
        self._process.terminate()
        try:
            self._process.wait(_DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            for group in (self._process.pid, *left):
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return self.http.get("/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _record(self) -> dict[str, Any]:
        """The suite's record of itself; empty before there is one, though an earlier suite left its own."""
        try:
            record: dict[str, Any] = json.loads((self.data_dir / "run/suite.json").read_text())
        except FileNotFoundError:
            return {}
        return record if record.get("pid") == self._process.pid else {}


@contextmanager
def running_suite(data_dir: Path, *, command: Sequence[str] = _UP, **settings: str) -> Iterator[Suite]:
    """The suite on *data_dir*, ready; *settings* are REELHAUL_* by their lower-case names.

    Python runs *command*, which is ``reelhaul up`` or keeps a suite as that does.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / f"{data_dir.name}.log"
    asked = {"data_dir": str(data_dir), "auth": "none", "fetcher_allow_networks": SITE_NETWORK}
    asked |= {f"{name}_address": "127.0.0.1:0" for name in ("gateway", "jobs", "fetcher", "storage")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")}
    environment = kept | {f"REELHAUL_{name.upper()}": value for name, value in (asked | settings).items()}
    with log.open("ab") as written:
        # From its own folder: a developer's .env says nothing here.
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=data_dir,
            env=environment,
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
    suite = Suite(data_dir, log, process)
    try:
        suite.await_ready()
        yield suite
    finally:
        suite.stop()
