"""Keeping one part alive: start, watch, start again, and in the end stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from reelhaul.backoff import Backoff
from reelhaul_runtime.up import probes
from reelhaul_runtime.up.process import Process
from reelhaul_runtime.up.suite_processes import SuiteProcess

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long the supervisor waits for what; all in seconds."""

    #: Between a death and the next start; doubled at each, up to the longest.
    first_delay: float = 0.1
    longest_delay: float = 10.0
    #: Alive for so long, a part is well again: its next pause is the shortest.
    stable_after: float = 30.0
    #: Between two questions whether a part lives, and how long an answer may take.
    probe_interval: float = 5.0
    probe_timeout: float = 4.0
    #: Questions without an answer, in a row, that make a part a hanging one.
    max_failed_probes: int = 3
    #: From SIGTERM to SIGKILL.
    drain_timeout: float = 15.0


class ProcessSupervisor:
    """Runs *part* until it is told to stop."""

    def __init__(
        self,
        part: SuiteProcess,
        patience: RestartPolicy,
        tell: Callable[[str, bytes], None],
        changed: Callable[[], None],
    ) -> None:
        self.spec = part
        #: The process that runs now.
        self.process: Process | None = None
        #: How the last one ended, None before any has.
        self.last_code: int | None = None
        self._patience = patience
        self._tell, self._changed = tell, changed
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start the part, again whenever it dies or hangs, until ``stop``."""
        backoff = Backoff(self._patience.first_delay, self._patience.longest_delay)
        while not self._stopping.is_set():
            begun = time.monotonic()
            await self._live_once()
            if time.monotonic() - begun >= self._patience.stable_after:
                backoff.reset()
            if self._stopping.is_set():
                return
            pause = backoff.next_delay()
            log.warning("%s %s; starting it again in %.1f s", self.spec.name, _how(self.last_code), pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def stop(self) -> None:
        """Ask it to end and wait until it has; killed when it takes longer than the drain allows."""
        self._stopping.set()
        if (process := self.process) is None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._patience.drain_timeout)
        except TimeoutError:
            log.warning("%s did not drain in time and is killed", self.spec.name)
            process.kill()
            await process.wait()

    def kill(self) -> None:
        """End it now."""
        self._stopping.set()
        if self.process is not None:
            self.process.kill()

    async def _live_once(self) -> None:
        """From start to end of one process."""
        name = self.spec.name
        try:
            process = Process(self.spec.command, self.spec.environment, lambda line: self._tell(name, line))
        except OSError as error:
            log.error("%s cannot be started: %s", name, error)
            self.last_code = 127
            return
        self.process = process
        self._changed()
        watching = asyncio.create_task(self._end_if_hanging(process))
        try:
            self.last_code = await process.wait()
        finally:
            watching.cancel()
            self.process = None
            self._changed()

    async def _end_if_hanging(self, process: Process) -> None:
        """Kill *process* once it has answered and then leaves too many questions unanswered."""
        patience, answered, missed = self._patience, False, 0
        while missed < patience.max_failed_probes:
            await asyncio.sleep(patience.probe_interval)
            lives = await probes.is_alive(self.spec.address, patience.probe_timeout)
            answered = answered or lives
            missed = 0 if lives or not answered else missed + 1
        log.error("%s lives but does not answer: it is killed", self.spec.name)
        process.kill()


def _how(code: int | None) -> str:
    if code is None:
        return "did not start"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
