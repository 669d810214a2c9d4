"""Jobs per second: admitted, and from create to acknowledged, against Celery with Redis.

Both keep their promises to disk: SQLite FULL or PostgreSQL with fsync, JetStream with sync always;
Redis with its append-only file synced at every write, tasks acknowledged late. Sides take turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench import load
from bench.celery_house import CeleryHouse, celery_house
from bench.house import Service, house, postgresql, serving, working
from bench.report import Report, ratios
from bench.tally import Tally

_SIDES = ("sqlite", "postgresql")


async def measure(report: Report) -> None:
    """Single creates, batches and no-op jobs end to end, each side in turn."""
    rounds, jobs = (2, 400) if report.short else (5, 3000)
    with tempfile.TemporaryDirectory(prefix="bench-tally-") as folder, Tally.at(Path(folder) / "t") as tally:
        await _end_to_end(report, tally, rounds, jobs)
        await _admission(report, tally, rounds, jobs)


async def _end_to_end(report: Report, tally: Tally, rounds: int, jobs: int) -> None:
    report.title(f"No-op jobs end to end, {jobs} a round, 2 worker processes")
    rates: dict[str, list[float]] = {side: [] for side in ("celery", *_SIDES)}
    async with AsyncExitStack() as stack:
        rival = await stack.enter_async_context(celery_house(tally.path))
        ours = {side: await stack.enter_async_context(_side(side, tally.path)) for side in _SIDES}
        for round_ in range(rounds + 1):
            rates["celery"].append(await _celery_through(rival, tally, jobs))
            for side, service in ours.items():
                rates[side].append(await _through(service, tally, jobs))
            if round_ == 0:  # pools, prepared statements and caches fill in the first one
                for each in rates.values():
                    each.clear()
    report.figures("jobs/s", {f"end to end: {side}": each for side, each in rates.items()})
    for side in _SIDES:
        report.target(f"jobs-end-to-end-{side}", ratios(rates[side], rates["celery"]), ">=", 1.5)


async def _admission(report: Report, tally: Tally, rounds: int, jobs: int) -> None:
    report.title(f"Admission, {jobs} a round, nobody works")
    rates: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        rival = await stack.enter_async_context(celery_house(tally.path))
        ours = {side: await stack.enter_async_context(_side(side, None)) for side in _SIDES}
        for _ in range(rounds):
            begun, ended = await rival.enqueue(jobs)
            rates.setdefault("celery delay()", []).append(jobs / (ended - begun))
            await tally.reach(jobs)
            tally.clear()
            for side, service in ours.items():
                begun, ended = await load.create(service.jobs, jobs)
                rates.setdefault(f"CreateJob x 64, {side}", []).append(jobs / (ended - begun))
                begun, ended = await load.create_batches(service.jobs, jobs)
                rates.setdefault(f"BatchCreateJobs of 100, {side}", []).append(jobs / (ended - begun))
    report.figures("jobs/s", rates)
    for side in _SIDES:
        batches = rates[f"BatchCreateJobs of 100, {side}"]
        report.target(f"jobs-batch-admission-{side}", ratios(batches, rates["celery delay()"]), ">=", 5)


@asynccontextmanager
async def _side(side: str, tally: Path | None) -> AsyncIterator[Service]:
    """Our service over one of the databases, with workers where there is a *tally*."""
    async with AsyncExitStack() as stack:
        database = stack.enter_context(postgresql()) if side == "postgresql" else ""
        place = await stack.enter_async_context(house(database))
        service = await stack.enter_async_context(serving(place))
        if tally is not None:
            await stack.enter_async_context(working(place, tally))
        yield service


async def _through(service: Service, tally: Tally, jobs: int) -> float:
    """Our jobs per second, from the first create to the last acknowledgement."""
    tally.clear()
    begun, _ = await load.create(service.jobs, jobs)
    return jobs / ((await tally.reach(jobs))[-1] - begun)


async def _celery_through(rival: CeleryHouse, tally: Tally, jobs: int) -> float:
    """Tasks per second, from the first delay() to the end of the last task."""
    tally.clear()
    begun, _ = await rival.enqueue(jobs)
    return jobs / ((await tally.reach(jobs))[-1] - begun)
