"""The suite as one thing: starts its parts, says when they are ready, drains them in reverse order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import click
from pydantic import ValidationError
from pydantic_settings import SettingsError

from reelhaul_runtime import logs
from reelhaul_runtime.settings import SuiteSettings, describe_errors
from reelhaul_runtime.up import (
    data_dir,
    log_multiplexer,
    probes,
    process,
    procfs,
    suite_state,
)
from reelhaul_runtime.up import (
    suite_processes as parts,
)
from reelhaul_runtime.up.process_supervisor import ProcessSupervisor, RestartPolicy
from reelhaul_runtime.up.suite_processes import SuiteProcess

log = logging.getLogger(__name__)

OK, FAILED, REFUSED, KILLED = 0, 1, 2, 130

_ADDRESSES = ("gateway_address", "jobs_address", "fetcher_address", "storage_address")
# What a service needs beyond drain_seconds: serve itself gives up a little earlier.
_LAST_WORDS_SECONDS = 7
_SLOW_START_SECONDS = 30.0


def main() -> int:
    """Run the suite that REELHAUL_* describes until a signal; returns the exit code."""
    try:
        settings = SuiteSettings()
    except (ValidationError, SettingsError) as error:
        for line in describe_errors(error):
            click.echo(f"reelhaul: {line}", err=True)
        return REFUSED
    with log_multiplexer.render_to_stderr(
        "text" if _wants_text(settings) else "json", settings.log_level
    ) as told:
        logs.configure("up", "json", settings.log_level, stream=log_multiplexer.LogStream("up", told))
        try:
            return _run(settings.model_copy(update={"data_dir": settings.data_dir.absolute()}), told)
        except (data_dir.StartupConflict, OSError) as error:
            click.echo(f"reelhaul: {error}", err=True)
            return FAILED


def _run(settings: SuiteSettings, told: log_multiplexer.LogRenderer) -> int:
    folder = data_dir.create_run_folder(settings.data_dir)
    with data_dir.lock(folder):
        drain = settings.drain_seconds + _LAST_WORDS_SECONDS
        data_dir.wait_for_exit(suite_state.leftover_pids(folder), drain)
        settings = _with_ports(settings)
        patience = RestartPolicy(drain_timeout=drain)
        suite = Suite(_parts_of(settings, folder), folder, patience, told, nats_url=settings.nats_url)
        return asyncio.run(suite.run())


class Suite:
    """*parts*, started in their order and stopped in the reverse of it."""

    def __init__(
        self,
        parts: Sequence[SuiteProcess],
        folder: Path,
        patience: RestartPolicy,
        told: log_multiplexer.LogRenderer,
        *,
        nats_url: str = "",
    ) -> None:
        self._keepers = [ProcessSupervisor(part, patience, told.render, self._changed) for part in parts]
        self._folder, self._patience = folder, patience
        self._addresses = {part.name: part.address for part in parts}
        if nats_url:
            self._addresses["nats"] = nats_url
        self._ready_seconds: float | None = None
        self._stop = asyncio.Event()
        self._code = OK

    async def run(self) -> int:
        """Run until SIGINT, SIGTERM or SIGHUP; returns the exit code."""
        process.become_subreaper()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        keeping = [asyncio.create_task(keeper.run()) for keeper in self._keepers]
        beside = [asyncio.create_task(self._announce()), asyncio.create_task(self._bury())]
        await self._stop.wait()
        beside[0].cancel()
        for keeper in reversed(self._keepers):
            await keeper.stop()
        await asyncio.gather(*keeping)
        beside[1].cancel()
        process.kill_orphans(())
        suite_state.remove(self._folder)
        return self._code

    def _on_signal(self) -> None:
        if not self._stop.is_set():
            log.info("draining; once more kills")
            self._stop.set()
            return
        self._code = KILLED
        for keeper in self._keepers:
            keeper.kill()

    def _changed(self) -> None:
        """A process has started or ended."""
        refusing = [k.spec.name for k in self._keepers if k.last_code == REFUSED]
        if refusing and self._ready_seconds is None and not self._stop.is_set():
            log.error("%s refused its settings", ", ".join(refusing))
            self._code = REFUSED
            self._stop.set()
        self._write_record()

    def _write_record(self) -> None:
        running = {k.spec.name: k.process.pid for k in self._keepers if k.process is not None}
        health = {k.spec.name: k.spec.health for k in self._keepers}
        told = suite_state.SuiteState(os.getpid(), self._ready_seconds, self._addresses, health, running)
        try:
            suite_state.write(self._folder, told)
        except OSError as error:
            log.error("suite.json cannot be written: %s", error)  # a full disk ends no service

    async def _announce(self) -> None:
        """Wait until all parts are ready; then say so, with the time it took since the command."""
        waiting = {k.spec.name: asyncio.create_task(_until_ready(k.spec)) for k in self._keepers}
        try:
            while pending := [task for task in waiting.values() if not task.done()]:
                await asyncio.wait(pending, timeout=_SLOW_START_SECONDS)
                if late := [name for name, task in waiting.items() if not task.done()]:
                    log.warning("not ready yet: %s", ", ".join(late))
        finally:
            for task in waiting.values():
                task.cancel()
        self._ready_seconds = round(procfs.age_seconds(os.getpid()), 2)
        self._write_record()
        self._say_ready(self._ready_seconds)

    def _say_ready(self, seconds: float) -> None:
        said = [f"Reelhaul is ready in {seconds:.2f} s; Ctrl-C drains it"]
        said += [f"  {name:<8} {_shown(address)}" for name, address in reversed(self._addresses.items())]
        said.append(f"  {'data':<8} {self._folder.parent}")
        with suppress(BrokenPipeError, ValueError):
            click.echo("\n".join(said))

    async def _bury(self) -> None:
        """End what a dead part has left behind in groups of its own."""
        while True:
            await asyncio.sleep(self._patience.probe_interval)
            process.kill_orphans(k.process.pid for k in self._keepers if k.process is not None)


async def _until_ready(part: SuiteProcess) -> None:
    while not await probes.is_ready(part.address, part.health):  # noqa: ASYNC110 - another process has no Event
        await asyncio.sleep(0.05)


def _parts_of(settings: SuiteSettings, folder: Path) -> list[SuiteProcess]:
    """What to run for *settings*: a broker too, unless they name one."""
    token = settings.suite_token or data_dir.load_suite_token(folder)
    if settings.nats_url:
        return parts.services(settings, settings.nats_url, token)
    nats = parts.nats(settings.data_dir / "nats", data_dir.reserve_port())
    return [nats, *parts.services(settings, nats.address, token)]


def _with_ports(settings: SuiteSettings) -> SuiteSettings:
    """*settings* with port 0 filled in. Raises GroundTaken, naming the setting, where a port is in use."""
    chosen = {name: data_dir.resolve_port(getattr(settings, name)) for name in _ADDRESSES}
    for name, address in chosen.items():
        if not data_dir.is_address_free(address):
            raise data_dir.StartupConflict(
                f"{address} is taken by another process: end that, or set REELHAUL_{name.upper()} to another"
            )
    return settings.model_copy(update=chosen)


def _wants_text(settings: SuiteSettings) -> bool:
    """As asked; where nobody asked, text for a person at a terminal and JSON for a program."""
    asked = "log_format" in settings.model_fields_set
    return settings.log_format == "text" if asked else sys.stderr.isatty()


def _shown(address: str) -> str:
    """*address* without a password that may be in it."""
    place = urlsplit(address)
    return (
        address
        if not place.username and not place.password
        else f"{place.scheme}://{place.hostname}:{place.port}"
    )
