"""``reelhaul up`` for the chaos test: several fetchers and replicas of jobs, restarted almost at once.

Run by its path: ``python -P tests/chaos/suite_process.py [OPTION…] FETCHERS [ADDRESS…]``, with an
address for each further replica of jobs. Every second fetcher connects to the last of these and has no folder
in common with storage, so it has to upload its files.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from reelhaul_runtime import logs
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.up import data_dir, log_multiplexer, ports, suite_processes, suite_state
from reelhaul_runtime.up.preloader_process import open_preloader
from reelhaul_runtime.up.process_supervisor import RestartPolicy
from reelhaul_runtime.up.suite import Suite
from reelhaul_runtime.up.suite_processes import SuiteProcess

# Processes are killed every few seconds: the delay before a restart must stay far below that.
_RESTART_POLICY = RestartPolicy(
    longest_delay=0.4, probe_interval=1.0, probe_timeout=4.0, max_failed_probes=12
)
_EXIT_TIMEOUT = 30


def main() -> int:
    """Run the suite that REELHAUL_* describes until a signal; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutant", default="")
    parser.add_argument("--links", type=json.loads, default={}, help="addresses by link: see links.py")
    parser.add_argument("--clock", default="", help="file of the offset of the clock of jobs: see clocks.py")
    parser.add_argument("fetchers", type=int)
    parser.add_argument("addresses", nargs="*")
    arguments = parser.parse_args()
    settings = SuiteSettings()
    with (
        open_preloader() as preloader,
        log_multiplexer.render_to_stderr("json", settings.log_level) as renderer,
    ):
        logs.configure("up", "json", settings.log_level, stream=log_multiplexer.LogStream("up", renderer))
        folder = data_dir.create_run_folder(settings.data_dir)
        with data_dir.lock(folder):
            data_dir.wait_for_exit(suite_state.leftover_pids(folder), _EXIT_TIMEOUT)
            options = (
                *(("--mutant", arguments.mutant) if arguments.mutant else ()),
                *(("--clock", arguments.clock) if arguments.clock else ()),
            )
            processes = list(_processes(settings, arguments.fetchers, arguments.addresses, options))
            if arguments.links:
                nats_url = processes[0].address
                processes = [
                    _with_links(process, arguments.links, nats_url, settings) for process in processes
                ]
            return asyncio.run(Suite(processes, folder, _RESTART_POLICY, renderer, preloader=preloader).run())


def _processes(
    settings: SuiteSettings, fetchers: int, replicas: Sequence[str], options: Sequence[str]
) -> Iterator[SuiteProcess]:
    """Yield broker and services, with jobs-2 …, fetcher-2, fetcher-3 … after the first of each."""
    nats_url = settings.nats_url
    if not nats_url:
        nats = suite_processes.nats(settings.data_dir / "nats", ports.find_free_port())
        nats_url = nats.address
        yield nats
    token = data_dir.load_suite_token(settings.data_dir / "run")
    for process in suite_processes.services(settings, nats_url, token):
        if process.name == "jobs":
            # Executed, not forked from the preloader: it is another program.
            process = replace(process, command=_jobs_command(options), service="")
        yield process
        if process.name == "jobs":
            for number, address in enumerate(replicas, 2):
                yield _replica(process, number, address)
        if process.name == "fetcher":
            for number in range(2, fetchers + 1):
                address = f"127.0.0.1:{ports.find_free_port()}"
                environment = _remote_environment(settings, replicas) if number % 2 == 0 else {}
                yield _replica(process, number, address, environment)


def _jobs_command(options: Sequence[str]) -> tuple[str, ...]:
    script = str(Path(__file__).with_name("fault_injection.py"))
    return (sys.executable, "-P", script, *options, "serve", "jobs")


def _remote_environment(settings: SuiteSettings, replicas: Sequence[str]) -> dict[str, str]:
    """Return the environment of a fetcher that runs as if on another host than the first one."""
    environment = {"REELHAUL_STORAGE_ADOPT_DIR": str(settings.data_dir / "elsewhere")}
    return environment | ({"REELHAUL_JOBS_ADDRESS": replicas[-1]} if replicas else {})


def _replica(
    process: SuiteProcess, number: int, address: str, environment: Mapping[str, str] = MappingProxyType({})
) -> SuiteProcess:
    own = {f"REELHAUL_{process.name.upper()}_ADDRESS": address}
    name = f"{process.name}-{number}"
    merged = {**process.environment, **own, **environment}
    # The preloader starts each service once.
    return replace(process, name=name, address=address, environment=merged, service="")


def _with_links(
    process: SuiteProcess, links: Mapping[str, str], nats_url: str, settings: SuiteSettings
) -> SuiteProcess:
    """Return *process* as it reaches broker, storage and database through *links* that can be cut."""

    def through(link: str, text: str) -> str:
        return text.replace("127.0.0.1", links[link])

    service = process.name.partition("-")[0]
    environment = dict(process.environment)
    if service in ("jobs", "fetcher"):
        environment["REELHAUL_NATS_URL"] = through(f"{service}-broker", nats_url)
    if service == "fetcher":
        environment["REELHAUL_STORAGE_ADDRESSES"] = through("fetcher-storage", settings.storage_address)
    if service == "jobs":
        url = environment["REELHAUL_JOBS_DATABASE_URL"]
        environment["REELHAUL_JOBS_DATABASE_URL"] = through("jobs-database", url)
    return replace(process, environment=environment)


if __name__ == "__main__":
    sys.exit(main())
