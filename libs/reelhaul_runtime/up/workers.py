"""Workers: several processes of one service that share its address, supervised by this process.

Each worker listens with SO_REUSEPORT, so that the kernel distributes new connections. It also answers probes
at an address of its own on loopback, where this process and the other workers find out whether it is alive.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from reelhaul_runtime import service_manager
from reelhaul_runtime.child_process import OPEN_TELEMETRY_PREFIX, module_command
from reelhaul_runtime.exit_codes import REFUSED
from reelhaul_runtime.listeners import AddressUnavailable
from reelhaul_runtime.settings import PREFIX, InvalidSetting, SuiteSettings
from reelhaul_runtime.up import log_multiplexer
from reelhaul_runtime.up.ports import ReservedPorts
from reelhaul_runtime.up.process_supervisor import ProcessSupervisor, RestartPolicy
from reelhaul_runtime.up.suite_processes import SuiteProcess

log = logging.getLogger(__name__)

# What a worker may need beyond drain_seconds: more than `serve`, which ends itself, and less than `up` gives
# this process.
_EXTRA_DRAIN_SECONDS = 6


def run(name: str, count: int, settings: SuiteSettings) -> int:
    """Run *count* workers of the service *name* until SIGTERM or SIGINT; return the exit code.

    Raises InvalidSetting if the address of the service cannot be used.
    """
    with ReservedPorts() as ports:
        address: str = getattr(settings, f"{name}_address")
        if not settings.reuse_port:  # else the parent process holds it
            try:
                address = ports.reserve(address)
            except AddressUnavailable as error:
                raise InvalidSetting(f"{PREFIX}{name.upper()}_ADDRESS: {error}") from error
        probes = [ports.reserve("127.0.0.1:0") for _ in range(count)]
        # They serve metrics to this process, which serves those of all.
        address_of_metrics: str = getattr(settings, f"{name}_metrics_address")
        metrics = [ports.reserve("127.0.0.1:0") if address_of_metrics else "" for _ in range(count)]
        # A worker that hangs is found before `up`, whose probes reach any worker, takes all for hanging.
        policy = RestartPolicy(
            drain_timeout=settings.drain_seconds + _EXTRA_DRAIN_SECONDS,
            probe_interval=2.0,
            probe_timeout=2.0,
            max_failed_probes=3,
        )
        specs = [_specify(name, number, address, probes, metrics[number]) for number in range(count)]
        print_line = _print_as_json if settings.log_format == "json" else _print_line
        return asyncio.run(_run(name, _Workers(specs, policy, print_line), settings, metrics))


async def _run(name: str, workers: _Workers, settings: SuiteSettings, metrics: Sequence[str]) -> int:
    """Run *workers*, and serve what each serves at one of *metrics*; return the exit code."""
    async with AsyncExitStack() as stack:
        if address := getattr(settings, f"{name}_metrics_address"):
            # prometheus_client is imported only if it is needed.
            from reelhaul_runtime.metrics.http_server import serving_metrics
            from reelhaul_runtime.up.worker_metrics import read_workers

            read = partial(read_workers, metrics, settings.metrics_token)
            serving = serving_metrics(
                address, settings.metrics_token, reuse_port=settings.reuse_port, source=read
            )
            try:
                await stack.enter_async_context(serving)
            except AddressUnavailable as error:
                raise InvalidSetting(f"{PREFIX}{name.upper()}_METRICS_ADDRESS: {error}") from error
        return await workers.run()


def _specify(name: str, number: int, address: str, probes: list[str], metrics: str) -> SuiteProcess:
    prefixes = (PREFIX, OPEN_TELEMETRY_PREFIX)
    environment = {key: value for key, value in os.environ.items() if key.upper().startswith(prefixes)}
    environment |= {
        f"{PREFIX}{name.upper()}_ADDRESS": address,
        f"{PREFIX}{name.upper()}_METRICS_ADDRESS": metrics,
        f"{PREFIX}{name.upper()}_WORKER_ADDRESSES": ",".join([*probes[number:], *probes[:number]]),
        f"{PREFIX}REUSE_PORT": "true",
    }
    return SuiteProcess(
        f"{name} worker {number + 1}",
        module_command("reelhaul_runtime", "serve", name),
        f"http://{probes[number]}",
        environment=environment,
    )


class _Workers:
    """Runs *specs*: a worker that ends is restarted, unless it refuses its settings at the first start."""

    def __init__(
        self, specs: list[SuiteProcess], policy: RestartPolicy, print_line: Callable[[str, bytes], None]
    ) -> None:
        self._supervisors = [ProcessSupervisor(spec, policy, print_line, self._on_change) for spec in specs]
        self._stop = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Run until SIGINT or SIGTERM; return the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        supervising = [asyncio.create_task(supervisor.run()) for supervisor in self._supervisors]
        service_manager.notify(service_manager.READY)
        await self._stop.wait()
        service_manager.notify(service_manager.STOPPING)
        await asyncio.gather(*(supervisor.stop() for supervisor in self._supervisors))
        await asyncio.gather(*supervising)
        return self._exit_code

    def _on_signal(self, number: int) -> None:
        if not self._stop.is_set():
            log.info("draining %d workers", len(self._supervisors))
            self._stop.set()
            return
        self._exit_code = 128 + number
        for supervisor in self._supervisors:
            supervisor.kill()

    def _on_change(self) -> None:
        """Stop all if one has refused its settings: the others would as well."""
        if any(each.last_exit_code == REFUSED and not each.process for each in self._supervisors):
            self._exit_code = REFUSED
            self._stop.set()
            for supervisor in self._supervisors:
                supervisor.end_restarts()


def _print_line(_: str, line: bytes) -> None:
    """Pass on a line of a worker: it is in the format of the settings."""
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.buffer.flush()


def _print_as_json(name: str, line: bytes) -> None:
    """Pass on a line of a worker, as JSON also if a library of it wrote the line."""
    is_ours = line.startswith(b'{"time":') and line.endswith(b"}")
    _print_line(name, line if is_ours else json.dumps(log_multiplexer.parse_line(name, line)).encode())
