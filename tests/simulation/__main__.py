"""``make simulate``: the real dispatcher and its queries with 1,000 fetchers and 10 million queued jobs.

Only the fetchers, the broker and the clock are simulated. Ends with one line, ``simulate ok …`` and exit
code 0, or ``simulate FAILED …`` and exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from sqlalchemy import Connection, text
from tests.job_stores import open_store
from tests.postgresql import migrated_database
from tests.simulation import backlog, costs
from tests.simulation.autoscaling import Autoscaler
from tests.simulation.checks import fairness_index, list_checks, list_shares
from tests.simulation.simulation import Observations, Simulation
from tests.simulation.workload import Size, Workload, draw_workload
from tests.sqlite import create_migrated_file

_FULL = Size(
    fetchers=1_000,
    slots_per_fetcher=4,
    jobs=10_000_000,
    tenants=1_000,
    sites=400,
    seconds=180,
    job_seconds=30,
)
_SHORT = Size(fetchers=50, slots_per_fetcher=2, jobs=50_000, tenants=60, sites=40, seconds=90, job_seconds=10)
# The same with so few jobs that a backlog hardly exists: what a step costs without one.
_SMALL_BACKLOG = 20_000


def main() -> int:
    """Run the simulation and print its result; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate many fetchers.")
    parser.add_argument("--short", action="store_true", help="50 fetchers, 50,000 jobs: under a minute")
    parser.add_argument(
        "--db", choices=["sqlite", "postgresql"], help="default: postgresql, with --short sqlite"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, help="jobs in the backlog")
    parser.add_argument("--seconds", type=int, help="simulated seconds")
    parser.add_argument("--tenants", type=int)
    arguments = parser.parse_args()
    size = _SHORT if arguments.short else _FULL
    changes = {name: value for name in ("jobs", "seconds", "tenants") if (value := getattr(arguments, name))}
    size = replace(size, **changes)
    logging.disable(logging.WARNING)
    database = arguments.db or ("sqlite" if arguments.short else "postgresql")
    return asyncio.run(_run(draw_workload(size, arguments.seed), database))


async def _run(workload: Workload, database: str) -> int:
    size = workload.size
    sites = {site for sites in workload.sites.values() for site in sites}
    print(
        f"{size.fetchers:,} fetchers of {size.slots_per_fetcher} slots, {size.jobs:,} jobs of"
        f" {size.tenants:,} tenants at {len(sites):,} sites, {size.seconds} s on {database}",
        flush=True,
    )
    small = draw_workload(replace(size, jobs=min(size.jobs, _SMALL_BACKLOG)), workload.seed)
    await _measure_reads(small, database)
    with _new_database(database) as url:
        begin = time.monotonic()
        await asyncio.to_thread(backlog.load, url, workload)
        print(f"  loaded in {time.monotonic() - begin:.0f} s", flush=True)
        async with open_store(url) as store:
            size_in_bytes = await store.database.read(_database_bytes)
            print(f"  {size_in_bytes / size.jobs:,.0f} bytes a job with its indexes", flush=True)
            await _print_read_cost(store.database, workload)
            begin = time.monotonic()
            meter = await costs.CpuMeter.of(store.database)
            simulation = Simulation(store, workload, meter)
            seen = await simulation.run()
            await simulation.renew_all()
            print(f"  simulated in {time.monotonic() - begin:.0f} s", flush=True)
            await _print_read_cost(store.database, workload, " after the simulation")
    _print_observations(seen, simulation, workload)
    for kind, cost in meter.costs.items():
        print(f"  {kind}: {cost}")
    _print_autoscaling(size)
    checks = list(list_checks(seen, workload))
    for check in checks:
        print(check)
    failed = [check.name for check in checks if not check.passed]
    verdict = f"FAILED: {'; '.join(failed)}" if failed else "ok"
    print(
        f"simulate {verdict} fetchers={size.fetchers} jobs={size.jobs} tenants={size.tenants}"
        f" started={seen.starts.total()} seed={workload.seed} db={database}"
    )
    return 1 if failed else 0


async def _measure_reads(workload: Workload, database: str) -> None:
    """Print what a read of the backlog of *workload* costs in a database of its own."""
    with _new_database(database) as url:
        await asyncio.to_thread(backlog.load, url, workload)
        async with open_store(url) as store:
            await _print_read_cost(store.database, workload)


async def _print_read_cost(database: object, workload: Workload, when: str = "") -> None:
    cost = await costs.measure_read(database, workload.size.slots)  # type: ignore[arg-type]
    print(
        f"  read of a backlog of {workload.size.jobs:,}{when}: {cost.milliseconds:.0f} ms, CPU"
        f" {cost.cpu_milliseconds:.0f} ms, {cost.reads:,} {cost.unit}, {cost.jobs:,} jobs returned",
        flush=True,
    )


def _print_observations(seen: Observations, simulation: Simulation, workload: Workload) -> None:
    shares = list_shares(seen, workload)
    print(f"  {seen.ended:,} jobs ended; most jobs published and leased: {seen.most_in_flight:,}")
    steps = seen.step_seconds
    print(f"  {len(steps):,} dispatch steps: median {_ms(median(steps))}, longest {_ms(max(steps))}")
    refused_items = simulation.broker.refused
    print(f"  claims refused: {dict(seen.refused_claims)}; items refused by the broker: {refused_items:,}")
    print(
        f"  starts for its weight: median {median(shares):.1f}, {min(shares):.1f} to {max(shares):.1f},"
        f" Jain's index {fairness_index(shares):.3f}"
    )
    for kind, waits in seen.waits.items():
        print(
            f"  {kind}: median wait {median(waits):.0f} s, {seen.unstarted[kind]} of {len(waits)} not started"
        )


def _print_autoscaling(size: Size) -> None:
    slots = size.slots_per_fetcher
    autoscaler = Autoscaler(slots, target=slots, min_fetchers=2, decision_seconds=15, start_seconds=20)
    counts = [count for count in (10, 50, 100, 1_000) if count <= size.fetchers]
    times = ", ".join(f"{count:,} after {autoscaler.seconds_to(count):.0f} s" for count in counts)
    print(f"  autoscaler, from 2 fetchers: {times}")


def _database_bytes(connection: Connection) -> int:
    """Return the size of the table of jobs with its indexes; with SQLite, of the database."""
    if connection.dialect.name == "postgresql":
        return int(connection.execute(text("SELECT pg_total_relation_size('jobs')")).scalar_one())
    pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    return int(pages) * int(connection.execute(text("PRAGMA page_size")).scalar_one())


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


@contextmanager
def _new_database(name: str) -> Iterator[str]:
    """Yield the URL of an empty database with the schema of this build."""
    if name == "postgresql":
        with migrated_database("reelhaul_jobs") as url:
            yield url
        return
    with tempfile.TemporaryDirectory(prefix="reelhaul-simulation-") as folder:
        path = Path(folder) / "jobs.db"
        create_migrated_file("reelhaul_jobs", path)
        yield f"sqlite:///{path}"


if __name__ == "__main__":
    sys.exit(main())
