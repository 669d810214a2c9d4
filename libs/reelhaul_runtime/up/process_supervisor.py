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
    shortest_pause: float = 0.1
    longest_pause: float = 10.0
    #: Alive for so long, a part is well again: its next pause is the shortest.
    settled: float = 30.0
    #: Between two questions whether a part lives, and how long an answer may take.
    between_questions: float = 5.0
    answer: float = 4.0
    #: Questions without an answer, in a row, that make a part a hanging one.
    misses: int = 3
    #: From SIGTERM to SIGKILL.
    drain: float = 15.0


class ProcessSupervisor:
    """Runs *part* until it is told to stop."""

    def __init__(
        self,
        part: SuiteProcess,
        patience: RestartPolicy,
        tell: Callable[[str, bytes], None],
        changed: Callable[[], None],
    ) -> None:
        self.part = part
        #: The process that runs now.
        self.process: Process | None = None
        #: How the last one ended, None before any has.
        self.last_code: int | None = None
        self._patience = patience
        self._tell, self._changed = tell, changed
        self._stopping = asyncio.Event()

    async def keep(self) -> None:
        """Start the part, again whenever it dies or hangs, until ``stop``."""
        backoff = Backoff(self._patience.shortest_pause, self._patience.longest_pause)
        while not self._stopping.is_set():
            begun = time.monotonic()
            await self._live_once()
            if time.monotonic() - begun >= self._patience.settled:
                backoff.reset()
            if self._stopping.is_set():
                return
            pause = backoff.next_delay()
            log.warning("%s %s; starting it again in %.1f s", self.part.name, _how(self.last_code), pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def stop(self) -> None:
        """Ask it to end and wait until it has; killed when it takes longer than the drain allows."""
        self._stopping.set()
        if (process := self.process) is None:
            return
        process.ask_to_end()
        try:
            await asyncio.wait_for(process.ended(), self._patience.drain)
        except TimeoutError:
            log.warning("%s did not drain in time and is killed", self.part.name)
            process.kill()
            await process.ended()

    def kill(self) -> None:
        """End it now."""
        self._stopping.set()
        if self.process is not None:
            self.process.kill()

    async def _live_once(self) -> None:
        """From start to end of one process."""
        name = self.part.name
        try:
            process = Process(self.part.command, self.part.environment, lambda line: self._tell(name, line))
        except OSError as error:
            log.error("%s cannot be started: %s", name, error)
            self.last_code = 127
            return
        self.process = process
        self._changed()
        watching = asyncio.create_task(self._end_if_hanging(process))
        try:
            self.last_code = await process.ended()
        finally:
            watching.cancel()
            self.process = None
            self._changed()

    async def _end_if_hanging(self, process: Process) -> None:
        """Kill *process* once it has answered and then leaves too many questions unanswered."""
        patience, answered, missed = self._patience, False, 0
        while missed < patience.misses:
            await asyncio.sleep(patience.between_questions)
            lives = await probes.lives(self.part.address, patience.answer)
            answered = answered or lives
            missed = 0 if lives or not answered else missed + 1
        log.error("%s lives but does not answer: it is killed", self.part.name)
        process.kill()


def _how(code: int | None) -> str:
    if code is None:
        return "did not start"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
