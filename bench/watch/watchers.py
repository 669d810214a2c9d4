"""Watchers, as a process: a stream each for the jobs given by file; writes when each message came.

Three kinds: light ones, which cost this machine next to nothing; real ones, over grpc.aio as a
program has them; and slow ones, which stop reading after the first kilobyte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import uvloop

from bench.watch import WATCH_JOB
from bench.watch.http2_receiver import Heard, Receiver
from reelhaul.jobs.v1 import job_service_pb2_grpc
from reelhaul.jobs.v1.job_service_pb2 import WatchJobRequest, WatchJobResponse

# A browser tab and a service have a connection each; a thousand streams in one would be another measure.
_STREAMS_PER_CONNECTION = 50

# Not all at once: a thousand first snapshots are no part of this.
_BETWEEN_SECONDS = 0.002
_SLOW_WINDOW = 1024


class Watchers:
    """All streams of this process, and what came over them."""

    def __init__(self, address: str, jobs: list[str]) -> None:
        self._address, self._jobs = address, jobs
        #: (when it came, how long after it left), in seconds.
        self.heard: list[tuple[float, float]] = []
        self.all_ready = asyncio.Event()
        self._coming = len(jobs)

    async def light(self) -> None:
        """Watch until cancelled."""
        await self._watch(self._hear_bytes)

    async def slow(self) -> None:
        """Open the streams, and leave what comes after the first bytes where it is."""
        await self._watch(lambda _now, _content: None, _SLOW_WINDOW)

    async def real(self) -> None:
        """Watch until cancelled, as a program does."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._address, options) as channel:
            stub = job_service_pb2_grpc.JobServiceStub(channel)
            await asyncio.gather(*(self._stream(stub, job) for job in self._jobs))

    async def _watch(self, heard: Heard, window: int | None = None) -> None:
        """Streams over connections of this process's own."""
        loop, where = asyncio.get_running_loop(), urlsplit(f"//{self._address}")
        receivers = list[Receiver]()
        options = {} if window is None else {"window": window}
        for place, job in enumerate(self._jobs):
            if place % _STREAMS_PER_CONNECTION == 0:
                made = await loop.create_connection(
                    lambda: Receiver(WATCH_JOB, heard, **options), where.hostname, where.port
                )
                receivers.append(made[1])
            receivers[-1].ask(WatchJobRequest(name=job).SerializeToString())
            await asyncio.sleep(_BETWEEN_SECONDS)
        if window is not None:
            self.all_ready.set()
        await asyncio.gather(*(receiver.broken for receiver in receivers))

    async def _stream(self, stub: job_service_pb2_grpc.JobServiceStub, job: str) -> None:
        async for message in stub.WatchJob(WatchJobRequest(name=job)):
            self._hear(time.time(), message)

    def _hear_bytes(self, now: float, content: bytes) -> None:
        self._hear(now, WatchJobResponse.FromString(content))

    def _hear(self, now: float, message: WatchJobResponse) -> None:
        if message.HasField("snapshot"):
            self._coming -= 1
            if self._coming == 0:
                self.all_ready.set()
        if message.HasField("progress"):
            self.heard.append((now, now - message.progress.downloaded_bytes / 1e6))


async def main() -> None:
    """Watch until SIGTERM; then write what was heard."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("jobs", type=Path, help="JSON: [name, …], one stream for each")
    parser.add_argument("told", type=Path, help="where to write: made empty when all streams stand")
    parser.add_argument("kind", choices=("light", "real", "slow"))
    asked = parser.parse_args()
    watchers = Watchers(asked.address, json.loads(asked.jobs.read_text()))
    kinds = {"light": watchers.light, "real": watchers.real, "slow": watchers.slow}
    watching = asyncio.create_task(kinds[asked.kind]())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)
    await asyncio.wait(
        [watching, asyncio.create_task(watchers.all_ready.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    asked.told.touch()
    await asyncio.wait([watching])
    asked.told.write_text(json.dumps(watchers.heard))
    if not watching.cancelled() and (error := watching.exception()):
        raise error


if __name__ == "__main__":
    uvloop.run(main())
