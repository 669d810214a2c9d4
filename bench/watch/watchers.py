"""Watcher process: a stream for each job in a file; writes the latency of each message.

There are three kinds: ``light`` ones, which cost the machine next to nothing; ``real`` ones, grpc.aio
clients as in a program; and ``slow`` ones, which stop reading after the first kilobyte.
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

from bench.watch.http2_receiver import Http2Receiver, MessageHandler
from reelhaul.jobs.v1 import job_service_pb2_grpc
from reelhaul.jobs.v1.job_service_pb2 import WatchJobRequest, WatchJobResponse

_WATCH_JOB = "/reelhaul.jobs.v1.JobService/WatchJob"
# Browser tabs and services each have their own connection; one with all streams would not be typical.
_STREAMS_PER_CONNECTION = 50
# Between opening streams, so that their first snapshots do not come all at once.
_OPEN_INTERVAL = 0.002
_SLOW_WINDOW = 1024


class Watchers:
    """All streams of this process and the latencies of their messages."""

    def __init__(self, address: str, jobs: list[str]) -> None:
        self._address, self._jobs = address, jobs
        #: Arrival time (seconds since the epoch) and latency in seconds of each message.
        self.latencies: list[tuple[float, float]] = []
        self.all_open = asyncio.Event()
        self._missing_snapshots = len(jobs)

    async def watch_light(self) -> None:
        """Watch with Http2Receiver until cancelled."""
        await self._watch(lambda now, content: self._record(now, WatchJobResponse.FromString(content)))

    async def watch_slow(self) -> None:
        """Open the streams and stop reading after the first kilobyte of each."""
        await self._watch(lambda _now, _content: None, _SLOW_WINDOW)

    async def watch_real(self) -> None:
        """Watch with grpc.aio until cancelled."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._address, options) as channel:
            stub = job_service_pb2_grpc.JobServiceStub(channel)
            await asyncio.gather(*(self._watch_job(stub, job) for job in self._jobs))

    async def _watch(self, handler: MessageHandler, window: int | None = None) -> None:
        loop, url = asyncio.get_running_loop(), urlsplit(f"//{self._address}")
        receivers = list[Http2Receiver]()
        options = {} if window is None else {"window": window}
        for index, job in enumerate(self._jobs):
            if index % _STREAMS_PER_CONNECTION == 0:
                _, receiver = await loop.create_connection(
                    lambda: Http2Receiver(_WATCH_JOB, handler, **options), url.hostname, url.port
                )
                receivers.append(receiver)
            receivers[-1].open_stream(WatchJobRequest(name=job).SerializeToString())
            await asyncio.sleep(_OPEN_INTERVAL)
        if window is not None:
            self.all_open.set()
        await asyncio.gather(*(receiver.closed for receiver in receivers))

    async def _watch_job(self, stub: job_service_pb2_grpc.JobServiceStub, job: str) -> None:
        async for message in stub.WatchJob(WatchJobRequest(name=job)):
            self._record(time.time(), message)

    def _record(self, now: float, message: WatchJobResponse) -> None:
        if message.HasField("snapshot"):
            self._missing_snapshots -= 1
            if self._missing_snapshots == 0:
                self.all_open.set()
        if message.HasField("progress"):
            # The publisher puts the time of publication there.
            self.latencies.append((now, now - message.progress.downloaded_bytes / 1e6))


async def main() -> None:
    """Watch until SIGTERM; then write the latencies."""
    parser = argparse.ArgumentParser(prog="python -m bench.watch.watchers")
    parser.add_argument("address", help="address of the server")
    parser.add_argument("jobs", type=Path, help="JSON: [name, …], one stream for each")
    parser.add_argument("output", type=Path, help="file for the latencies; created when all streams are open")
    parser.add_argument("kind", choices=("light", "real", "slow"))
    arguments = parser.parse_args()
    watchers = Watchers(arguments.address, json.loads(arguments.jobs.read_text()))
    kinds = {"light": watchers.watch_light, "real": watchers.watch_real, "slow": watchers.watch_slow}
    task = asyncio.create_task(kinds[arguments.kind]())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await asyncio.wait(
        [task, asyncio.create_task(watchers.all_open.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    arguments.output.touch()
    await asyncio.wait([task])
    arguments.output.write_text(json.dumps(watchers.latencies))
    if not task.cancelled() and (error := task.exception()):
        raise error


if __name__ == "__main__":
    uvloop.run(main())
