"""Process supervisor: keeps one process of the suite running: start, probe, restart, stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from reelhaul.backoff import Backoff
from reelhaul_runtime.up import probes
from reelhaul_runtime.up.preloader_process import Preloader, PreloaderGone
from reelhaul_runtime.up.process import Process
from reelhaul_runtime.up.suite_processes import SuiteProcess

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Delays and timeouts of the supervisor, in seconds."""

    #: From a process's end to its restart; doubled each time, up to the longest.
    first_delay: float = 0.1
    longest_delay: float = 10.0
    #: A process that ran for so long is stable: its next restart waits for the first delay only.
    stable_after: float = 30.0
    #: Between two liveness probes, and how long one may take.
    probe_interval: float = 10.0
    probe_timeout: float = 4.0
    #: Failed probes in a row after which a process counts as hanging.
    max_failed_probes: int = 2
    #: From SIGTERM to SIGKILL.
    drain_timeout: float = 15.0


class ProcessSupervisor:
    """Runs *spec* until it is stopped.

    *on_line* receives the name and each line of output; *on_change* is called after a process
    starts or ends.
    """

    def __init__(
        self,
        spec: SuiteProcess,
        policy: RestartPolicy,
        on_line: Callable[[str, bytes], None],
        on_change: Callable[[], None],
        preloader: Preloader | None = None,
    ) -> None:
        """*preloader* starts the process the first time, if it is a service."""
        self.spec = spec
        #: The process that runs now.
        self.process: Process | None = None
        #: The exit code of the last one, None before any has ended.
        self.last_exit_code: int | None = None
        self._policy = policy
        self._preloader = preloader if spec.service else None
        self._on_line, self._on_change = on_line, on_change
        #: Whether a process was started, or could not be.
        self.was_started = False
        self._stopping = asyncio.Event()
        self._probing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Start the process, and again whenever it ends or hangs, until ``stop``."""
        backoff = Backoff(self._policy.first_delay, self._policy.longest_delay)
        while not self._stopping.is_set():
            started = time.monotonic()
            await self._run_once()
            if time.monotonic() - started >= self._policy.stable_after:
                backoff.reset()
            if self._stopping.is_set():
                return
            delay = backoff.next_delay()
            log.warning("%s %s; restarting in %.1f s", self.spec.name, _describe(self.last_exit_code), delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    def end_restarts(self) -> None:
        """Stop restarting the process after it ends."""
        self._stopping.set()

    async def stop(self) -> None:
        """Terminate the process and wait for its end; kill it after the drain timeout."""
        self._stopping.set()
        if (process := self.process) is None:
            return
        # What drains need not answer: only the drain timeout counts now.
        if self._probing is not None:
            self._probing.cancel()
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._policy.drain_timeout)
        except TimeoutError:
            log.warning("%s did not drain in time and is killed", self.spec.name)
            process.kill()
            await process.wait()

    def kill(self) -> None:
        """Kill the process now, for good."""
        self._stopping.set()
        if self.process is not None:
            self.process.kill()

    async def _run_once(self) -> None:
        name = self.spec.name
        try:
            process = await self._start()
        except OSError as error:
            log.error("%s cannot be started: %s", name, error)
            self.last_exit_code, self.was_started = 127, True
            return
        self.process, self.was_started = process, True
        if self._stopping.is_set():
            process.terminate()
        self._on_change()
        self._probing = asyncio.create_task(self._kill_if_hanging(process))
        try:
            self.last_exit_code = await process.wait()
        finally:
            self._probing.cancel()
            self.process = None
            self._on_change()

    async def _start(self) -> Process:
        spec, preloader, self._preloader = self.spec, self._preloader, None

        def on_line(line: bytes) -> None:
            self._on_line(spec.name, line)

        if preloader is not None:
            with suppress(PreloaderGone):
                return await preloader.start(spec.service, spec.environment, on_line)
        return Process.execute(spec.command, spec.environment, on_line)

    async def _kill_if_hanging(self, process: Process) -> None:
        """Kill *process* when too many probes in a row fail; before the first success none counts."""
        policy, was_alive, failed = self._policy, False, 0
        while failed < policy.max_failed_probes:
            await asyncio.sleep(policy.probe_interval)
            alive = await probes.is_alive(self.spec.address, policy.probe_timeout, self.spec.tls)
            was_alive = was_alive or alive
            failed = 0 if alive or not was_alive else failed + 1
        log.error("%s runs but does not answer and is killed", self.spec.name)
        process.kill()


def _describe(exit_code: int | None) -> str:
    if exit_code is None:
        return "did not start"
    return f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
