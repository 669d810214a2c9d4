"""Startup of ``reelhaul up``: reads the settings, reserves the addresses, and becomes the supervisor.

The settings and the command line take 16 MB, which nothing needs later. So the process replaces itself by the
supervisor, a program (``up.__main__``) that imports neither. It keeps the process id, the environment, and
the descriptors of what this module holds: the lock of the data folder and the ports.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NoReturn

from reelhaul_runtime import listeners, logs, private_files, service
from reelhaul_runtime.child_process import replace_process
from reelhaul_runtime.exit_codes import FAILED
from reelhaul_runtime.metrics.settings import METRICS_ADDRESSES
from reelhaul_runtime.settings import HEALTH_ADDRESSES, LISTENERS, InvalidSetting, SuiteSettings
from reelhaul_runtime.unhandled_errors import log_unhandled_errors
from reelhaul_runtime.up import data_dir, log_multiplexer, suite_processes, suite_state
from reelhaul_runtime.up.ports import ReservedPorts
from reelhaul_runtime.up.preloader_process import Preloader
from reelhaul_runtime.up.suite_processes import SuitePlan, SuiteProcess

log = logging.getLogger(__name__)

_MAX_STARTS = 5

# What a service may need beyond drain_seconds; `serve` itself gives up a little earlier.
_EXTRA_DRAIN_SECONDS = 7


def main(preloader: Preloader | None, number: int = 1) -> int:
    """Become the supervisor of a suite with the settings of REELHAUL_*; return the exit code if that fails.

    *preloader* starts its services. *number* counts the starts, each with another port for the broker.
    """
    return service.check_settings(lambda: _main(preloader, number))


def _main(preloader: Preloader | None, number: int) -> int:
    # Wrong settings of any service are refused before the first process starts.
    settings, *_ = [read() for read in service.settings_classes()]
    os.umask(private_files.UMASK)
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    style: Literal["json", "text"] = "text" if _wants_text(settings) else "json"
    with ExitStack() as held:
        with log_multiplexer.render_to_stderr(style, settings.log_level) as renderer:
            stream = log_multiplexer.LogStream("up", renderer)
            logs.configure("up", "json", settings.log_level, stream=stream)
            log_unhandled_errors()
            try:
                plan = _plan(held, settings, style, preloader, number)
            except (data_dir.StartupConflict, OSError) as error:
                service.report_failure(str(error))
                return FAILED
        return _execute(plan)


def _plan(
    held: ExitStack,
    settings: SuiteSettings,
    style: Literal["json", "text"],
    preloader: Preloader | None,
    number: int,
) -> SuitePlan:
    """Return what the supervisor is to run; *held* holds the data folder and the ports."""
    if number > _MAX_STARTS:
        raise data_dir.StartupConflict(
            "other programs use every port that was chosen for nats-server: set REELHAUL_NATS_URL"
        )
    folder = data_dir.create_run_folder(settings.data_dir)
    lock = held.enter_context(data_dir.lock(folder))
    drain_timeout = settings.drain_seconds + _EXTRA_DRAIN_SECONDS
    data_dir.wait_for_exit(suite_state.leftover_pids(folder), drain_timeout)
    ports = held.enter_context(ReservedPorts())
    settings = _with_reserved_addresses(settings, ports)
    processes, nats_url = _processes(settings, folder, ports)
    return SuitePlan(
        processes,
        folder,
        drain_timeout=drain_timeout,
        log_style=style,
        log_level=settings.log_level,
        only_json="log_format" in settings.model_fields_set and settings.log_format == "json",
        nats_url=nats_url,
        key_file=suite_processes.key_file(settings.data_dir),
        preloader=preloader.handle if preloader is not None else None,
        descriptors=(lock, *ports.descriptors),
        number=number,
    )


def _execute(plan: SuitePlan) -> NoReturn:
    """Replace this process by the supervisor of *plan*."""
    file = os.memfd_create("plan", 0)  # without MFD_CLOEXEC
    with open(file, "wb", closefd=False) as writer:
        pickle.dump(plan, writer)
    os.lseek(file, 0, os.SEEK_SET)
    for descriptor in (*plan.descriptors, *(plan.preloader or ())[1:]):
        os.set_inheritable(descriptor, True)
    replace_process("reelhaul_runtime.up", str(file))


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


if __name__ == "__main__":
    sys.exit(main(None, int(sys.argv[1])))
