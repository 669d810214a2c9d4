"""The work signal wakes the loops of a service that is alone when there may be something to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from tests.job_stores import NOW, SqlStore, job, put_in_stage
from tests.jobs.conftest import TIMEOUT

from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.service.loop_runner import Loop, LoopRunner, SoleLeadership
from reelhaul_jobs.service.work_signal import WorkSignal
from reelhaul_runtime.errors import Unavailable

# Less than the ten seconds after which the signal wakes in any case.
_SOON = 5.0


async def test_a_write_wakes_the_loop(store: SqlStore) -> None:
    """A loop that found nothing takes its next step after a write of this process, and not before."""
    async with _running_loop(store, lambda: NOW) as steps:
        await _wait_until_idle(steps)
        await store.add([job(1)])
        async with asyncio.timeout(_SOON):
            await steps.get()


async def test_a_due_time_wakes_the_loop(store: SqlStore) -> None:
    """A loop takes its next step when a row becomes due, although nothing is written then."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    await store.add([job(1)])
    await put_in_stage(store, 1, QueueStage.LATER, NOW + timedelta(seconds=2))
    async with _running_loop(store, lambda: NOW + timedelta(seconds=loop.time() - start)) as steps:
        await _wait_until_idle(steps)
        assert loop.time() - start < 2
        async with asyncio.timeout(_SOON):
            await steps.get()
        assert loop.time() - start >= 2


async def test_a_failed_step_is_repeated(store: SqlStore) -> None:
    """A loop whose step failed repeats it at its interval: what failed may work again without a write."""
    async with _running_loop(store, lambda: NOW, error=Unavailable("nats", "away")) as steps:
        async with asyncio.timeout(_SOON):
            for _ in range(4):
                await steps.get()


async def _wait_until_idle(steps: asyncio.Queue[None]) -> None:
    """Return when no step was taken for a while."""
    while True:
        try:
            async with asyncio.timeout(0.6):
                await steps.get()
        except TimeoutError:
            return


@asynccontextmanager
async def _running_loop(
    store: SqlStore, now: Callable[[], datetime], *, error: Exception | None = None
) -> AsyncIterator[asyncio.Queue[None]]:
    """Run a loop of a service that is alone; yield a queue that gets an item for each step."""
    steps = asyncio.Queue[None]()

    async def step() -> bool:
        steps.put_nowait(None)
        if error is not None:
            raise error
        return False

    signal = WorkSignal(store, now)
    runner = LoopRunner(Loop("sweeper", step, 0.1), SoleLeadership("sweeper"), signal)
    tasks = [asyncio.create_task(signal.run()), asyncio.create_task(runner.run())]
    try:
        async with asyncio.timeout(TIMEOUT):
            await steps.get()
        yield steps
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
