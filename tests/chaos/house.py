"""``reelhaul up`` as the crash test needs it: several fetchers, and hardly a pause before a new start.

Run by its path, as a process: ``python -P tests/chaos/house.py [--mutant NAME] FETCHERS [ADDRESS…]``, with
an address for each further replica of jobs. Every other fetcher then leans on the last of these, and shares
no folder with storage: what it made it must send.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from reelhaul_runtime import logs
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.up import data_dir, log_multiplexer, suite_processes, suite_state
from reelhaul_runtime.up.process_supervisor import RestartPolicy
from reelhaul_runtime.up.suite import Suite
from reelhaul_runtime.up.suite_processes import SuiteProcess

# What dies every few seconds must be back sooner than that: longest_pause.
_PATIENCE = RestartPolicy(longest_delay=0.4, probe_interval=1.0, probe_timeout=4.0, max_failed_probes=12)


def main() -> int:
    """Run the suite that REELHAUL_* describes until a signal; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutant", default="")
    parser.add_argument("fetchers", type=int)
    parser.add_argument("addresses", nargs="*")
    asked = parser.parse_args()
    settings = SuiteSettings()
    with log_multiplexer.render_to_stderr("json", settings.log_level) as told:
        logs.configure("up", "json", settings.log_level, stream=log_multiplexer.LogStream("up", told))
        folder = data_dir.create_run_folder(settings.data_dir)
        with data_dir.lock(folder):
            data_dir.wait_for_exit(suite_state.leftover_pids(folder), 30)
            kept = list(_parts(settings, asked.fetchers, asked.addresses, asked.mutant))
            return asyncio.run(Suite(kept, folder, _PATIENCE, told).run())


def _parts(
    settings: SuiteSettings, fetchers: int, replicas: Sequence[str], mutant: str
) -> Iterator[SuiteProcess]:
    """Broker and services, and beside them jobs-2 …, fetcher-2, fetcher-3 …"""
    nats = suite_processes.nats(settings.data_dir / "nats", data_dir.reserve_port())
    yield nats
    token = data_dir.load_suite_token(settings.data_dir / "run")
    for each in suite_processes.services(settings, nats.address, token):
        part = replace(each, command=_jobs_command(mutant)) if each.name == "jobs" else each
        yield part
        if part.name == "jobs":
            for number, address in enumerate(replicas, 2):
                yield _another(part, number, address)
        if part.name == "fetcher":
            for number in range(2, fetchers + 1):
                own = data_dir.resolve_port("127.0.0.1:0")
                yield _another(part, number, own, _distant(settings, replicas) if number % 2 == 0 else {})


def _jobs_command(mutant: str) -> tuple[str, ...]:
    script = str(Path(__file__).with_name("fault_injection.py"))
    chosen = ("--mutant", mutant) if mutant else ()
    return (sys.executable, "-P", script, *chosen, "serve", "jobs")


def _distant(settings: SuiteSettings, replicas: Sequence[str]) -> dict[str, str]:
    """What a fetcher is told that is not where the first one is."""
    elsewhere = {"REELHAUL_STORAGE_ADOPT_DIR": str(settings.data_dir / "elsewhere")}
    return elsewhere | ({"REELHAUL_JOBS_ADDRESS": replicas[-1]} if replicas else {})


def _another(
    part: SuiteProcess, number: int, address: str, more: Mapping[str, str] = MappingProxyType({})
) -> SuiteProcess:
    own = {f"REELHAUL_{part.name.upper()}_ADDRESS": address}
    name = f"{part.name}-{number}"
    return replace(part, name=name, address=address, environment={**part.environment, **own, **more})


if __name__ == "__main__":
    sys.exit(main())
