"""Suite: starts all processes, announces when they are ready, and drains them in reverse order."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import click

from reelhaul_runtime import listeners, logs, private_files, service, service_manager
from reelhaul_runtime.metrics.settings import METRICS_ADDRESSES
from reelhaul_runtime.redaction import redact_urls
from reelhaul_runtime.service import REFUSED
from reelhaul_runtime.settings import HEALTH_ADDRESSES, LISTENERS, InvalidSetting, SuiteSettings
from reelhaul_runtime.unhandled_errors import log_unhandled_errors
from reelhaul_runtime.up import (
    data_dir,
    log_multiplexer,
    probes,
    process,
    procfs,
    suite_processes,
    suite_state,
)
from reelhaul_runtime.up.ports import ReservedPorts
from reelhaul_runtime.up.preloader_process import Preloader
from reelhaul_runtime.up.process_supervisor import ProcessSupervisor, RestartPolicy
from reelhaul_runtime.up.suite_processes import SuiteProcess

log = logging.getLogger(__name__)

#: Exit codes.
OK, FAILED, KILLED = 0, 1, 130

# Returned instead of an exit code: the suite is restarted with another port for its broker.
_PORT_TAKEN = -1
_MAX_STARTS = 5

# What a service may need beyond drain_seconds; `serve` itself gives up a little earlier.
_EXTRA_DRAIN_SECONDS = 7
_SLOW_START_SECONDS = 30.0


def main(preloader: Preloader) -> int:
    """Run the suite with the settings of REELHAUL_* until a signal; return the exit code."""
    return service.check_settings(lambda: _main(preloader))


def _main(preloader: Preloader) -> int:
    # Wrong settings of any service are refused before the first process starts.
    settings, *_ = [read() for read in service.settings_classes()]
    os.umask(private_files.UMASK)
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    style: Literal["json", "text"] = "text" if _wants_text(settings) else "json"
    with log_multiplexer.render_to_stderr(style, settings.log_level) as renderer:
        logs.configure("up", "json", settings.log_level, stream=log_multiplexer.LogStream("up", renderer))
        try:
            return _run(settings, renderer, preloader)
        except (data_dir.StartupConflict, OSError) as error:
            service.report_failure(str(error))
            return FAILED


def _run(settings: SuiteSettings, renderer: log_multiplexer.LogRenderer, preloader: Preloader) -> int:
    folder = data_dir.create_run_folder(settings.data_dir)
    with data_dir.lock(folder):
        log_unhandled_errors()
        drain_timeout = settings.drain_seconds + _EXTRA_DRAIN_SECONDS
        data_dir.wait_for_exit(suite_state.leftover_pids(folder), drain_timeout)
        policy = RestartPolicy(drain_timeout=drain_timeout)
        with ReservedPorts() as ports:
            settings = _with_reserved_addresses(settings, ports)
            for number in range(_MAX_STARTS):
                processes, nats_url = _processes(settings, folder, ports)
                suite = Suite(
                    processes,
                    folder,
                    policy,
                    renderer,
                    nats_url=nats_url,
                    key_file=suite_processes.key_file(settings.data_dir),
                    only_json="log_format" in settings.model_fields_set and settings.log_format == "json",
                    # It may have ended with the processes of the first start.
                    preloader=None if number else preloader,
                )
                if (code := asyncio.run(suite.run())) != _PORT_TAKEN:
                    return code
        raise data_dir.StartupConflict(
            "other programs use every port that was chosen for nats-server: set REELHAUL_NATS_URL"
        )


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
            self._stop_with(_PORT_TAKEN)

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
            click.echo("\n".join(lines))

    async def _kill_orphans(self) -> None:
        """Kill what a dead process has left behind in process groups of its own."""
        while True:
            await asyncio.sleep(self._policy.probe_interval)
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


def _processes(settings: SuiteSettings, folder: Path, ports: ReservedPorts) -> tuple[list[SuiteProcess], str]:
    """Return the processes to run, a nats-server too unless the settings name one, and the broker's URL.

    The URL contains the credential of a nats-server of ours, which is new at each start.
    """
    token = settings.suite_token or data_dir.load_suite_token(folder)
    if settings.nats_url:
        return suite_processes.services(settings, settings.nats_url, token), settings.nats_url
    if settings.nats_credentials is not None:
        raise InvalidSetting(
            "REELHAUL_NATS_URL is not set: REELHAUL_NATS_CREDENTIALS is for a broker of one's own"
        )
    address, nats_token = ports.reserve("127.0.0.1:0", share_with_any=True), secrets.token_urlsafe(32)
    try:
        nats = suite_processes.nats(settings.data_dir / "nats", int(address.rpartition(":")[2]), nats_token)
    except FileNotFoundError as error:
        raise InvalidSetting(str(error)) from error
    nats_url = f"nats://{nats_token}@{address}"
    return [nats, *suite_processes.services(settings, nats_url, token)], nats_url


def _with_reserved_addresses(settings: SuiteSettings, ports: ReservedPorts) -> SuiteSettings:
    """Return *settings* with port 0 replaced, and all addresses reserved.

    Raises InvalidSetting with the name of the setting if a server cannot listen at its address.
    """
    names = (*LISTENERS, *METRICS_ADDRESSES, *HEALTH_ADDRESSES)
    configured = {name: getattr(settings, name) for name in names}
    configured = {name: address for name, address in configured.items() if address}
    _refuse_shared(configured)
    reserved: dict[str, str] = {}
    for name, address in configured.items():
        try:
            reserved[name] = ports.reserve(address)
        except listeners.AddressUnavailable as error:
            raise InvalidSetting(f"REELHAUL_{name.upper()}: {error}") from error
    return settings.model_copy(update=reserved)


def _refuse_shared(configured: Mapping[str, str]) -> None:
    """Raise InvalidSetting if two settings of *configured* (name: address) have one address."""
    owners: dict[str, str] = {}
    for name, address in configured.items():
        if address.endswith(":0"):
            continue
        owner = owners.setdefault(address, name)
        if owner != name:
            raise InvalidSetting(
                f"REELHAUL_{name.upper()} is also the address of REELHAUL_{owner.upper()}: set another port"
            )


def _wants_text(settings: SuiteSettings) -> bool:
    """Return whether to log as text: as configured, else if standard error is a terminal."""
    if "log_format" in settings.model_fields_set:
        return settings.log_format == "text"
    return sys.stderr.isatty()
