"""Suite: starts all processes, announces when they are ready, and drains them in reverse order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from reelhaul_runtime import listeners, service_manager
from reelhaul_runtime.exit_codes import KILLED, OK, REFUSED
from reelhaul_runtime.redaction import redact_urls
from reelhaul_runtime.up import log_multiplexer, probes, process, procfs, suite_state
from reelhaul_runtime.up.preloader_process import Preloader
from reelhaul_runtime.up.process_supervisor import ProcessSupervisor, RestartPolicy
from reelhaul_runtime.up.suite_processes import SuiteProcess

log = logging.getLogger(__name__)

#: Returned instead of an exit code: the suite is to be restarted with another port for its broker.
PORT_TAKEN = -1

_SLOW_START_SECONDS = 30.0


class Suite:
    """Runs *specs*: started in their order, stopped in reverse."""

    def __init__(
        self,
        specs: Sequence[SuiteProcess],
        folder: Path,
        policy: RestartPolicy,
        renderer: log_multiplexer.LogRenderer,
        *,
        nats_url: str = "",
        key_file: Path | None = None,
        only_json: bool = False,
        preloader: Preloader | None = None,
    ) -> None:
        """*key_file*: where the first key is left, if one is created. *only_json*: print no text.

        *preloader* starts the services the first time.
        """
        self._supervisors = [
            ProcessSupervisor(spec, policy, renderer.render, self._on_change, preloader) for spec in specs
        ]
        self._folder, self._policy, self._preloader = folder, policy, preloader
        self._addresses = {spec.name: spec.address for spec in specs}
        self._metrics = {spec.name: spec.metrics_address for spec in specs if spec.metrics_address}
        if nats_url:
            self._addresses["nats"] = nats_url
        self._only_json = only_json
        self._key_file, self._old_key = key_file, _read_key(key_file)
        self._ready_seconds: float | None = None
        self._stop = asyncio.Event()
        self._exit_code = OK

    async def run(self) -> int:
        """Run until SIGINT, SIGTERM or SIGHUP; return the exit code."""
        process.become_subreaper()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        supervising = [asyncio.create_task(supervisor.run()) for supervisor in self._supervisors]
        announcing = asyncio.create_task(self._announce_ready())
        killing_orphans = asyncio.create_task(self._kill_orphans())
        await self._stop.wait()
        announcing.cancel()
        for supervisor in reversed(self._supervisors):
            await supervisor.stop()
        await asyncio.gather(*supervising)
        killing_orphans.cancel()
        process.kill_orphans(())
        suite_state.remove(self._folder)
        return self._exit_code

    def _on_signal(self) -> None:
        if not self._stop.is_set():
            service_manager.notify(service_manager.STOPPING)
            log.info("draining; a second signal kills")
            self._stop.set()
            return
        self._exit_code = KILLED
        for supervisor in self._supervisors:
            supervisor.kill()

    def _on_change(self) -> None:
        """Handle the start or end of a process."""
        if self._preloader is not None and all(each.was_started for each in self._supervisors):
            self._preloader.close()
            self._preloader = None
        if self._ready_seconds is None and not self._stop.is_set():
            self._stop_if_unrecoverable()
        self._write_state()

    def _stop_if_unrecoverable(self) -> None:
        """Stop the suite if a process ended with an error that a restart does not remove."""
        ended = [each for each in self._supervisors if each.last_exit_code is not None and not each.process]
        if refused := [each.spec.name for each in ended if each.last_exit_code == REFUSED]:
            log.error("%s refused its settings", ", ".join(refused))
            self._stop_with(REFUSED)
        elif taken := [each.spec for each in ended if each.spec.has_chosen_port and _is_taken(each.spec)]:
            log.warning("another program took the port of %s; choosing another", taken[0].name)
            self._stop_with(PORT_TAKEN)

    def _stop_with(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._stop.set()
        for supervisor in self._supervisors:
            supervisor.end_restarts()

    def _write_state(self) -> None:
        processes = {each.spec.name: each.process.pid for each in self._supervisors if each.process}
        health = {each.spec.name: each.spec.health for each in self._supervisors}
        state = suite_state.SuiteState(
            os.getpid(), self._ready_seconds, self._addresses, health, processes, self._metrics
        )
        try:
            suite_state.write(self._folder, state)
        except OSError as error:
            log.error("suite.json cannot be written: %s", error)  # a full disk ends no service

    async def _announce_ready(self) -> None:
        """Wait until all processes are ready; print that, with the time since the command."""
        waiting = {
            each.spec.name: asyncio.create_task(_wait_until_ready(each.spec)) for each in self._supervisors
        }
        try:
            while pending := [task for task in waiting.values() if not task.done()]:
                await asyncio.wait(pending, timeout=_SLOW_START_SECONDS)
                if late := [name for name, task in waiting.items() if not task.done()]:
                    log.warning("not ready yet: %s", ", ".join(late))
        finally:
            for task in waiting.values():
                task.cancel()
        self._ready_seconds = round(procfs.age_seconds(os.getpid()), 2)
        self._write_state()
        service_manager.notify(service_manager.READY)
        self._print_ready(self._ready_seconds)

    def _print_ready(self, seconds: float) -> None:
        """Print that the suite is ready; log it instead if the output is to be JSON by setting."""
        new_key = (key := _read_key(self._key_file)) != self._old_key
        if self._only_json:
            addresses = {name: redact_urls(address) for name, address in self._addresses.items()}
            extra = {"seconds": seconds, "addresses": addresses, "data_dir": str(self._folder.parent)}
            log.info("the suite is ready", extra=extra)
            if new_key:
                log.warning("a new key, for all access, is in %s", self._key_file)
            return
        lines = [f"Reelhaul is ready in {seconds:.2f} s; Ctrl-C drains it"]
        lines += [
            f"  {name:<8} {redact_urls(address)}" for name, address in reversed(self._addresses.items())
        ]
        lines.append(f"  {'data':<8} {self._folder.parent}")
        if new_key:
            # What is no terminal may be a log, which keeps no secrets.
            shown = f"{key} (not shown again), also" if sys.stdout.isatty() else "a new one, for all access,"
            lines.append(f"  {'key':<8} {shown} in {self._key_file}, where the command line finds it")
        with suppress(BrokenPipeError, ValueError):
            sys.stdout.write("\n".join([*lines, ""]))
            sys.stdout.flush()

    async def _kill_orphans(self) -> None:
        """Kill what a dead process has left behind in process groups of its own."""
        while True:
            await asyncio.sleep(self._policy.probe_interval / 2)
            kept = [each.process.pid for each in self._supervisors if each.process]
            if self._preloader is not None:
                # It may have forked a process whose id is not known yet.
                if self._preloader.is_starting:
                    continue
                kept.append(self._preloader.pid)
            process.kill_orphans(kept)


def _read_key(file: Path | None) -> str:
    """Return the key in *file*; empty if there is none."""
    with suppress(OSError):
        return file.read_text(errors="replace").strip() if file is not None else ""
    return ""


async def _wait_until_ready(spec: SuiteProcess) -> None:
    while not await probes.is_ready(spec.address, spec.health, tls=spec.tls):  # noqa: ASYNC110 - another process has no Event
        await asyncio.sleep(0.05)


def _is_taken(spec: SuiteProcess) -> bool:
    """Return whether the address of *spec*, which does not run, is used by another program."""
    try:
        listeners.check(spec.address.rpartition("/")[2])
    except listeners.AddressUnavailable:
        return True
    return False
