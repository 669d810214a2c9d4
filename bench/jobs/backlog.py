"""A long backlog: does the millionth waiting job slow down the dispatch of the first, or the lists?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench import load
from bench.harness import House, Service, house, postgresql, serving, working
from bench.jobs.completions import Tally
from bench.jobs.row_copies import Copies
from bench.report import Report, ratios
from reelhaul.jobs.v1.job_service_pb2 import ListJobsRequest

_FEW = 1_000
_PAGE, _FAR = 50, 1_000

# Lists of jobs of which few live: target, order, filter. By end_time desc the live ones come first.
_LISTS = (
    ("jobs-far-page-ended", "", ""),
    ("jobs-far-page-by-end", "end_time", ""),
    ("jobs-far-page-by-end-desc", "end_time desc", ""),
    ("jobs-far-page-by-end-failed", "end_time desc", "state=FAILED"),
    ("jobs-far-page-failed", "", "state=FAILED"),
)


async def measure(report: Report) -> None:
    """Dispatch with few and with a million rows waiting; lists of these, and of a million that have ended."""
    with tempfile.TemporaryDirectory(prefix="bench-tally-") as folder, Tally.at(Path(folder) / "t") as tally:
        for side in ("sqlite",) if report.short else ("sqlite", "postgresql"):
            await _side(report, tally, side)
            await _ended(report, side)


async def _side(report: Report, tally: Tally, side: str) -> None:
    many, rounds = (60_000, 1) if report.short else (1_000_000, 3)
    report.title(f"{many:,} rows waiting, {side}")
    async with AsyncExitStack() as stack:
        small = await stack.enter_async_context(_waiting(side, _FEW))
        begun = time.monotonic()
        big = await stack.enter_async_context(_waiting(side, many))
        report.figure(f"filling, {side}", "s", [time.monotonic() - begun])
        await _lists(report, side, big.service, "jobs-far-page")
        await _dispatch(report, side, tally, small, big, rounds)


async def _ended(report: Report, side: str) -> None:
    """Lists of a tenant whose jobs have ended, nearly all of them."""
    many = 60_000 if report.short else 1_000_000
    report.title(f"{many:,} rows, of which 98 in 100 have ended, {side}")
    async with _waiting(side, many, ended=True) as big:
        for name, order, condition in _LISTS:
            await _lists(report, side, big.service, name, order, condition)


async def _lists(
    report: Report, side: str, service: Service, name: str, order: str = "", condition: str = ""
) -> None:
    """Seconds for a page in *order* of what *condition* holds of, near and far taking turns."""
    token, number = "", 1
    while number < _FAR and (following := (await _page(service, order, condition, token))[1]):
        token, number = following, number + 1
    near, far = [], []
    for _ in range(50):
        near.append((await _page(service, order, condition, ""))[0])
        far.append((await _page(service, order, condition, token))[0])
    by = "".join((f" of {condition}" if condition else "", f" by {order}" if order else ""))
    report.figure(f"ListJobs{by}, page 1, {side}", "ms", near)
    report.figure(f"ListJobs{by}, page {number:,}, {side}", "ms", far)
    report.target(f"{name}-{side}", ratios(far, near), "<=", 1.5)


async def _page(service: Service, order: str, condition: str, token: str) -> tuple[float, str]:
    """Milliseconds that a page took, and where the next begins."""
    request = ListJobsRequest(page_size=_PAGE, page_token=token, order_by=order, filter=condition)
    begun = time.perf_counter()
    answer = await service.jobs.ListJobs(request)
    took = (time.perf_counter() - begun) * 1000
    assert answer.jobs
    return took, answer.next_page_token


async def _dispatch(
    report: Report, side: str, tally: Tally, small: _Waiting, big: _Waiting, rounds: int
) -> None:
    """Jobs per second through the workers, the two taking turns."""
    few, lots, memory = [], [], []
    for _ in range(rounds):
        few.append(await small.drained(tally))
        lots.append(await big.drained(tally))
        memory.append(big.place.nats.megabytes)
        await small.copies.make(_FEW - small.left)
        small.left = _FEW
    report.figure(f"dispatched with {_FEW:,} waiting, {side}", "jobs/s", few)
    report.figure(f"dispatched with {big.left:,} waiting, {side}", "jobs/s", lots)
    report.figure(f"nats-server, {side}", "MB", memory)
    report.target(f"jobs-long-backlog-{side}", ratios(lots, few), ">=", 0.9)
    report.target(f"jobs-nats-memory-{side}", max(memory) / 100, "<=", 1)


class _Waiting:
    """A service with so many jobs waiting, and nobody at work."""

    def __init__(self, place: House, service: Service, copies: Copies) -> None:
        self.place, self.service, self.copies = place, service, copies
        self.left = copies.made

    async def drained(self, tally: Tally, number: int = 800) -> float:
        """Let workers take *number* of them: their rate, without its first tenth."""
        # What the dispatcher could publish for nobody is published.
        await asyncio.sleep(1.2)
        tally.clear()
        async with working(self.place, tally.path):
            times = await tally.reach(number)
        self.left -= len(tally.times)
        start = number // 10
        return (number - start) / (times[-1] - times[start - 1])


@asynccontextmanager
async def _waiting(side: str, number: int, *, ended: bool = False) -> AsyncIterator[_Waiting]:
    """The service with *number* rows; the first is the one that the others are copies of."""
    async with AsyncExitStack() as stack:
        database = stack.enter_context(postgresql())[0] if side == "postgresql" else ""
        place = await stack.enter_async_context(house(database))
        async with serving(place) as service:
            template = (await service.jobs.CreateJob(load.request_for_later())).name
        copies = Copies(place.database, template)
        await copies.make(number, ended=ended)
        yield _Waiting(place, await stack.enter_async_context(serving(place)), copies)
